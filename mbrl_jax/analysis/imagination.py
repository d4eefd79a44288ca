"""Pictures of open-loop predictions beside the real episode: vectors as curves, planes and images as frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

REAL, REBUILT, IMAGINED = "#222222", "#0072b2", "#d55e00"
PLANES = np.array(
    [[0.84, 0.37, 0.0], [0.0, 0.45, 0.7], [0.0, 0.62, 0.45], [0.8, 0.47, 0.65], [0.94, 0.89, 0.26], [0.34, 0.71, 0.91]]
)
"""Colours of planes, in order."""


def picture(
    real: np.ndarray,
    rebuilt: np.ndarray,
    imagined: np.ndarray,
    title: str = "",
    columns: int = 12,
    labels: Sequence[str] = (),
) -> bytes:
    """A PNG of an episode, its reconstruction, and the model's open-loop predictions after its first observations.

    Args:
      real: [T, ...] observations: vectors [D], planes of zeros and ones or an image [height, width, channels].
      rebuilt: [T, ...] reconstructions of the same kind.
      imagined: [N, T - context, ...] N predicted rollouts of the same kind, T - context at least 1.
      title: title of the figure.
      columns: largest number of frames in a row.
      labels: names of a vector's entries; "o[0]", "o[1]", ... by default.
    Returns:
      the file's bytes.
    """
    check_shapes(real, rebuilt, imagined)
    figure = _curves(real, rebuilt, imagined, labels) if real.ndim == 2 else _frames(real, rebuilt, imagined, columns)
    figure.suptitle(title, fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def check_shapes(real: np.ndarray, rebuilt: np.ndarray, imagined: np.ndarray) -> None:
    """Checks that the three arrays have shapes of one episode of vectors or frames.

    Args:
      real: [T, D] vectors, or [T, height, width, channels] frames.
      rebuilt: like `real`.
      imagined: [N, H, ...] N predicted rollouts of the last H steps, H from 1 to T - 1.
    Raises:
      ValueError: they do not.
    """
    if real.ndim not in (2, 4) or rebuilt.shape != real.shape or imagined.shape[2:] != real.shape[1:]:
        shapes = f"{real.shape}, {rebuilt.shape} and {imagined.shape}"
        raise ValueError(f"real, rebuilt and imagined must be [T, ...], [T, ...] and [N, H, ...], got {shapes}")
    if not 0 < imagined.shape[1] < real.shape[0]:
        raise ValueError(f"imagined steps must be from 1 to {real.shape[0] - 1}, got {imagined.shape[1]}")


def rgb(frames: np.ndarray, image: bool) -> np.ndarray:
    """Frames [..., height, width, channels] as RGB in [0, 1]; planes are overlaid on white.

    Args:
      frames: values in [0, 255] of images, or probabilities in [0, 1] of planes.
      image: whether they are images of one or three channels.
    """
    if image:
        scaled = np.clip(frames / 255.0, 0, 1)
        return np.repeat(scaled, 3, -1) if frames.shape[-1] == 1 else scaled[..., :3]
    out = np.ones((*frames.shape[:-1], 3))
    for plane in range(frames.shape[-1]):
        share = np.clip(frames[..., plane, None], 0, 1)
        out = (1 - share) * out + share * PLANES[plane % len(PLANES)]
    return np.clip(out, 0, 1)  # rounding errors can leave the range


def animation(path: str, real: np.ndarray, rebuilt: np.ndarray, imagined: np.ndarray, title: str = "") -> None:
    """Writes a GIF: the episode, its reconstruction and the first predicted rollout, side by side.

    Args:
      path: the file to write.
      real, rebuilt, imagined: as in `picture`. Vectors are drawn as bars, one per entry.
      title: title of the figure.
    """
    check_shapes(real, rebuilt, imagined)
    context = real.shape[0] - imagined.shape[1]
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 3)
    rollout = np.concatenate([rebuilt[:context], imagined[0]])
    low, high = min(real.min(), rollout.min()), max(real.max(), rollout.max())

    def draw(t: int) -> list:
        figure.suptitle(f"{title}  step {t}", fontsize=10)
        names = ("real", "rebuilt", "imagined" if t >= context else "rebuilt: not imagining yet")
        for panel, name, frames in zip(panels, names, (real, rebuilt, rollout), strict=True):
            panel.clear()
            panel.set_title(name, fontsize=9)
            panel.set_xticks([])
            if real.ndim == 2:
                panel.bar(np.arange(real.shape[1]), frames[t], color=REAL if name == "real" else IMAGINED)
                panel.set_ylim(low, high)
            else:
                panel.imshow(rgb(frames[t], _is_image(real)), interpolation="nearest")
                panel.set_yticks([])
        return []

    FuncAnimation(figure, draw, frames=real.shape[0], blit=False).save(path, writer=PillowWriter(fps=5))


def _is_image(real: np.ndarray) -> bool:
    return real.dtype == np.uint8


def _curves(real: np.ndarray, rebuilt: np.ndarray, imagined: np.ndarray, labels: Sequence[str]) -> Figure:
    steps, entries = min(real.shape[0], 10_000), min(real.shape[1], 8)
    context = steps - imagined.shape[1]
    figure = Figure(figsize=(7.2, 0.6 + 1.35 * entries), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(entries, 1, sharex=True, squeeze=False)[:, 0]
    for i, panel in enumerate(panels):
        panel.plot(np.arange(context, steps), imagined[:, :, i].T, color=IMAGINED, alpha=0.5, linewidth=0.8)
        panel.plot(rebuilt[:, i], color=REBUILT, linewidth=1.0)
        panel.plot(real[:, i], color=REAL, linewidth=1.4)
        panel.axvline(context - 1, color="#999999", linestyle=":")
        panel.set_ylabel(labels[i] if labels else f"o[{i}]")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[-1].set_xlabel("step")
    lines = [panels[0].plot([], [], color=color)[0] for color in (REAL, REBUILT, IMAGINED)]
    panels[0].legend(lines, ["real", "rebuilt", "imagined"], ncols=3, fontsize=8, frameon=False, loc="best")
    return figure


def _frames(real: np.ndarray, rebuilt: np.ndarray, imagined: np.ndarray, columns: int) -> Figure:
    steps, horizon = real.shape[0], imagined.shape[1]
    context = steps - horizon
    shown = np.unique(np.linspace(0, steps - 1, min(columns, steps)).round().astype(int))
    rollouts = min(len(imagined), 3)
    rows = 2 + rollouts
    figure = Figure(figsize=(0.9 * len(shown) + 1.0, 0.95 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(rows, len(shown), squeeze=False)
    image = _is_image(real)
    names = ["real", "rebuilt", *[f"imagined {i + 1}" for i in range(rollouts)]]
    for row, name in enumerate(names):
        for column, t in enumerate(shown):
            panel = panels[row, column]
            panel.set_xticks([])
            panel.set_yticks([])
            if row < 2:
                panel.imshow(rgb((real, rebuilt)[row][t], image), interpolation="nearest")
            elif t >= context:
                panel.imshow(rgb(imagined[row - 2, t - context], image), interpolation="nearest")
            else:
                panel.set_visible(column == 0)
                panel.set_frame_on(False)
            if row == 0:
                panel.set_title(str(t), fontsize=8)
            if column == 0:
                panel.set_ylabel(name, fontsize=8)
    return figure


def episode_picture(episode: Any, context: int, who: str, labels: tuple[str, ...] = ()) -> bytes | None:
    """An imagined episode beside the real one as a PNG, None where the episode is too short for it.

    Args:
      episode: as `agents.open_loop.imagine_episode` gives it.
      context: observations seen first.
      who: imagines where, for the title.
      labels: names of the observation's entries.
    """
    length = int(episode.length)
    if length <= context:
        return None
    real, rebuilt = np.asarray(episode.real)[:length], np.asarray(episode.rebuilt)[:length]
    title = f"{who}, {context} observations seen, {length - context} imagined"
    return picture(real, rebuilt, np.asarray(episode.imagined)[:, : length - context], title, labels=labels)
