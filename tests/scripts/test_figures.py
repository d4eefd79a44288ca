"""The figure of the Dyna maze, made small."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from figures_tabular import dyna_maze_figure


def test_planning_shortens_the_episodes_of_the_dyna_maze(tmp_path, capsys):
    dyna_maze_figure(tmp_path, seeds=8, plans=(0, 10), episodes=20, lanes=4, plain=2, rounds=1)
    rows = list(csv.DictReader((tmp_path / "dyna-maze.csv").read_text().splitlines()))
    assert [(row["n"], row["episode"]) for row in rows] == [(n, str(e)) for n in ["0", "10"] for e in range(1, 21)]
    steps = {int(row["n"]): [] for row in rows}
    for row in rows:
        assert int(row["least"]) >= 14, "no path is shorter"
        steps[int(row["n"])].append(float(row["mean"]))
    # By then planning is at the shortest path and its random steps (17.4 on average), and learning alone far from it.
    assert sum(steps[10][10:]) / 10 == pytest.approx(17, abs=2)
    assert sum(steps[0][10:]) / 10 > 30
    assert (tmp_path / "dyna-maze.png").stat().st_size > 5_000
    assert "8 seeds in one program" in capsys.readouterr().out
