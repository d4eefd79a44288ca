"""Runs kept from the version that made the fixtures: this version loads and resumes them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mbrl_jax.cli import train as cli
from mbrl_jax.presets.restore import load_run
from mbrl_jax.train import checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("algo", "steps"), [("q_learning", 2_000), ("dqn", 170)])
def test_a_kept_run_loads_and_resumes(tmp_path, algo, steps, capsys):
    out = Path(shutil.copytree(FIXTURES / algo, tmp_path / algo))
    config = json.loads((out / "config.json").read_text())
    found = load_run(out)
    assert found.algo == algo
    assert found.chunk == checkpoint.latest(out / "checkpoints")
    if algo == "q_learning":
        values = np.asarray(found.state.learner.q)
        assert values.shape == (16, 4)
        assert 0 <= values.min() < values.max() <= 1
    kept = rows(out)
    words = [word for word in config["command"].split()[3:] if word != "--quiet"]
    at = words.index("--out")
    words = [*words[:at], *words[at + 2 :], "--out", str(out), "--resume", "--steps", str(steps)]
    assert cli.main([algo, *words]) == 0
    assert "done after" in capsys.readouterr().out
    assert rows(out)[: len(kept)] == kept
    assert len(rows(out)) > len(kept)


def test_the_kept_runs_are_small():
    assert sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file()) < 100_000
