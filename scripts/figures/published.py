"""Runs on dm_control beside the scores that the agents' authors published.

A run is one agent's on one task: a folder named AGENT-TASK (`tdmpc2-walker-walk`), as `scripts/reproduce.sh dm_control`
makes it, or a folder for each seed, AGENT-TASK-seed0 and so on. `mbrl_jax/analysis/published.csv` has the authors'
means: of TD-MPC2 and SAC those of Hansen et al. 2024 (3 seeds, 2 frames per action), of DreamerV3 those of Hafner et
al. 2025 (5 seeds). Frames are simulator steps, that is actions times their repetition.

Over tasks, scores are divided by 1,000, the largest return of dm_control's tasks. Statistics after Agarwal et al. 2021:
the interquartile mean over tasks and seeds with a bootstrap stratified by task, and the share of scores above a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from figures.common import canvas, save, show, write_csv
from mbrl_jax.analysis import authors as reference
from mbrl_jax.analysis import curves
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.analysis.statistics import interquartile_mean, probability_of_improvement

AGENTS = {"tdmpc2": "TD-MPC2", "dreamer_v3": "DreamerV3", "sac": "SAC"}
TASKS = (
    "cartpole-swingup", "cartpole-swingup-sparse", "pendulum-swingup", "reacher-easy", "cup-catch", "finger-spin",
    "walker-walk", "cheetah-run", "walker-run", "hopper-stand", "acrobot-swingup", "reacher-hard",
)  # fmt: skip
FRAMES = 100_000
LARGEST = 1_000.0  # return of an episode of dm_control
REFERENCE = reference.FILE


class Run(NamedTuple):
    """One agent's curve on one task."""

    agent: str
    task: str
    frames: np.ndarray  # [T]
    scores: np.ndarray  # [S, T] mean evaluation returns

    def at(self, frames: int) -> tuple[int, np.ndarray]:
        """The last evaluation at or before so many frames: its frames, and the scores [S]."""
        index = int(np.searchsorted(self.frames, frames, side="right")) - 1
        return int(self.frames[index]), self.scores[:, index]


def read_runs(folder: Path) -> list[Run]:
    """The runs below a folder, in the order of `AGENTS` and `TASKS`.

    Raises:
      ValueError: there is none, or the seeds of one were evaluated at different steps.
    """
    runs = []
    for agent in AGENTS:
        for task in TASKS:
            whole, single = folder / f"{agent}-{task}", sorted(folder.glob(f"{agent}-{task}-seed[0-9]*"))
            parts = [curves.load(one) for one in (whole, *single) if (one / "metrics.csv").exists()]
            if parts:
                runs.append(_joined(agent, task, parts))
    if not runs:
        raise ValueError(f"no run of {', '.join(AGENTS)} on dm_control is in {folder}")
    return runs


def _joined(agent: str, task: str, parts: Sequence[curves.Curve]) -> Run:
    """One run of all seeds, as far as each of them has come."""
    count = min(len(part.steps) for part in parts)
    steps, env = parts[0].steps[:count], parts[0].env
    if any(part.env != env or not np.array_equal(part.steps[:count], steps) for part in parts):
        raise ValueError(f"runs of {agent} on {task} must have one environment and be evaluated at the same steps")
    repeat = int(env.rpartition("-x")[2]) if "-x" in env else 1
    return Run(agent, task, steps * repeat, np.concatenate([part.scores[:, :count] for part in parts]))


def authors(agent: str, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, means and standard deviations (NaN where unknown) that the authors published, each [T]."""
    found = reference.published(agent, task)
    nothing = np.zeros(0)
    return (nothing, nothing, nothing) if found is None else (found[0], found[1], found[2])


def interval(mean: float, std: float, seeds: int) -> tuple[float, float]:
    """The 95 % interval of a mean over a few seeds, by Student's t; NaN without a deviation.

    Args:
      mean, std: over the seeds; the deviation with n in the denominator, as the authors give it.
      seeds: n, at least 2.
    """
    half = float(stats.t.ppf(0.975, seeds - 1)) * std / np.sqrt(seeds - 1)
    return mean - half, mean + half


def stratified(scores: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """The interquartile mean over all tasks and seeds with its 95 % interval; seeds are resampled within each task.

    Args:
      scores: of each task, [S].
      resamples: number of resamples.
      seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    drawn = [task[rng.integers(0, len(task), (resamples, len(task)))] for task in scores]
    low, high = np.quantile(interquartile_mean(np.concatenate(drawn, 1), axis=1), [0.025, 0.975])
    return float(interquartile_mean(np.concatenate(list(scores)))), float(low), float(high)


def improvement(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The probability of improvement, in the mean over tasks."""
    return float(np.mean([probability_of_improvement(x, y) for x, y in zip(ours, others, strict=True)]))


def rows_of(runs: Sequence[Run], frames: int = FRAMES) -> list[list]:
    """A row of the table for each run: scores at `frames`, or at the run's end, beside the authors'."""
    rows = []
    for run in runs:
        at, scores = run.at(frames)
        their_frames, means, deviations = authors(run.agent, run.task)
        same = np.flatnonzero(their_frames == frames)
        mean, std = (float(means[same[0]]), float(deviations[same[0]])) if len(same) else (np.nan, np.nan)
        low = interval(mean, std, 5 if run.agent == "dreamer_v3" else 3)[0]
        rows.append(
            [
                run.task,
                AGENTS[run.agent],
                len(scores),
                at,
                round(float(scores.mean()), 1),
                round(float(scores.min()), 1),
            ]
            + [round(float(x), 1) for x in (mean, low)]
            + [str(bool(scores.mean() >= low)).lower()]
        )
    return rows


HEAD = ["task", "agent", "seeds", "frames", "mean", "least", "authors_mean", "authors_low", "reached"]


def published_figure(out: Path, runs: Path = Path("results/dm_control"), frames: int = FRAMES) -> None:
    """Draws each task's curves beside the authors', and writes the table of scores.

    Args:
      out: folder of `published.csv`, `published.png` and, over tasks, `published-aggregate.csv`.
      runs: folder of the runs.
      frames: at which the scores are compared.
    Raises:
      ValueError: there are no runs.
    """
    found = read_runs(runs)
    rows = rows_of(found, frames)
    write_csv(out / "published.csv", HEAD, rows)
    show(f"dm_control at {frames:,} frames", HEAD, rows)
    tasks = [task for task in TASKS if any(run.task == task for run in found)]
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = canvas(columns, 3.4 * columns, 2.8 * lines, lines)
    for place, task in zip(axes, tasks, strict=False):
        _draw_task(place, task, [run for run in found if run.task == task], frames)
    for place in axes[len(tasks) :]:
        place.set_axis_off()
    axes[0].legend(fontsize=7, frameon=False)
    save(out / "published.png", figure)
    aggregate = []
    for agent, name in AGENTS.items():
        of = [run.at(frames)[1] / LARGEST for run in found if run.agent == agent]
        if of:
            mean, low, high = stratified(of)
            reach = [float(np.mean(np.concatenate(of) >= bound)) for bound in (0.25, 0.5, 0.75, 0.9)]
            aggregate.append([name, len(of), *(round(x, 3) for x in (mean, low, high, *reach))])
    head = ["agent", "tasks", "interquartile_mean", "low", "high", *(f"above_{b}" for b in (0.25, 0.5, 0.75, 0.9))]
    write_csv(out / "published-aggregate.csv", head, aggregate)
    show("over tasks, scores divided by 1,000", head, aggregate)


def _draw_task(axes, task: str, runs: Sequence[Run], frames: int) -> None:
    """One task: runs as lines with the range of their seeds, the authors' means as dots with their intervals."""
    for run in runs:
        colour = COLOURS[list(AGENTS).index(run.agent)]
        axes.plot(run.frames / 1e3, run.scores.mean(0), color=colour, label=AGENTS[run.agent])
        axes.fill_between(run.frames / 1e3, run.scores.min(0), run.scores.max(0), color=colour, alpha=0.2, lw=0)
        at, means, deviations = authors(run.agent, task)
        near = at <= frames
        seeds = 5 if run.agent == "dreamer_v3" else 3
        half = [interval(0.0, std, seeds)[1] for std in np.nan_to_num(deviations[near])]
        label = f"{AGENTS[run.agent]}, authors"
        axes.errorbar(at[near] / 1e3, means[near], half, fmt="o", ms=4, color=colour, capsize=3, label=label)
    axes.set_title(task, fontsize=9)
    axes.set_ylim(-20, 1020)
    axes.set_xlim(0, frames / 1e3 * 1.05)
    axes.set_xlabel("thousand frames", fontsize=8)
    axes.set_ylabel("return", fontsize=8)
    axes.tick_params(labelsize=7)
