"""A small version of every figure, and the values in it."""

from __future__ import annotations

import csv
import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from figures import search as figures_search
from figures import suite as figures
from figures.lake import GAMMA, frozen_lake_figure, value_of
from figures.mazes import changes, changing_mazes_figure, finds_shortest, greedy_path, shortest
from figures.pictures import best_moves, maze_pictures
from figures.sweeping import draw, greedy_length, quartiles_of, sweeping_figure
from figures.tabular import dyna_maze_figure

from mbrl_jax.envs import maze
from mbrl_jax.envs.discrete import frozen_lake_mdp
from mbrl_jax.planners.value_iteration import value_iteration


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5_000


def test_planning_shortens_the_episodes_of_the_dyna_maze(tmp_path, capsys):
    dyna_maze_figure(tmp_path, seeds=8, plans=(0, 10), episodes=20, slots=4, plain=2, rounds=1)
    rows = read(tmp_path / "dyna-maze.csv")
    assert [(row["n"], row["episode"]) for row in rows] == [(n, str(e)) for n in ["0", "10"] for e in range(1, 21)]
    steps = {int(row["n"]): [] for row in rows}
    for row in rows:
        assert int(row["least"]) >= 14, "no path is shorter"
        steps[int(row["n"])].append(float(row["mean"]))
    # By then planning is at the shortest path and its random steps (17.4 on average), and learning alone far from it.
    assert sum(steps[10][10:]) / 10 == pytest.approx(17, abs=2)
    assert sum(steps[0][10:]) / 10 > 30
    assert is_picture(tmp_path / "dyna-maze.png")
    assert "8 seeds in one program" in capsys.readouterr().out


# Paths --------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "DYNA": (maze.DYNA, 14), "WAY_RIGHT": (maze.WAY_RIGHT, 10), "WAY_LEFT": (maze.WAY_LEFT, 16),
    "WAY_BOTH": (maze.WAY_BOTH, 10), "DYNA x 3": (maze.grow(maze.DYNA, 3), 42),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_paths_of_the_optimal_values_are_the_shortest(name):
    grid, steps = LAYOUTS[name]
    _, q = value_iteration(maze.as_mdp(grid), 0.9, 1e-5)
    assert shortest(grid) == steps
    assert len(greedy_path(grid, np.asarray(q))) == steps + 1
    assert finds_shortest(grid, np.asarray(q))
    assert greedy_length(grid, q, steps) == steps
    assert greedy_length(grid, q, steps + 20) == steps
    assert greedy_length(grid, q, steps - 1) == steps, "one more than allowed: it does not get there in time"


def test_a_path_with_a_cycle_is_no_path():
    q = np.zeros((54, 4))  # every greedy move is up
    assert greedy_path(maze.DYNA, q) == [18, 9, 0]
    assert not finds_shortest(maze.DYNA, q)
    assert greedy_length(maze.DYNA, jnp.asarray(q), 30) == 31


def test_a_maze_without_a_path_is_refused():
    with pytest.raises(ValueError, match="grid must have a path"):
        shortest(maze.layout("S#G"))


def test_best_moves_are_distinguished_however_small_the_values():
    q = np.array([[0.0, 0, 0, 0], [1e-9, 2e-9, 2e-9, 0], [0.5, 0.5 - 1e-6, 0.4, 0]], np.float32)
    assert best_moves(q).tolist() == [[False] * 4, [False, True, True, False], [True, True, False, False]]


# Figures ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bonus_finds_the_shortcut(tmp_path, capsys):
    found = changing_mazes_figure(tmp_path, seeds=8, examples=changes()[1:])
    rows = read(tmp_path / "changing-mazes.csv")
    plain, plus = (found["shortcut maze", agent] for agent in ("Dyna-Q", "Dyna-Q+"))
    assert plain["found"] <= 0.25
    assert plus["found"] >= 0.5
    assert 1 / 20 < plain["end"] < 1 / 16, "the way on the left has 16 steps"
    assert 1 / 16 < plus["end"] < 1 / 10, "the shortcut has 10"
    assert plus["after"] > 1.2 * plain["after"]
    for agent in ("Dyna-Q", "Dyna-Q+"):
        steps, reward = np.array([(row["steps"], row["reward"]) for row in rows if row["agent"] == agent], float).T
        assert np.array_equal(steps, np.arange(0, 6_001, 50))
        assert reward[0] == 0
        assert reward[60] == pytest.approx(found["shortcut maze", agent]["at_change"], rel=1e-5)
        assert (reward[-1] - reward[60]) / 3_000 == pytest.approx(found["shortcut maze", agent]["after"], rel=1e-4)
        assert (reward[-1] - reward[100]) / 1_000 == pytest.approx(found["shortcut maze", agent]["end"], rel=1e-3)
        assert np.diff(reward).min() >= 0
        assert np.diff(reward)[:60].max() <= 50 / 16 + 1, "no path is shorter"
    assert is_picture(tmp_path / "changing-mazes.png")
    assert "Changing mazes, 8 seeds" in capsys.readouterr().out


def test_sweeping_needs_fewer_backups(tmp_path, capsys):
    quartiles = sweeping_figure(tmp_path, seeds=8, factors=(1,), rates=(1.0, 0.5))
    rows = read(tmp_path / "sweeping.csv")
    assert len(rows) == 2 * 2 * 8
    for row in rows:
        assert row["cells"] == "47"
        assert row["good"] == "1"
        assert int(row["steps"]) % 10 == 0
        if row["agent"] == "Dyna-Q":
            assert int(row["backups"]) == 6 * int(row["steps"]), "five planned ones and the real one"
            assert int(row["blind"]) % 60 == 0
        else:
            assert int(row["blind"]) == 0, "nothing is wrong before the first reward"
            assert 0 < int(row["backups"]) <= 5 * int(row["steps"])
    # The seeds are those of the figure at hand: with a step size of 1 a wave from the goal needs few backups.
    for rate, ratio, rewarded in ((1.0, 10, 4), (0.5, 4, 1.2)):
        plain, swept = (quartiles[rate, 1, kind] for kind in ("Dyna-Q", "prioritized sweeping"))
        assert plain[0, 1] > ratio * swept[0, 1]
        assert plain[1, 1] > rewarded * swept[1, 1], "also when only those from the first reward on are counted"
        assert (np.diff(plain) >= 0).all()
        assert np.array_equal(swept[0], swept[1])
        mine = [int(row["backups"]) for row in rows if (float(row["lr"]), row["agent"]) == (rate, "Dyna-Q")]
        assert plain[0, 1] in sorted(mine)[3:5]
    assert is_picture(tmp_path / "sweeping.png")
    assert "8/8" in capsys.readouterr().out


def test_a_run_that_fails_counts_as_longer_than_all_others(tmp_path):
    backups, blind = np.array([30.0, 5, 20, 10, 40]), np.array([3.0, 1, 2, 0, 4])
    good = np.array([1, 0, 1, 1, 1])
    quartiles = quartiles_of(backups, blind, backups, good)
    assert quartiles.tolist() == [[20, 30, 40], [18, 27, 36]]
    none = quartiles_of(backups, blind, backups, 0 * good)
    assert np.isinf(none).all()
    for name, plain in (("some", quartiles), ("none", none)):  # warnings are errors: a gap in a line is no trouble
        path = tmp_path / f"{name}.png"
        found = {(1.0, 1, "Dyna-Q"): plain, (1.0, 1, "prioritized sweeping"): none}
        draw(path, found, (1,), (1.0,), 5)
        assert is_picture(path)


@pytest.mark.slow
def test_counts_beat_the_last_outcome_on_frozen_lake(tmp_path, capsys):
    means = frozen_lake_figure(
        tmp_path, seeds=8, chunks=4, steps=2_000, names=("Dyna-Q, expected", "Dyna-Q, last outcome", "Q-learning")
    )
    assert means["optimum"] == pytest.approx(0.542026, abs=1e-5)
    assert means["Dyna-Q, expected"] > 0.9 * means["optimum"]
    assert "Dyna-Q, sample" not in means
    assert means["Dyna-Q, last outcome"] < 0.5 * means["optimum"]
    assert means["Q-learning"] < 0.95 * means["Dyna-Q, expected"]
    rows = read(tmp_path / "frozen-lake.csv")
    assert all(0 <= float(row["value"]) <= means["optimum"] + 1e-5 for row in rows)
    assert [row["steps"] for row in rows[:5]] == ["0", "2000", "4000", "6000", "8000"]
    second = np.mean([float(row["value"]) for row in rows[3:5]])
    assert second == pytest.approx(means["Dyna-Q, expected"], rel=1e-4)
    assert is_picture(tmp_path / "frozen-lake.png")
    assert "8 seeds" in capsys.readouterr().out


def test_doubling_gives_the_values_of_a_linear_solve():
    mdp = frozen_lake_mdp()
    policy = np.random.default_rng(0).dirichlet(np.ones(4), 16)
    going = ~np.asarray(mdp.terminal)[:, None, None] * np.asarray(mdp.transitions, np.float64)
    reward = np.einsum("sa,sat,sat->s", policy, going, mdp.rewards)
    values = np.linalg.solve(np.eye(16) - GAMMA * np.einsum("sa,sat->st", policy, going), reward)
    assert values[0] > 0.001
    assert value_of(mdp, jnp.asarray(policy), GAMMA) == pytest.approx(values[0], rel=1e-4)


def test_pictures_show_what_was_learned(tmp_path, capsys):
    one, thirty, plain, plus = maze_pictures(tmp_path, episodes=(1, 30))
    # After one episode only the step to the goal is worth something; later all cells point the shortest way to it.
    assert (one.values > 0).sum() == 1
    assert one.values[17] > 0.05
    assert thirty.values[18] > 0.2
    assert thirty.policy[18].any()
    assert len(plain.path) == 17, "the way on the left"
    assert len(plus.path) == 11, "the shortcut"
    assert "4 pictures" in capsys.readouterr().out
    rows = read(tmp_path / "mazes.csv")
    assert len(rows) == 2 * 47 + 2 * 47
    last = next(row for row in rows if row["picture"] == one.title and (row["row"], row["column"]) == ("1", "8"))
    assert last["moves"] == "u"
    assert float(last["value"]) == pytest.approx(float(one.values[17]), rel=1e-5)
    assert is_picture(tmp_path / "mazes.png")


def test_the_drawn_search_finds_the_one_move_that_does_not_lose(tmp_path):
    # Crosses on the middle and a corner, noughts on another corner: crosses threaten a line through a1 next.
    tree = figures_search.search_tree(tmp_path, ("b2", "a3", "c3"), simulations=100)
    first = tree.parent == 0
    assert figures_search.CELLS[tree.action[first][tree.visits[first].argmax()]] == "a1"
    assert tree.visits[0] == 101
    assert is_picture(tmp_path / "search-tree.png")


# Command line -------------------------------------------------------------------------------------------------------


def test_commands_reach_their_figures(monkeypatch, tmp_path):
    called = []
    for module, function, _ in figures.FIGURES.values():
        monkeypatch.setattr(
            importlib.import_module(module), function, lambda out, f=function, **rest: called.append((f, out, rest))
        )
    for name, (_, function, seeds) in figures.FIGURES.items():
        figures.main([name, "--out", str(tmp_path)])
        assert called.pop() == (function, tmp_path, {} if seeds is None else {"seeds": seeds})
    figures.main(["all", "--seeds", "3"])
    assert [rest for _, _, rest in called] == [
        {} if seeds is None else {"seeds": 3} for _, _, seeds in figures.FIGURES.values()
    ]


@pytest.mark.parametrize("words", [["sweeping", "--seeds", "1"], ["maze-pictures", "--seeds", "4"], ["none"]])
def test_wrong_commands_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        figures.main(words)
    assert {"1": "at least 2, got 1", "4": "left out", "none": "invalid choice"}[words[-1]] in capsys.readouterr().err
