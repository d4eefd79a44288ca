"""Pictures of mazes: walls, values as colours, greedy actions as arrows, and paths."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from PIL import Image

from mbrl_jax.envs.maze import MOVES

WALL, FREE, LINES, INK = "#2b2b33", "#ffffff", "#00000026", "#111111"
START, GOAL, PATH = "#0072B2", "#009E73", "#0072B2"


class Panel(NamedTuple):
    """One maze of a picture; cells are numbered row * W + column."""

    walls: Any  # [H, W] bool
    start: tuple[int, int]  # row, column
    goal: tuple[int, int]
    values: Any = None  # [S] values of the cells, shown as colours; None for white
    policy: Any = None  # [S] actions, or [S, A] probabilities
    q: Any = None  # [S, A] action values, drawn as their greedy policy
    path: Any = None  # [T] cells
    title: str = ""


def greedy_moves(q: Any, tolerance: float = 1e-5) -> np.ndarray:
    """The greedy actions of every state.

    Args:
      q: [S, A] action values.
      tolerance: action values this far below the best count as best.
    Returns:
      [S, A] bool; all False in states whose action values are all equal.
    """
    q = np.asarray(q)
    best = q >= q.max(-1, keepdims=True) - tolerance
    return best & ~best.all(-1, keepdims=True)


def draw_maze(
    walls: Any,
    start: tuple[int, int],
    goal: tuple[int, int],
    values: Any = None,
    policy: Any = None,
    q: Any = None,
    path: Any = None,
    axes: Axes | None = None,
    title: str = "",
    limits: tuple[float, float] | None = None,
    moves: Sequence[tuple[int, int]] = MOVES,
) -> Axes:
    """Draws one maze: dark walls, cells coloured by value, arrows for the best actions, S and G at start and goal.

    Start and goal have colours of their own; walls and the goal have no arrows.

    Args:
      walls: [H, W] bool.
      start: row and column, from 0 at the top left.
      goal: row and column.
      values: [S], S = H W in row-major order; None leaves the cells white.
      policy: [S] actions; or [S, A] probabilities, drawn where above 0 and not uniform.
      q: [S, A] action values, whose greedy actions are drawn; not together with a policy.
      path: [T] cells, drawn as a line through their centres.
      axes: to draw on; None creates a figure.
      title: above the maze.
      limits: values of the lightest and the darkest colour; None for the minimum and maximum shown.
      moves: [A] rows and columns moved by each action.
    Returns:
      the axes, with the walls and, given values, the colours (masked in walls and goal) as their images.
    Raises:
      ValueError: sizes that do not match, or both a policy and action values.
    """
    walls = np.asarray(walls, bool)
    height, width = walls.shape
    blank = walls.copy()
    blank[goal] = True
    arrows = _arrows(policy, q, walls.size, len(moves)) & ~blank.reshape(-1, 1)
    if axes is None:
        axes = _figure(1, 1, height, width, bar=False)[1][0]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(walls, cmap=ListedColormap([FREE, WALL]), vmin=0, vmax=1, interpolation="nearest", extent=extent)
    norm, shown = Normalize(0, 1), None
    if values is not None:
        shown = np.ma.array(_sized("values", values, (walls.size,)).reshape(walls.shape), mask=blank)
        norm = Normalize(*(limits or _limits([shown])))
        axes.imshow(shown, cmap=colours(), norm=norm, interpolation="nearest", extent=extent)
    _grid(axes, height, width)
    if path is not None:
        rows, columns = np.divmod(np.asarray(path), width)
        axes.plot(columns, rows, color=PATH, linewidth=3.5, alpha=0.6, solid_capstyle="round", zorder=3)
    if arrows.any():
        light = np.zeros(walls.shape, bool) if shown is None else _is_dark(shown.data, norm)
        light[start] = True
        _draw_arrows(axes, arrows, np.asarray(moves), light)
    _mark(axes, "S", start, START, corner=bool(arrows[start[0] * width + start[1]].any()))
    _mark(axes, "G", goal, GOAL, corner=False)
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    axes.set_title(title, fontsize=12)
    for spine in axes.spines.values():
        spine.set(color=WALL, linewidth=1.2)
    return axes


def draw_mazes(
    panels: Sequence[Panel],
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
    bar: str | None = "value",
    moves: Sequence[tuple[int, int]] = MOVES,
) -> bytes:
    """A PNG of several mazes with a common colour scale.

    Args:
      panels: at least one.
      columns: panels per row; None for all of them, up to 3.
      limits: as in `draw_maze`; None for the minimum and maximum over all panels.
      bar: label of the colour bar; None, or no values in any panel, for no bar.
      moves: as in `draw_maze`.
    Returns:
      the PNG's bytes.
    Raises:
      ValueError: nothing to draw, `columns` below 1, or as `draw_maze`.
    """
    if not panels:
        raise ValueError("a picture needs at least one panel")
    columns = min(3, len(panels)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    height, width = np.max([np.shape(panel.walls) for panel in panels], axis=0)
    shown = [_visible(panel) for panel in panels if panel.values is not None]
    bar = bar if shown else None
    limits = limits or (_limits(shown) if shown else None)
    rows = math.ceil(len(panels) / columns)
    figure, places = _figure(rows, columns, int(height), int(width), bar is not None)
    for axes, panel in zip(places, panels, strict=False):
        draw_maze(*panel[:7], axes=axes, title=panel.title, limits=limits, moves=moves)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    if bar is not None and limits is not None:
        scale = ScalarMappable(Normalize(*limits), colours())
        drawn = figure.colorbar(scale, ax=places, label=bar, fraction=0.04, pad=0.02, aspect=28)
        drawn.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return _png(figure)


def colours() -> Colormap:
    """The colour map of values: the lighter part of magma, from cream to purple, perceptually uniform."""
    return ListedColormap(colormaps["magma_r"](np.linspace(0.0, 0.72, 256)), "maze")


def _figure(rows: int, columns: int, height: int, width: int, bar: bool) -> tuple[Figure, list[Axes]]:
    """A figure for rows x columns mazes, with cells of at most 0.42 inches that fit into 11 inches of width."""
    cell = min(0.42, 11.0 / (columns * width), 9.0 / (rows * height))
    size = columns * (cell * width + 0.3) + 0.9 * bar, rows * (cell * height + 0.45)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours: a third of the bytes, without a visible difference.

    The colours of start and goal are too rare for a palette by frequency, so they are added to it.
    """
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(130)
    canvas.draw()
    file = io.BytesIO()
    pixels = np.array(canvas.buffer_rgba())[..., :3]
    frequent = Image.fromarray(pixels).quantize(240).getpalette() or []
    shares = np.linspace(1.0, 0.25, 4)[:, None]  # the letters' edges are mixtures with white
    rare = [share * np.array([to_rgb(mark)]) + (1 - share) for mark in (START, GOAL) for share in shares]
    rare = np.round(255 * np.concatenate([*rare, [to_rgb(WALL), to_rgb(FREE)]])).astype(int)
    palette = np.concatenate([rare, np.reshape(frequent[: 3 * 240], (-1, 3))])
    # Pillow's own search for the nearest colour is so coarse that it turns white into grey.
    seen, places = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    difference = np.stack([seen >> 16, seen >> 8 & 255, seen & 255], -1)[:, None] - palette
    image = Image.fromarray(np.square(difference).sum(-1).argmin(-1).astype(np.uint8)[places].reshape(pixels.shape[:2]))
    image.putpalette(palette.reshape(-1).tolist())
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def _arrows(policy: Any, q: Any, states: int, actions: int) -> np.ndarray:
    """[S, A] bool: the actions to draw."""
    if policy is not None and q is not None:
        raise ValueError("give policy or q, not both: the arrows are of one of them")
    if q is not None:
        return greedy_moves(_sized("q", q, (states, actions)))
    if policy is None:
        return np.zeros((states, actions), bool)
    if np.ndim(policy) == 1:
        return np.eye(actions, dtype=bool)[_sized("policy", policy, (states,))]
    policy = _sized("policy", policy, (states, actions))
    return (policy > 0) & (np.ptp(policy, axis=-1, keepdims=True) > 1e-6)


def _sized(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{name} must be {list(shape)} for this maze, got {list(array.shape)}")
    return array


def _visible(panel: Panel) -> np.ma.MaskedArray:
    """[S] the values of the cells that are coloured."""
    hidden = np.array(panel.walls, bool)
    hidden[panel.goal] = True
    return np.ma.array(_sized("values", panel.values, (hidden.size,)), mask=hidden.reshape(-1))


def _limits(shown: Sequence[np.ma.MaskedArray]) -> tuple[float, float]:
    """The minimum and the maximum of the values, never equal."""
    low, high = min(float(x.min()) for x in shown), max(float(x.max()) for x in shown)
    return (low, high) if high > low else (low, low + 1.0)


def _is_dark(value: Any, norm: Normalize) -> np.ndarray:
    """Whether text on the colours of these values must be light (luma below 0.46)."""
    rgba = np.asarray(colours()(norm(value)))
    return rgba[..., :3] @ (0.299, 0.587, 0.114) < 0.46


def _grid(axes: Axes, height: int, width: int) -> None:
    across = [[(-0.5, y - 0.5), (width - 0.5, y - 0.5)] for y in range(1, height)]
    down = [[(x - 0.5, -0.5), (x - 0.5, height - 0.5)] for x in range(1, width)]
    axes.add_collection(LineCollection(across + down, colors=LINES, linewidths=0.5, zorder=1.5), autolim=False)


def _draw_arrows(axes: Axes, arrows: np.ndarray, moves: np.ndarray, light: np.ndarray) -> None:
    """A single arrow runs through the middle of its cell; several start near it."""
    state, action = np.nonzero(arrows)
    row, column = np.divmod(state, light.shape[1])
    single = arrows.sum(-1)[state] == 1
    begin, length = np.where(single, -0.32, 0.06), np.where(single, 0.64, 0.36)
    dy, dx = moves[action].T
    axes.quiver(
        column + begin * dx, row + begin * dy, length * dx, length * dy,
        angles="xy", scale_units="xy", scale=1, units="xy", width=0.075, headwidth=3.6, headlength=3.2,
        headaxislength=2.9, minlength=0, color=np.where(light[row, column], FREE, INK), zorder=4,
    )  # fmt: skip


def _mark(axes: Axes, letter: str, cell: tuple[int, int], colour: str, corner: bool) -> None:
    """A coloured cell with a letter, a path that scales with the cell; in a corner if there are arrows."""
    row, column = cell
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, linewidth=0, zorder=3.5))
    shape = TextPath((0, 0), letter, size=0.42 if corner else 0.75)
    box = shape.get_extents()
    middle = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(1, -1)
    place = middle.translate(column - 0.29 * corner, row - 0.28 * corner)
    axes.add_patch(PathPatch(place.transform_path(shape), facecolor=FREE, linewidth=0, zorder=5, gid=letter))
