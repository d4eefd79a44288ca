"""Runs beside published scores: the table and its statistics, against values written out by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from figures import published, suite

FRAMES = (40_000, 80_000, 120_000)


def write_run(folder, agent, task, scores):
    """A run with 2 simulator steps per action; scores [S, T] at `FRAMES`."""
    one = folder / f"{agent}-{task}"
    one.mkdir(parents=True)
    (one / "config.json").write_text(json.dumps({"algo": agent, "env": f"dm_control:{task}-x2", "threshold": None}))
    lines = ["seed,env_steps,updates,seconds,return,episodes,eval_return"]
    for seed, row in enumerate(scores):
        lines += [f"{seed},{frames // 2},1,1.0,0,1,{score}" for frames, score in zip(FRAMES, row, strict=True)]
    (one / "metrics.csv").write_text("\n".join(lines) + "\n")


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_scores_are_compared_with_the_authors_at_equal_frames(tmp_path):
    write_run(tmp_path / "runs", "tdmpc2", "walker-walk", [[100, 900, 1], [200, 980, 1], [300, 940, 1]])
    write_run(tmp_path / "runs", "tdmpc2", "cheetah-run", [[10, 20, 900], [10, 40, 900]])
    write_run(tmp_path / "runs", "sac", "walker-walk", [[0, 500, 1], [0, 700, 1]])
    suite.main(["published", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    rows = {(row["task"], row["agent"]): row for row in read(tmp_path / "published.csv")}
    walk = rows["walker-walk", "TD-MPC2"]
    assert [float(walk[name]) for name in ("frames", "seeds", "mean", "least")] == [80_000, 3, 940, 900]
    # Hansen et al. 2024: 962.03 over 3 seeds at 100,000 frames; t of 2 degrees of freedom is 4.303.
    mean, std = next(
        (float(row["mean"]), float(row["std"]))
        for row in read(published.REFERENCE)
        if (row["task"], row["agent"], row["frames"]) == ("walker-walk", "tdmpc2", "100000")
    )
    assert mean == pytest.approx(962, abs=1)
    low = mean - 4.3027 * std / np.sqrt(2)
    assert float(walk["authors_low"]) == pytest.approx(low, abs=0.06)
    assert walk["reached"] == str(low <= 940).lower()
    assert rows["cheetah-run", "TD-MPC2"]["reached"] == "false"
    aggregate = {row["agent"]: row for row in read(tmp_path / "published-aggregate.csv")}
    # of 0.02, 0.04, 0.9, 0.94, 0.98 the lowest and the highest are dropped
    assert float(aggregate["TD-MPC2"]["interquartile_mean"]) == pytest.approx((0.04 + 0.9 + 0.94) / 3, abs=1e-3)
    assert float(aggregate["TD-MPC2"]["above_0.9"]) == pytest.approx(0.6)
    assert float(aggregate["SAC"]["interquartile_mean"]) == pytest.approx(0.6)
    assert (tmp_path / "published.png").stat().st_size > 5_000


def test_a_folder_for_each_seed_is_one_run_as_far_as_all_seeds_have_come(tmp_path):
    for seed, row in enumerate(([100, 900, 1], [200, 980, 1], [300, 940, 1])):
        write_run(tmp_path, "dreamer_v3", f"walker-walk-seed{seed}", [row])
        about = {"algo": "dreamer_v3", "env": "dm_control:walker-walk-x2", "threshold": None}
        (tmp_path / f"dreamer_v3-walker-walk-seed{seed}" / "config.json").write_text(json.dumps(about))
    last = tmp_path / "dreamer_v3-walker-walk-seed2" / "metrics.csv"
    last.write_text("\n".join(last.read_text().splitlines()[:-1]) + "\n")
    (run,) = published.read_runs(tmp_path)
    assert (run.agent, run.task, run.frames.tolist()) == ("dreamer_v3", "walker-walk", [40_000, 80_000])
    np.testing.assert_array_equal(run.scores, [[100, 900], [200, 980], [300, 940]])
    rows = last.read_text().splitlines()
    last.write_text("\n".join([rows[0], rows[1].replace("20000", "3"), *rows[2:]]) + "\n")
    with pytest.raises(ValueError, match="dreamer_v3 on walker-walk must have one environment and be evaluated"):
        published.read_runs(tmp_path)


def test_statistics():
    assert published.interval(10.0, 2.0, 3) == pytest.approx(
        (10 - 4.3027 * 2 / 2**0.5, 10 + 4.3027 * 2 / 2**0.5), rel=1e-4
    )
    x, y = [np.array([1.0, 2.0]), np.array([5.0, 5.0])], [np.array([0.0, 2.0]), np.array([5.0, 9.0])]
    # pairs won: (1>0), (2>0), half of (2=2) of 4; halves of (5=5) twice of 4
    assert published.improvement(x, y) == pytest.approx((2.5 / 4 + 1 / 4) / 2)
    mean, low, high = published.stratified([np.array([0.0, 0.0]), np.array([1.0, 1.0])])
    assert (mean, low, high) == (0.5, 0.5, 0.5)  # resampled within each task, which does not vary
    _, low, high = published.stratified([np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    assert low < high


def test_runs_that_are_not_there_and_runs_of_another_figure_are_refused(tmp_path, capsys):
    for options, message in (
        (["published", "--runs", str(tmp_path)], "no run of tdmpc2, dreamer_v3, sac on dm_control is in"),
        (["tasks", "--runs", str(tmp_path)], "--runs must be left out: tasks makes its own"),
    ):
        with pytest.raises(SystemExit):
            suite.main(options)
        assert message in capsys.readouterr().err
