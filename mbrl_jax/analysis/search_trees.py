"""Drawings of search trees: visits as size, values as colour, priors beside the edges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

INK, FAINT = "#222222", "#00000055"


Nodes = Any
"""A tree as a list of nodes, the root first and parents before children, as `planners.mcts.nodes` gives it: arrays [n]
`parent` (-1 for the root), `action` taken at the parent, `depth`, `visits`, `q`, the value of the edge into a node (the
root's own), and `prior` of that edge."""


def most_visited(tree: Nodes, most: int) -> np.ndarray:
    """Indices [m] of the `most` nodes with most visits, the root first and parents before their children."""
    order = np.argsort(-tree.visits, kind="stable")
    return np.sort(order[:most])  # a parent has at least as many visits as its child, and a lower index


def layout(parent: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Positions [n, 2] of nodes: leaves side by side in the order of the tree, parents centred above their children.

    Args:
      parent: [n] index of the parent, lower than the child's; -1 for the root.
      depth: [n].
    """
    children: list[list[int]] = [[] for _ in parent]
    for place, above in enumerate(parent):
        if above >= 0:
            children[above].append(place)
    x, leaves, waiting = np.zeros(len(parent)), 0, [0]
    while waiting:  # depth first, so that no branch crosses another
        place = waiting.pop()
        if not children[place]:
            x[place], leaves = leaves, leaves + 1
        waiting += reversed(children[place])
    for place in range(len(parent) - 1, -1, -1):
        if children[place]:
            x[place] = np.mean([x[child] for child in children[place]])
    return np.stack([x, -depth], 1)


def draw_tree(
    path: Path | str,
    tree: Nodes,
    most: int = 40,
    actions: Sequence[str] | None = None,
    priors: bool = True,
    title: str = "",
) -> None:
    """Draws the most visited part of a search tree.

    Args:
      path: PNG to write.
      tree: the tree.
      most: number of nodes drawn, at least 2.
      actions: names of the actions; their numbers if None.
      priors: whether to write priors beside the edges; for planners whose priors are probabilities.
      title: above the picture.
    Raises:
      ValueError: `most` is below 2, or the tree has no node but its root.
    """
    if most < 2 or len(tree.parent) < 2:
        raise ValueError(f"most and the number of nodes must be at least 2, got {most} and {len(tree.parent)}")
    shown = most_visited(tree, most)
    place = {int(node): i for i, node in enumerate(shown)}
    parent = np.array([place.get(int(above), -1) for above in tree.parent[shown]])
    at = layout(parent, tree.depth[shown])
    leaves = 1 + at[:, 0].max()
    figure = Figure(figsize=(max(6.0, 0.62 * leaves + 1.6), 1.35 * (1 - at[:, 1].min()) + 0.6), dpi=110)
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    q, visits = tree.q[shown], tree.visits[shown]
    low, high = float(q.min()), float(max(q.max(), q.min() + 1e-6))
    colour = ScalarMappable(Normalize(low, high), colormaps["viridis"])
    for i in range(1, len(shown)):
        (x0, y0), (x1, y1) = at[parent[i]], at[i]
        axes.plot([x0, x1], [y0, y1], color=FAINT, linewidth=0.6 + 3.5 * visits[i] / visits[0], zorder=1)
        action = int(tree.action[shown[i]])
        words = actions[action] if actions is not None else str(action)
        note = f"{words}\n{tree.prior[shown[i]]:.2f}" if priors else words
        # Nearer to the child, where edges are further apart.
        axes.text(
            x0 + 0.6 * (x1 - x0), y0 + 0.6 * (y1 - y0), note, fontsize=6.5, ha="center", va="center", color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}, zorder=2,
        )  # fmt: skip
    size = 90 + 700 * np.sqrt(visits / visits[0])
    axes.scatter(at[:, 0], at[:, 1], s=size, c=colour.to_rgba(q), edgecolors=INK, linewidths=0.6, zorder=3)
    for (x, y), n, value in zip(at, visits, q, strict=True):
        dark = (value - low) / (high - low) < 0.55
        axes.text(x, y, str(n), fontsize=6.5, ha="center", va="center", color="white" if dark else INK, zorder=4)
    axes.set_xlim(-0.8, leaves - 0.2)
    axes.set_ylim(at[:, 1].min() - 0.45, 0.45)
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    figure.colorbar(colour, ax=axes, shrink=0.6, pad=0.01, label="value of the action, for the player who takes it")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
