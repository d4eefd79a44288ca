"""Films: GIF files written with Pillow, MP4 files with ffmpeg."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mbrl_jax.train.log import write_atomic

MOST_FPS = 50
"""Frames a second: a GIF counts in hundredths, and programs show shorter ones more slowly."""


KINDS = (".gif", ".mp4")


def write_film(path: Path | str, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 25.0) -> None:
    """Writes frames as a GIF or as an MP4 file, by the path's ending.

    Args:
      path: of the file; what is there is replaced.
      frames, fps: as for `write_gif`.
    Raises:
      ValueError: as `write_gif` and `need_ending` do.
    """
    need_ending(path)
    (write_gif if Path(path).suffix == ".gif" else write_mp4)(path, frames, fps)


def need_ending(path: Path | str) -> None:
    """Checks that a film of this name can be written.

    Args:
      path: of the file.
    Raises:
      ValueError: it ends in none of `KINDS`, or in .mp4 and imageio-ffmpeg is not installed.
    """
    if Path(path).suffix not in KINDS:
        raise ValueError(f"--video must end in {' or '.join(KINDS)}, got {path}")
    if Path(path).suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError("--video: an .mp4 needs imageio-ffmpeg: pip install 'mbrl_jax[video]'")


def write_mp4(path: Path | str, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 25.0) -> None:
    """Writes frames as an MP4 file (H.264); an odd width or height gets one more column or row.

    Args:
      path: of the file; what is there is replaced.
      frames, fps: as for `write_gif`.
    Raises:
      ValueError: as `write_gif` does.
    """
    _check(frames, fps)
    import imageio_ffmpeg  # pyright: ignore[reportMissingImports]

    height, width, _ = np.shape(frames[0])
    even = ((0, height % 2), (0, width % 2), (0, 0))
    unfinished = Path(path).with_name(f".{Path(path).name}.mp4")
    size = (width + width % 2, height + height % 2)
    writer = imageio_ffmpeg.write_frames(str(unfinished), size, fps=fps, macro_block_size=1, quality=8)
    try:
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(np.pad(frame, even, mode="edge")))
        writer.close()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_gif(path: Path | str, frames: Sequence[np.ndarray] | np.ndarray, fps: float = 25.0) -> None:
    """Writes frames as a GIF that repeats for ever; equal frames in a row become one that lasts longer.

    Args:
      path: of the file; what is there is replaced.
      frames: [T, H, W, 3] uint8, or a sequence of [H, W, 3] of one size; at least one.
      fps: frames a second, above 0 and at most `MOST_FPS`.
    Raises:
      ValueError: there are no frames, one is of another form or size, or a rate out of its range.
    """
    _check(frames, fps)
    from PIL import Image

    first, *rest = (Image.fromarray(np.asarray(frame)).quantize(256, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    write_atomic(Path(path), file.getvalue())


def _check(frames: Sequence[np.ndarray] | np.ndarray, fps: float) -> None:
    if not 0 < fps <= MOST_FPS:
        raise ValueError(f"fps must be above 0 and at most {MOST_FPS}, got {fps:g}")
    if len(frames) == 0:
        raise ValueError("a film needs at least one frame")
    shape = np.shape(frames[0])
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise ValueError(f"frames must be uint8 [H, W, 3] of one size, got {frame.dtype}{list(frame.shape)}")
