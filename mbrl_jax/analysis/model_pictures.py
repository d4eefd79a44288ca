"""Pictures of what a model predicts: errors by horizon, calibration, and where it can be trusted."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from mbrl_jax.analysis import trust as trusts
from mbrl_jax.analysis.calibration import Calibration
from mbrl_jax.analysis.curves import COLOURS, DASHES
from mbrl_jax.analysis.model_error import Errors
from mbrl_jax.analysis.trust import Trust

GREY = "#777777"
MOST_LINES = 8
"""Entries and members that a panel shows at most."""


def errors_picture(errors: Mapping[str, Errors], title: str = "") -> bytes:
    """A PNG of errors by steps ahead: a row for each kind of prediction, beside baselines, by entry and by member.

    Args:
      errors: by kind, at least one.
      title: of the figure.
    """
    figure, panels = _figure(3, len(errors), 11.0, 3.1 * len(errors) + 0.4, title)
    for row, (kind, one) in zip(panels, errors.items(), strict=True):
        ahead = np.arange(1, len(one.rollouts) + 1)
        whole, entries, members = row
        whole.fill_between(ahead, one.quantiles[:, 0], one.quantiles[:, 2], color=COLOURS[0], alpha=0.15, linewidth=0)
        whole.plot(ahead, one.rollouts, color=COLOURS[0], linewidth=2, label="single rollouts, 10 to 90 % of starts")
        if not np.allclose(one.mean, one.rollouts, equal_nan=True):
            whole.plot(ahead, one.mean, "--", color=COLOURS[0], linewidth=1.4, label="mean of a start's rollouts")
        for i, (name, values) in enumerate(one.baselines.items()):
            whole.plot(ahead, values, DASHES[1 + i % 3], color=GREY, linewidth=1.4, label=name)
        top = np.nanmax([np.nanmax(one.quantiles[:, 2]), np.nanmax(one.rollouts), 1.0])
        whole.set_ylim(0, 1.15 * min(top, 1e6))  # a linear model that explodes leaves the picture
        whole.set_ylabel(f"error of the {kind} / spread")
        _lines(entries, ahead, one.entries, [f"{kind} {name}" if name != kind else name for name in one.names])
        entries.set_title("by entry", fontsize=9)
        if one.members.shape[1] > 1:
            _lines(members, ahead, one.members, [f"member {i}" for i in range(one.members.shape[1])])
            members.set_title("by member", fontsize=9)
        else:
            members.plot(ahead, one.starts, color=GREY)
            members.set_ylim(bottom=0)
            members.set_title("starts that last so long", fontsize=9)
        for axes in row[: 3 if one.members.shape[1] > 1 else 2]:
            axes.axhline(1.0, color=GREY, linestyle=":", linewidth=0.9)
        for axes in row:
            axes.set_xlabel("steps ahead")
        whole.legend(frameon=False, fontsize=7)
    return _png(figure)


def _lines(axes: Any, ahead: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
    """A line for each column, the worst ones where there are many."""
    last = np.nan_to_num(values).mean(axis=0)
    shown = sorted(np.argsort(-last, kind="stable")[:MOST_LINES])
    for i, column in enumerate(shown):
        dash = DASHES[i // len(COLOURS) % len(DASHES)]
        axes.plot(ahead, values[:, column], dash, color=COLOURS[i % len(COLOURS)], linewidth=1.3, label=names[column])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7, title="the worst" if len(names) > MOST_LINES else None, title_fontsize=7)


def compared_picture(runs: Mapping[str, Mapping[str, Errors]], title: str = "") -> bytes:
    """A PNG of the errors of several runs, a panel for each kind of prediction.

    Args:
      runs: label -> kind -> errors; not all runs need all kinds.
      title: of the figure.
    """
    kinds = list(dict.fromkeys(kind for one in runs.values() for kind in one))
    figure, ((*panels,),) = _figure(len(kinds), 1, 4.6 * len(kinds) + 0.2, 3.7, title)
    for axes, kind in zip(panels, kinds, strict=True):
        top = 1.0
        for i, (label, errors) in enumerate(runs.items()):
            if kind not in errors:
                continue
            one, colour = errors[kind], COLOURS[i % len(COLOURS)]
            ahead = np.arange(1, len(one.rollouts) + 1)
            axes.plot(ahead, one.rollouts, color=colour, linewidth=2, label=label)
            axes.plot(ahead, one.baselines["persistence"], ":", color=colour, linewidth=1.1)
            top = max(top, float(np.nanmax(one.rollouts)), float(np.nanmax(one.baselines["persistence"])))
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=0.8)
        axes.set_ylim(0, 1.1 * min(top, 1e6))
        axes.set_xlabel("steps ahead (dotted: persistence)")
        axes.set_ylabel(f"error of the {kind} / spread")
        axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def calibration_picture(
    found: Mapping[str, Calibration], bins: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = ""
) -> bytes:
    """A PNG of coverage against level, and of errors against predicted standard deviations.

    Args:
      found: by label, at least one.
      bins: by label, as `calibration.variance_bins` gives them.
      title: of the figure.
    """
    figure, ((left, right),) = _figure(2, 1, 9.6, 4.0, title)
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.9)
    for i, (label, one) in enumerate(found.items()):
        left.plot(one.levels, one.coverage, color=COLOURS[i % len(COLOURS)], marker="o", markersize=3.5, label=label)
        wide, off = bins[label]
        keep = (wide > 0) & (off > 0)
        right.plot(wide[keep], off[keep], color=COLOURS[i % len(COLOURS)], marker="o", markersize=3.5, label=label)
    left.set(xlabel="level of the central interval", ylabel="share of what happened inside it")
    left.set(xlim=(0, 1), ylim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    right.set(xscale="log", yscale="log", xlabel="predicted standard deviation / spread", ylabel="error / spread")
    ends = np.array([*right.get_xlim(), *right.get_ylim()])
    right.plot([ends.min(), ends.max()], [ends.min(), ends.max()], color=GREY, linestyle="--", linewidth=0.9)
    right.set_title("above the line: too sure; below it: too cautious", fontsize=9)
    return _png(figure)


def trust_picture(found: Trust, distance: np.ndarray | None = None, title: str = "") -> bytes:
    """A PNG of error by disagreement, and of both over the plane of the two entries that move most.

    Args:
      found: of N predictions.
      distance: [N] to the data, None where it is not known.
      title: of the figure.
    """
    figure, ((curve, *maps),) = _figure(3, 1, 12.0, 3.9, title)
    for i, name in enumerate(found.sources):
        mine = found.source == i
        curve.plot(
            found.disagreement[mine], found.error[mine], ".", color=COLOURS[i], markersize=3, alpha=0.35, label=name
        )
    apart, off, _ = trusts.by_quantile(found.disagreement, found.error)
    curve.plot(apart, off, color="black", marker="o", markersize=4, label="tenths, by disagreement")
    lowest = min((x[x > 0].min() for x in (found.disagreement, found.error) if (x > 0).any()), default=1e-6)
    highest = max(found.disagreement.max(), found.error.max(), 2 * lowest)
    curve.plot([lowest, highest], [lowest, highest], "--", color=GREY, linewidth=0.9)
    curve.set(xscale="log", yscale="log", xlabel="disagreement / spread", ylabel="error / spread")
    related = f"rank correlation {found.correlation:.2f}"
    if distance is not None:
        related += f", of the distance to the data {trusts.rank_correlation(distance, found.error):.2f}"
    curve.set_title(related, fontsize=9)
    curve.legend(frameon=False, fontsize=7)
    a, b = trusts.moving_entries(found.place)
    norm = LogNorm(lowest, highest)
    for axes, values, what in zip(maps, (found.disagreement, found.error), ("disagreement", "error"), strict=True):
        x, y, mean = trusts.cells(found.place[:, a], found.place[:, b], np.log(np.maximum(values, lowest)))
        axes.pcolormesh(x, y, np.exp(mean).T, norm=norm, cmap="viridis")
        axes.set(xlabel=f"o[{a}]", ylabel=f"o[{b}]")
        axes.set_title(f"{what} / spread", fontsize=9)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=maps)
    return _png(figure)


def _figure(columns: int, lines: int, width: float, height: float, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure, panels


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
