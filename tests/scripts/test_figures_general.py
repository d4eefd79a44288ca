"""The table of general settings, against values written out by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from figures import general, suite


def write_run(folder, name, scores, steps=1_000):
    (folder / name).mkdir(parents=True)
    (folder / name / "summary.json").write_text(json.dumps({"recent_eval_return": scores, "env_steps": steps}))


def test_scores_are_shares_of_the_way_from_random_to_good(tmp_path):
    write_run(tmp_path / "runs", "sac-pendulum-kilo", [-150_000.0, -354_800.0])
    write_run(tmp_path / "runs", "sac-pendulum-kilo-before", [-1_174_000.0, -1_378_800.0])
    write_run(tmp_path / "runs", "dqn-cartpole", [500.0, None])
    write_run(tmp_path / "runs", "dqn-unknown", [1.0])
    suite.main(["general", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "general.csv").read_text().splitlines()))
    found = {(row["agent"], row["task"], row["settings"]): row for row in rows}
    assert list(found) == [
        ("sac", "pendulum-kilo", "before"), ("sac", "pendulum-kilo", "general"), ("dqn", "cartpole", "general"),
    ]  # fmt: skip
    after = found["sac", "pendulum-kilo", "general"]
    assert [float(after[name]) for name in ("seeds", "steps", "score", "least")] == [2, 1_000, -252_400, -354_800]
    assert float(after["share"]) == pytest.approx(0.9)
    assert float(found["sac", "pendulum-kilo", "before"]["share"]) == pytest.approx(-0.1)
    assert found["dqn", "cartpole", "general"]["share"] == "nan"  # a seed that diverged is not left out
    assert (tmp_path / "general.png").stat().st_size > 3_000


def test_runs_on_other_libraries_tasks_are_read_beside_and_seeds_in_folders_of_their_own_are_joined(tmp_path):
    for name, scores in (("dreamer_v3-walker-walk-seed0", [600.0]), ("dreamer_v3-walker-walk-seed1", [800.0])):
        write_run(tmp_path / "dm_control", name, [0.0])
        path = tmp_path / "dm_control" / name / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eval_return": scores}))
    write_run(tmp_path, "craftax-ppo", [1.4, 11.7, 22.0, 11.7])
    rows = general.rows_elsewhere(tmp_path)
    assert [row[:5] for row in rows] == [
        ["Craftax-Classic", "ppo", "general", 4, 1_000],
        ["dm_control walker-walk", "dreamer_v3", "general", 2, 1_000],
    ]
    np.testing.assert_allclose([row[5:] for row in rows], [[11.7, 1.4, 0.5], [700.0, 600.0, 0.7]])


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        suite.main(["general", "--runs", str(tmp_path)])
    assert "no run of pendulum" in capsys.readouterr().err
