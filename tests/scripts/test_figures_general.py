"""The table of general settings, against values written out by hand."""

from __future__ import annotations

import csv
import json

import pytest
from figures import suite


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


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        suite.main(["general", "--runs", str(tmp_path)])
    assert "no run of pendulum" in capsys.readouterr().err
