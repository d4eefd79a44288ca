"""What the figures share: seeds on devices, tables, and small PNG files."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core.types import Array
from mbrl_jax.train.sweep import place


def share(seeds: int) -> int:
    """The largest number of devices that divides the seeds."""
    return max(n for n in range(1, jax.device_count() + 1) if seeds % n == 0)


def keys(seeds: int, first: int = 0) -> Array:
    """The keys [seeds] of the seeds from `first` on, divided among devices."""
    return place(jax.vmap(jax.random.key)(first + jnp.arange(seeds)), share(seeds))


def compiled(fn: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], float]:
    """`fn` compiled for these arguments, and the seconds of compilation."""
    start = time.perf_counter()
    ready = jax.jit(fn).lower(*args).compile()
    return ready, time.perf_counter() - start


def timed(fn: Callable[..., Any], *args: Any) -> tuple[Any, tuple[float, float]]:
    """The result of `fn` as NumPy arrays; its seconds of wall-clock, and of CPU time over all threads."""
    start, busy = time.perf_counter(), time.process_time()
    result = jax.tree.map(np.asarray, fn(*args))
    return result, (time.perf_counter() - start, time.process_time() - busy)


def mean_and_error(values: Any, axis: int = 0) -> tuple[Any, Any]:
    """Mean over the seeds and its standard error, 0 for one seed."""
    values = np.asarray(values, np.float64)
    n = values.shape[axis]
    deviation = values.std(axis, ddof=1) if n > 1 else np.zeros(np.delete(values.shape, axis))
    return values.mean(axis), deviation / np.sqrt(n)


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a CSV table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table, words aligned left and numbers right."""
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    right = [not isinstance(cell, str) or cell[:1].isdigit() for cell in rows[0]]
    print(f"\n{title}")
    for row in text:
        cells = zip(row, widths, right, strict=True)
        print("  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in cells).rstrip())


def canvas(columns: int, width: float = 8.0, height: float = 5.0, lines: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with its panels side by side, in as many lines."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def band(axes: Axes, x: Any, scores: np.ndarray, colour: int, label: str, dash: str = "-") -> None:
    """The mean over seeds [N, T] as a line, its 95 % interval (1.96 standard errors) as a band."""
    middle, error = mean_and_error(scores)
    axes.fill_between(x, middle - 1.96 * error, middle + 1.96 * error, color=COLOURS[colour], alpha=0.25, linewidth=0)
    axes.plot(x, middle, dash, color=COLOURS[colour], linewidth=1.8, label=label)


def save(path: Path, figure: Figure) -> None:
    """The figure as a PNG of 256 colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(120)
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    file = io.BytesIO()
    Image.fromarray(np.array(drawn.buffer_rgba())[..., :3]).quantize(256).save(file, format="png", optimize=True)
    path.write_bytes(file.getvalue())
