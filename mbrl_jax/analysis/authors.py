"""Scores that the authors of agents published, to be drawn beside runs: `published.csv`.

Of TD-MPC2 and SAC those of Hansen et al. 2024 (3 seeds, 2 frames per action), of DreamerV3 those of Hafner et al. 2025
(5 seeds), on tasks of dm_control. Frames are simulator steps: actions times their repetition.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_name("published.csv")


class Published(NamedTuple):
    """The authors' scores of one agent on one task."""

    frames: np.ndarray  # [T]
    means: np.ndarray  # [T] returns over seeds
    deviations: np.ndarray  # [T] over seeds, NaN where unknown
    seeds: int
    source: str


def published(agent: str, task: str) -> Published | None:
    """What the authors published, None where it is not known here.

    Args:
      agent: by its name here, "tdmpc2".
      task: of dm_control, "walker-walk".
    """
    with FILE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["agent"], row["task"]) == (agent, task)]
    if not rows:
        return None

    def numbers(name: str) -> np.ndarray:
        return np.array([float(row[name] or "nan") for row in rows])

    return Published(numbers("frames"), numbers("mean"), numbers("std"), int(rows[0]["seeds"]), rows[0]["source"])


def beside(agent: str, env: str) -> Published | None:
    """The authors' scores for a run, with steps of the run in place of frames.

    Args:
      agent: by its name here.
      env: of the run, "dm_control:walker-walk-x2".
    """
    library, _, name = env.partition(":")
    if library != "dm_control":
        return None
    task, _, times = name.rpartition("-x")
    repeat = int(times) if task and times.isdigit() else 1
    found = published(agent, task if task and times.isdigit() else name)
    return None if found is None else found._replace(frames=found.frames / repeat)
