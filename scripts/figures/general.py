"""Agents with their general settings on tasks that none was tuned for: the table of `scripts/reproduce.sh general`.

A run is a folder AGENT-TASK; one of the settings of before is AGENT-TASK-before. Runs of general settings on other
libraries' tasks, which have tables of their own, are read from the folder above. A score is the mean over seeds of the
mean of the last five evaluations, on dm_control, where a run has no more, of the last one, as a share of the way from
random actions to a known good return:

    share = (score - random) / (good - random)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from figures import published
from figures.common import canvas, save, show, write_csv
from mbrl_jax.analysis.curves import COLOURS


class Task(NamedTuple):
    """Returns of random actions and of good play."""

    random: float
    good: float


TASKS: dict[str, Task] = {
    "pendulum": Task(-1_174, -150),
    "pendulum-centi": Task(-11.74, -1.5),
    "pendulum-kilo": Task(-1_174_000, -150_000),
    "mountaincar-continuous": Task(-33, 93),
    "cartpole": Task(22, 500),
    "cartpole-centi": Task(0.22, 5.0),
    "cartpole-kilo": Task(22_000, 500_000),
    "acrobot": Task(-500, -75),
    "space-invaders": Task(4.5, 60),
    "playground CartpoleBalance": Task(313, 1_000),
    "Craftax-Classic": Task(1.4, 22),
    "Hopper-v5": Task(18, 3_500),
    **{f"dm_control {task}": Task(0, 1_000) for task in published.TASKS},
}
"""Random returns are means of 100 episodes; good ones those of the best runs on record, or the task's bound."""

ELSEWHERE = {
    "playground-ppo": ("ppo", "playground CartpoleBalance"),
    "craftax-ppo": ("ppo", "Craftax-Classic"),
    "hopper-sac-general": ("sac", "Hopper-v5"),
}
"""Agent and task of folders beside that of the table's own runs; those of dm_control are found by name."""

HEAD = ["task", "agent", "settings", "seeds", "steps", "score", "least", "share"]
BEFORE = "-before"


def rows_of(folder: Path) -> list[list]:
    """A row of the table for each run below a folder.

    Raises:
      ValueError: there is none.
    """
    rows = []
    for path in sorted(folder.glob("*/summary.json")):
        agent, _, task = path.parent.name.partition("-")
        name, settings = (task.removesuffix(BEFORE), "before") if task.endswith(BEFORE) else (task, "general")
        if name not in TASKS:
            continue
        summary = json.loads(path.read_text())
        rows.append(row_of(name, agent, settings, summary["env_steps"], summary["recent_eval_return"]))
    if not rows:
        raise ValueError(f"no run of {', '.join(TASKS)} is in {folder}")
    return in_order(rows)


def row_of(task: str, agent: str, settings: str, steps: int, scores: list[float | None]) -> list:
    """A row of the table, in the order of `HEAD`; a seed's score of None is that of one that diverged."""
    all_scores, (random, good) = np.array([np.nan if x is None else x for x in scores], float), TASKS[task]
    mean = float(all_scores.mean())
    share = (mean - random) / (good - random)
    return [task, agent, settings, len(scores), steps, mean, float(all_scores.min()), share]


def in_order(rows: list[list]) -> list[list]:
    """Rows by task, agent and settings."""
    order = list(TASKS)
    return sorted(rows, key=lambda row: (order.index(row[0]), row[1], row[2]))


def rows_elsewhere(results: Path) -> list[list]:
    """A row for each agent and task of other libraries whose runs are on record.

    Args:
      results: the folder that holds `dm_control` and those of `ELSEWHERE`.
    """
    rows = []
    for name, (agent, task) in ELSEWHERE.items():
        if (results / name / "summary.json").exists():
            summary = json.loads((results / name / "summary.json").read_text())
            rows.append(row_of(task, agent, "general", summary["env_steps"], summary["recent_eval_return"]))
    joined: dict[tuple[str, str], list[dict]] = {}
    for path in sorted(results.glob("dm_control/*/summary.json")):
        agent, _, task = re.sub(r"-seed\d+$", "", path.parent.name).partition("-")
        if task in published.TASKS:
            joined.setdefault((f"dm_control {task}", agent), []).append(json.loads(path.read_text()))
    for (task, agent), own in joined.items():
        scores = [score for summary in own for score in summary["eval_return"]]
        rows.append(row_of(task, agent, "general", max(summary["env_steps"] for summary in own), scores))
    return in_order(rows)


def general_figure(out: Path, runs: Path = Path("results/general")) -> None:
    """Writes and draws the table.

    Args:
      out: folder of `general.csv` and `general.png`.
      runs: folder of the runs; the folder above it has those on other libraries' tasks.
    Raises:
      ValueError: there are no runs.
    """
    rows = in_order(rows_of(runs) + rows_elsewhere(runs.parent))
    write_csv(out / "general.csv", HEAD, rows)
    show("general settings", HEAD, [[f"{x:,.3g}" if isinstance(x, float) else x for x in row] for row in rows])
    pairs = list(dict.fromkeys((row[0], row[1]) for row in rows))
    figure, (panel,) = canvas(1, 8.0, 1.0 + 0.28 * len(pairs))
    for settings, colour, place in (("before", COLOURS[4], 0.2), ("general", COLOURS[0], -0.2)):
        shares = {(row[0], row[1]): row[7] for row in rows if row[2] == settings}
        at = [len(pairs) - 1 - i + place for i, pair in enumerate(pairs) if pair in shares]
        panel.barh(at, [max(0.0, shares[pair]) for pair in pairs if pair in shares], 0.38, color=colour, label=settings)
    panel.set_yticks(range(len(pairs)), [f"{agent}  {task}" for task, agent in reversed(pairs)])
    panel.set_xlabel("share of the way from random actions to good play")
    panel.axvline(1.0, color="0.6", linewidth=0.8)
    panel.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)
    save(out / "general.png", figure)
