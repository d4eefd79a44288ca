"""The trials of a sweep: ranked, as a table, and drawn over each setting."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mbrl_jax.analysis.statistics import bootstrap_interval, interquartile_mean, probability_of_improvement
from mbrl_jax.analysis.text import aligned
from mbrl_jax.train.log import RECENT, cell, write_atomic
from mbrl_jax.train.run_files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 25
"""Trials in the text table; the CSV has all."""

COLOUR, BEST, LOST, PRUNED = "#0072B2", "#D55E00", "#555555", "#999999"


class Trial(NamedTuple):
    """What a trial came to."""

    name: str  # of its folder
    values: dict[str, Any]  # of the settings that the sweep varies
    scores: np.ndarray  # [S'] of the seeds that did not diverge: mean return of the last `RECENT` evaluations
    seeds: int  # those that diverged included
    pruned: int | None = None  # environment steps after which it was ended, before its end

    @property
    def middle(self) -> float:
        """The interquartile mean over seeds, NaN where no seed has a score."""
        return float(interquartile_mean(self.scores)) if len(self.scores) else np.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of `middle`; NaN where there are fewer than two scores."""
        return bootstrap_interval(self.scores) if len(self.scores) > 1 else (np.nan, np.nan)


def read(folder: Path | str) -> list[Trial]:
    """The trials of a sweep that have come to their end or were pruned, in the order of their names.

    In a run without evaluation the score is the mean training return of the last chunks.

    Args:
      folder: of the sweep.
    Raises:
      ValueError: there is no sweep in the folder, or a file cannot be read.
    """
    folder = Path(folder)
    found, sweep = [], read_json(folder / "sweep.json")
    for name, values in sweep["trials"].items():
        path = folder / name / "summary.json"
        if not path.exists():
            continue
        told = read_json(path)
        short, ended = told["env_steps"] < sweep["asked"]["steps"], "ended" in told
        if short and not ended:  # stopped before its end
            continue
        evaluated = any(score is not None for score in told["recent_eval_return"])
        scores = told["recent_eval_return" if evaluated else "training_return"]
        kept = [x for x, fate in zip(scores, told["diverged"], strict=True) if fate is None and x is not None]
        pruned = told["env_steps"] if short else None
        found.append(Trial(name, values, np.asarray(kept, np.float64), told["seeds"], pruned))
    return found


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials from the best to the worst by their interquartile mean; those with diverged seeds come last.

    Pruned trials come after those that came to their end, the longest first.

    Args:
      trials: in any order.
    """

    def key(trial: Trial) -> tuple[int, bool, int, float]:
        middle = -trial.middle if len(trial.scores) else np.inf
        return trial.seeds - len(trial.scores), trial.pruned is not None, -(trial.pruned or 0), middle

    return sorted(trials, key=key)


def improvement(better: Any, worse: Any) -> float:
    """The probability that a seed of one trial scores above one of another; see `probability_of_improvement`.

    Args:
      better: [A] scores of the one.
      worse: [B] scores of the other.
    Returns:
      in [0, 1], NaN where one has no scores.
    """
    return probability_of_improvement(better, worse) if len(better) and len(worse) else np.nan


def _rows(order: Sequence[Trial]) -> tuple[list[str], list[list[Any]]]:
    """The table's head, and its rows as numbers and text."""
    names = list(order[0].values) if order else []
    head = ["rank", "trial", *names, "seeds", "diverged", "iqm", "low", "high", "better_than_next"]
    some = any(trial.pruned is not None for trial in order)
    head += ["pruned_at"] if some else []
    rows = []
    for i, trial in enumerate(order):
        after = order[i + 1] if i + 1 < len(order) and trial.pruned == order[i + 1].pruned else None  # of equal steps
        chance = np.nan if after is None else improvement(trial.scores, after.scores)
        values = [trial.values[name] for name in names]
        lost = trial.seeds - len(trial.scores)
        row = [i + 1, trial.name, *values, trial.seeds, lost, trial.middle, *trial.interval, chance]
        rows.append(row + [np.nan if trial.pruned is None else trial.pruned] * some)
    return head, rows


def as_csv(order: Sequence[Trial]) -> str:
    """The ranked trials as CSV: settings, interquartile mean, its interval, probability of improvement over the next.

    Where trials were pruned, `pruned_at` has the environment steps after which they were.

    Args:
      order: as `ranked` returns them.
    """

    def written(value: Any) -> str:
        if isinstance(value, list):
            return "x".join(map(str, value))
        if isinstance(value, bool | str):
            return str(value).lower() if isinstance(value, bool) else value
        return "" if isinstance(value, float) and np.isnan(value) else cell(value)

    file = io.StringIO()
    head, rows = _rows(order)
    csv.writer(file, lineterminator="\n").writerows([head, *([written(value) for value in row] for row in rows)])
    return file.getvalue()


def table(order: Sequence[Trial]) -> str:
    """The ranked trials as text, at most `MOST` of them.

    Args:
      order: as `ranked` returns them.
    """
    if not order:
        return "no trial has come to its end"
    _, rows = _rows(order)
    names = list(order[0].values)
    some = any(trial.pruned is not None for trial in order)
    last = ["status"] if some else []
    lines = [["rank", "trial", *names, "seeds", "IQM", "95% interval", "P(better than next)", *last]]
    for row, trial in zip(rows[:MOST], order, strict=False):
        seeds, lost, middle, low, high, chance = row[len(names) + 2 :][:6]
        status = "finished" if trial.pruned is None else f"pruned at {trial.pruned:,}"
        lines.append(
            [
                str(row[0]),
                row[1],
                *(_shown(value) for value in row[2:][: len(names)]),
                f"{seeds - lost} of {seeds}" if lost else str(seeds),
                "diverged" if np.isnan(middle) else f"{middle:.1f}",
                "-" if np.isnan(low) else f"{low:.1f} to {high:.1f}",
                "-" if np.isnan(chance) else f"{chance:.2f}",
                *([status] if some else []),
            ]
        )
    out = aligned(lines)
    if len(rows) > MOST:
        out.append(f"... and {len(rows) - MOST} more in table.csv")
    return "\n".join(out)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of a width, at least 6, and a height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, width), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    """A figure's PNG, the same for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def picture(order: Sequence[Trial], title: str) -> bytes:
    """A PNG of the return over each setting: a point for each trial with its interval, the best one in another colour.

    Args:
      order: as `ranked` returns them, at least one.
      title: of the picture.
    Returns:
      the PNG's bytes.
    """
    names = list(order[0].values)
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = _figure(4.2 * columns, 3.6 * lines + 0.6)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for i, panel in enumerate(panels.flat):
        if i >= len(names):
            panel.set_axis_off()
            continue
        _response(panel, order, names[i])
        if i % columns == 0:
            panel.set_ylabel(f"return, last {RECENT} evaluations\ninterquartile mean, 95% interval", fontsize=10)
    figure.suptitle(title, fontsize=13)
    marks = panels[0, 0].get_legend_handles_labels()
    unique = dict(zip(marks[1], marks[0], strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return _png(figure)


def _response(panel: Any, order: Sequence[Trial], name: str) -> None:
    """One setting's panel: numbers on an axis, logarithmic over wide spans; anything else side by side."""
    values = [trial.values[name] for trial in order]
    numbers = all(type(value) in (int, float) for value in values)
    labels = [] if numbers else sorted({_shown(value) for value in values})
    at = np.asarray(values if numbers else [labels.index(_shown(value)) for value in values], np.float64)
    bottom = min((trial.middle for trial in order if len(trial.scores)), default=0.0)
    for i in reversed(range(len(order))):
        trial, best = order[i], i == 0 and len(order[0].scores) > 0
        if trial.pruned is not None and len(trial.scores) == trial.seeds:
            panel.plot(at[i], trial.middle, "v", color=PRUNED, markersize=5, label="pruned, return then")
            continue
        if len(trial.scores) < trial.seeds:
            mean = trial.middle if len(trial.scores) else bottom
            panel.plot(at[i], mean, "x", color=LOST, markersize=8, markeredgewidth=2, label="with diverged seeds")
            continue
        low, high = trial.interval
        known = not np.isnan(low)
        bars = [[max(0.0, trial.middle - low)], [max(0.0, high - trial.middle)]] if known else None
        colour, label = (BEST, f"best: {trial.name}") if best else (COLOUR, "trial")
        panel.errorbar(at[i], trial.middle, bars, fmt="o", color=colour, markersize=6, elinewidth=1.1, label=label)
    wide = numbers and min(at) > 0 and max(at) > 10 * min(at)
    if wide:
        panel.set_xscale("log")
    if numbers and len({*at}) <= 6:
        panel.minorticks_off()
        panel.set_xticks(sorted({*at}), [_shown(value) for value in sorted({*values})])
        panel.margins(x=0.2)
    elif wide:  # the texts of a logarithmic axis lie over each other where it spans few powers of ten
        marks = [min(at) * (max(at) / min(at)) ** (i / 4) for i in range(5)]
        panel.minorticks_off()
        panel.set_xticks(marks, [_shown(float(f"{mark:.2g}")) for mark in marks])
    elif not numbers:
        panel.set_xticks(range(len(labels)), labels)
        panel.set_xlim(-0.5, len(labels) - 0.5)
    panel.set_xlabel(name, fontsize=11)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def parallel(order: Sequence[Trial], title: str) -> bytes:
    """A PNG of parallel coordinates: an axis for each setting and one for the return, and a line for each trial.

    Lines are coloured by return; the best trial's is drawn over the others, in a colour of its own. Trials with
    diverged seeds are dotted and end below the lowest return; pruned ones are thin and grey.

    Args:
      order: as `ranked` returns them, at least one.
      title: of the picture.
    Returns:
      the PNG's bytes.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    names = list(order[0].values)
    axes = [axis([trial.values[name] for trial in order]) for name in names]
    scores = [trial.middle if len(trial.scores) == trial.seeds else np.nan for trial in order]
    axes.append(axis([score for score in scores if not np.isnan(score)] or [0.0], linear=True))
    low, high = (np.nanmin(scores), np.nanmax(scores)) if not np.all(np.isnan(scores)) else (0.0, 1.0)
    colours, norm = colormaps["viridis_r"], Normalize(low, high if high > low else low + 1)

    figure = _figure(2.3 * len(axes), 4.6)
    panel = figure.subplots()
    for i in reversed(range(len(order))):
        place = [at(order[i].values[name]) for (at, _), name in zip(axes, names, strict=False)]
        lost, pruned = np.isnan(scores[i]), order[i].pruned is not None
        place.append(-0.06 if lost else axes[-1][0](scores[i]))
        best = i == 0 and not lost
        panel.plot(
            range(len(axes)), place, marker="o", markersize=3, linestyle=":" if lost else "-",
            color=LOST if lost else BEST if best else PRUNED if pruned else colours(norm(scores[i])),
            linewidth=2.6 if best else 0.5 if pruned else 1.1, alpha=1.0 if best else 0.75, zorder=3 if best else 2,
            label=f"best: {order[i].name}" if best else None,
        )  # fmt: skip
    for x, (_, marks) in enumerate(axes):
        panel.axvline(x, color="black", linewidth=0.8, zorder=1)
        for y, words in marks:
            panel.annotate(
                words, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )  # fmt: skip
    panel.set_xticks(range(len(axes)), [*(name.replace(".", ".\n", 1) for name in names), "return\n(IQM)"], fontsize=10)
    panel.set_yticks([])
    panel.set_xlim(-0.15, len(axes) - 0.65)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_title(title, fontsize=12)
    if panel.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", frameon=False, fontsize=10)
    return _png(figure)


def axis(values: Sequence[Any], linear: bool = False) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """An axis from 0 to 1: logarithmic over wide spans of numbers, words at equal distances.

    Args:
      values: what is to have a place on it.
      linear: whatever the span.
    Returns:
      (value) -> its place; the places and texts of the marks.
    """
    if not all(type(value) in (int, float) for value in values):
        labels = sorted({_shown(value) for value in values})
        at = {word: (i + 0.5) / len(labels) for i, word in enumerate(labels)}
        return lambda value: at[_shown(value)], [(place, word) for word, place in at.items()]
    low, high = min(values), max(values)
    log = not linear and low > 0 and high > 10 * low
    scale: Callable[[float], float] = math.log if log else float
    width = scale(high) - scale(low)
    place = lambda value: (scale(value) - scale(low)) / width if width > 0 else 0.5  # noqa: E731
    few = sorted({*values})
    if len(few) > 5:
        parts = [low + (high - low) * i / 4 for i in range(5)]
        few = [low * (high / low) ** (i / 4) for i in range(5)] if log else parts
    return place, [(place(value), _shown(float(f"{value:.3g}") if len({*values}) > 5 else value)) for value in few]


def report(folder: Path | str) -> str:
    """Writes `table.csv`, `response.png` and `parallel.png` of the trials that have come to their end.

    Args:
      folder: of the sweep.
    Returns:
      the text table.
    Raises:
      ValueError: as `read`.
    """
    folder = Path(folder)
    order = ranked(read(folder))
    if order:
        asked = read_json(folder / "sweep.json")["asked"]
        seeds = f"{asked['seeds']} seed{'s' * (asked['seeds'] > 1)}"
        write_atomic(folder / "table.csv", as_csv(order))
        title = f"{asked['algo']} on {asked['env']}: {len(order)} trials, {seeds} each"
        write_atomic(folder / "response.png", picture(order, title))
        write_atomic(folder / "parallel.png", parallel(order, title))
    return table(order)
