"""Films as GIF files, written with Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mbrl_jax.train.log import write_atomic

MOST_FPS = 50
"""Frames a second: a GIF counts in hundredths, and programs show shorter ones more slowly."""


def write_gif(path: Path | str, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 25.0) -> None:
    """Writes frames as a GIF that repeats for ever; equal frames in a row become one that lasts longer.

    Args:
      path: of the file; what is there is replaced.
      frames: [T, H, W, 3] uint8, or a sequence of [H, W, 3] of one size; at least one.
      fps: frames a second, above 0 and at most `MOST_FPS`.
    Raises:
      ValueError: there are no frames, one is of another form or size, or a rate out of its range.
    """
    if not 0 < fps <= MOST_FPS:
        raise ValueError(f"fps must be above 0 and at most {MOST_FPS}, got {fps:g}")
    if len(frames) == 0:
        raise ValueError("a film needs at least one frame")
    shape = np.shape(frames[0])
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise ValueError(f"frames must be uint8 [H, W, 3] of one size, got {frame.dtype}{list(frame.shape)}")
    from PIL import Image

    first, *rest = (Image.fromarray(np.asarray(frame)).quantize(256, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    write_atomic(Path(path), file.getvalue())
