"""Learning curves of runs, read from their folders and drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl_jax.analysis.statistics import bootstrap_interval, interquartile_mean, median_steps, steps_to_threshold
from mbrl_jax.analysis.text import aligned
from mbrl_jax.envs import own
from mbrl_jax.train.log import write_atomic
from mbrl_jax.train.run_files import read_config, read_rows

# Okabe and Ito's colours, which colour-blind readers can distinguish, without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


class Curve(NamedTuple):
    """The learning curve of one run."""

    label: str
    algo: str
    env: str
    steps: np.ndarray  # [T] environment steps of one seed
    scores: np.ndarray  # [S, T] evaluation return; training return where the run has no evaluation
    evaluated: bool
    threshold: float | None
    diverged: np.ndarray | None = None  # [S] bool: seeds whose scores became none at some step; None for no seed

    @property
    def finite(self) -> np.ndarray:
        """[S', T] the scores of the seeds that did not diverge."""
        return self.scores if self.diverged is None else self.scores[~self.diverged]


def load(folder: Path | str, label: str | None = None) -> Curve:
    """Reads a run's learning curve.

    Args:
      folder: a run's folder.
      label: the curve's name in the legend; the algorithm's name if None.
    Raises:
      ValueError: the folder holds no run, one without results yet, or a file that is not as a run writes it, which is
        named with its line.
    """
    folder = Path(folder)
    config, rows = read_config(folder), read_rows(folder)
    seeds = sorted({row.seed for row in rows})
    steps = sorted({row.env_steps for row in rows})
    evaluated = any(row.eval_return is not None for row in rows)
    scores = np.full((len(seeds), len(steps)), np.nan)
    missing = np.ones((len(seeds), len(steps)), bool)
    for row in rows:
        score = row.eval_return if evaluated else row.training
        at = seeds.index(row.seed), steps.index(row.env_steps)
        missing[at], scores[at] = score is None, np.nan if score is None else score
    if not evaluated:  # where no training episode ended, the last known return continues; a return of NaN does not
        for t in range(1, len(steps)):
            scores[:, t] = np.where(missing[:, t], scores[:, t - 1], scores[:, t])
    diverged = np.asarray((~missing & ~np.isfinite(scores)).any(axis=1))
    name, threshold = label or config["algo"], config.get("threshold")
    return Curve(
        name, config["algo"], own.title(config["env"]), np.array(steps), scores, evaluated, threshold, diverged
    )


def picture(curves: Sequence[Curve], threshold: float | None = None, log: bool = False) -> bytes:
    """A PNG of the curves of one run or several: seeds thin, their interquartile mean thick, its 95% interval a band.

    Args:
      curves: the runs, at least one.
      threshold: a return to mark with a line, None for none.
      log: logarithmic axis of steps, for runs of very different lengths.
    Returns:
      the PNG's bytes.
    Raises:
      ValueError: there is nothing to draw.
    """
    if not curves:
        raise ValueError("a picture needs at least one run")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    few = min(len(curve.scores) for curve in curves) < 4
    for i, curve in enumerate(curves):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        seeds = len(curve.scores)
        marker = "o" if len(curve.steps) < 3 else None  # a line through one point is invisible
        if seeds > 1:
            for scores in curve.scores:
                axes.plot(curve.steps, scores, color=colour, linewidth=0.7, alpha=max(0.08, 0.5 / len(curves) ** 0.5))
        if len(curve.finite) > 1:
            low, high = bootstrap_interval(curve.finite)
            axes.fill_between(curve.steps, low, high, color=colour, alpha=0.2, linewidth=0)
        _mark_ends(axes, curve, colour)
        text = f"{curve.label} ({_seeds(curve)})"
        middle = interquartile_mean(curve.finite) if len(curve.finite) else np.full(len(curve.steps), np.nan)
        axes.plot(curve.steps, middle, dash, color=colour, linewidth=2.4, marker=marker, label=text)
    if threshold is not None and np.isfinite(threshold):
        axes.axhline(threshold, color="#555555", linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel("environment steps (per seed)", fontsize=12)
    kind = "evaluation return" if all(curve.evaluated for curve in curves) else "return"
    middle = "mean" if few else "interquartile mean"
    alone = all(len(curve.scores) == 1 for curve in curves)
    axes.set_ylabel(kind if alone else f"{kind}\n{middle}, 95% bootstrap interval", fontsize=12)
    axes.set_title(title(curves), fontsize=13)
    axes.tick_params(labelsize=11)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=11, frameon=False, loc="best")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def _seeds(curve: Curve) -> str:
    """How many seeds are in the mean: `8 seeds`, or `6 of 8 seeds, 2 diverged`."""
    total, kept = len(curve.scores), len(curve.finite)
    if kept == total:
        return f"{total} seed{'s' * (total > 1)}"
    return f"{kept} of {total} seed{'s' * (total > 1)}, {total - kept} diverged"


def _mark_ends(axes: Any, curve: Curve, colour: str) -> None:
    """A cross where each diverged seed had its last score."""
    if curve.diverged is None:
        return
    for scores in curve.scores[curve.diverged]:
        known = np.flatnonzero(np.isfinite(scores))
        if known.size:
            axes.plot(curve.steps[known[-1]], scores[known[-1]], "x", color=colour, markersize=8, markeredgewidth=2)


def title(curves: Sequence[Curve]) -> str:
    """The title of a picture: `mbpo on Pendulum-v1, 8 seeds`, or what several runs have in common.

    Args:
      curves: the runs, at least one.
    """
    envs = list(dict.fromkeys(curve.env for curve in curves))
    names = list(dict.fromkeys(curve.algo for curve in curves))
    counts = {len(curve.scores) for curve in curves}
    count = counts.pop() if len(counts) == 1 else 0
    tail = f", {count} seed{'s' * (count > 1)}" if count else ""
    return f"{' and '.join(names)} on {', '.join(envs)}{tail}"


def table(curves: Sequence[Curve], threshold: float | None = None) -> str:
    """A text table: the final interquartile mean with its 95% interval, and the steps to the threshold.

    Args:
      curves: the runs, at least one.
      threshold: a return; None leaves the column out.
    """
    head = ["run", "seeds", "steps", "IQM at the end", "95% interval"]
    if threshold is not None:
        head.append(f"median steps to {threshold:g}")
    rows = [head]
    for curve in curves:
        last = curve.finite[:, -1]
        total = len(curve.scores)
        count = str(total) if len(last) == total else f"{len(last)} of {total}"
        row = [
            curve.label,
            count,
            f"{curve.steps[-1]:,}",
            f"{interquartile_mean(last):.1f}" if len(last) else "diverged",
        ]
        low, high = bootstrap_interval(last) if len(last) > 1 else (np.nan, np.nan)
        row.append(f"{low:.1f} to {high:.1f}" if len(last) > 1 else "-")
        if threshold is not None:
            reached = steps_to_threshold(curve.steps, curve.scores, threshold)
            middle = median_steps(reached)
            row.append((f"{middle:,.0f}" if np.isfinite(middle) else "not reached") + f" ({_count(reached)} reached)")
        rows.append(row)
    return "\n".join(aligned(rows))


def _count(reached: Sequence[int | None]) -> str:
    return f"{sum(step is not None for step in reached)}/{len(reached)}"


def draw(
    path: Path, folders: Sequence[Path], labels: Sequence[str] | None, threshold: float | None, log: bool = False
) -> str:
    """Draws the curves of several runs into one picture.

    Args:
      path: of the PNG.
      folders: of the runs.
      labels: one for each run; the algorithms' names if None.
      threshold: a return to mark, None for none.
      log: logarithmic axis of steps.
    Returns:
      the runs as a text table.
    Raises:
      ValueError: a folder holds no run, or one without results yet.
    """
    loaded = [load(folder, labels[i] if labels else None) for i, folder in enumerate(folders)]
    write_atomic(path, picture(loaded, threshold, log))
    return "\n".join([*cautions(loaded), table(loaded, threshold)])


def cautions(curves: Sequence[Curve]) -> list[str]:
    """What to know before runs are compared: that they are of different environments, or of other returns."""
    found = []
    envs = list(dict.fromkeys(curve.env for curve in curves))
    if len(envs) > 1:
        found.append(f"warning: the environments differ ({', '.join(envs)}): returns do not compare")
    if len({curve.evaluated for curve in curves}) > 1:
        those = ", ".join(curve.label for curve in curves if not curve.evaluated)
        found.append(f"warning: {those} without evaluation: its training returns are drawn beside evaluation returns")
    return found
