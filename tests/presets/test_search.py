"""Search by Optuna over a function that is known, in place of training."""

from __future__ import annotations

import json
import math

import pytest

from mbrl_jax.cli.sweep import main
from mbrl_jax.presets import search, sweep_run

optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")

WORDS = [
    "sac", "--env", "ContinuousCartPole", "--search", "optuna", "--trials", "12", "--at-once", "4", "--seeds", "2",
    "--sample", "agent.lr=1e-5..1e-1", "--sample", "agent.gamma=0.9..0.99", "--sample", "agent.batch=8..64",
    "--set", "agent.hidden=8x8,16x16", "--steps", "40", "--quiet",
]  # fmt: skip


def score(values):
    """Best at a rate of 1e-3 and a discount of 0.95."""
    wide = 0.1 * (tuple(values["agent.hidden"]) == (16, 16))
    return wide - abs(math.log10(values["agent.lr"]) + 3) - 10 * abs(values["agent.gamma"] - 0.95)


@pytest.fixture
def ended(monkeypatch):
    """Trials end at once with their score, and with a diverged seed where the rate is above 0.03; lists the rounds."""
    rounds = []

    def work(sweep, out, numbers, groups, how):
        new = [name for name in map(sweep.name, range(len(sweep.trials))) if not (out / name).exists()]
        for name, values in zip(map(sweep.name, range(len(sweep.trials))), sweep.trials, strict=True):
            (out / name).mkdir(exist_ok=True)
            lost = {"env_steps": 1, "first": "loss"} if values["agent.lr"] > 0.03 else None
            told = {"env_steps": 40, "seeds": 2, "recent_eval_return": [score(values), score(values)]}
            told |= {"training_return": [0, 0], "diverged": [None, lost]}
            (out / name / "summary.json").write_text(json.dumps(told))
        rounds.append(len(new))
        return sweep_run.Outcome(True)

    monkeypatch.setattr(search, "work", work)
    monkeypatch.setattr(search, "planned", lambda sweep, workers=0: (sweep.groups(), ""))
    return rounds


def trials(folder):
    return json.loads((folder / "sweep.json").read_text())["trials"]


def test_a_search_asks_in_rounds_and_tells_what_trials_came_to(ended, tmp_path):
    assert main([*WORDS, "--out", str(tmp_path / "x")]) == 0
    assert ended == [0, 4, 4, 4]
    found = trials(tmp_path / "x")
    assert [*found] == [f"trial-{i:02d}" for i in range(12)]
    assert all(1e-5 <= values["agent.lr"] <= 0.1 and type(values["agent.batch"]) is int for values in found.values())
    study = search._study(tmp_path / "x")
    by_values = {json.dumps(t.params["agent.lr"]): t for t in study.trials}
    for values in found.values():
        trial = by_values[json.dumps(values["agent.lr"])]
        if values["agent.lr"] > 0.03:
            assert trial.state == optuna.trial.TrialState.FAIL
        else:
            assert trial.value == pytest.approx(score(values))
    programs = json.loads((tmp_path / "x" / "sweep.json").read_text())["programs"]
    assert sorted(i for group in programs for i in group) == [*range(12)]
    assert [sorted(i // 4 for i in group)[0] for group in programs] == sorted(min(g) // 4 for g in programs)


@pytest.mark.parametrize("place", ["asking", "telling", "running"])
def test_a_search_that_was_killed_goes_on_to_the_same_trials(ended, tmp_path, monkeypatch, place):
    assert main([*WORDS, "--out", str(tmp_path / "whole")]) == 0
    name = {"asking": "write", "telling": "_tell", "running": "work"}[place]
    usual, calls = getattr(search, name), []

    def die(*args, **rest):
        calls.append(None)
        if len(calls) == 3:
            raise KeyError("killed")
        return usual(*args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(search, name, die)
        with pytest.raises(KeyError, match="killed"):
            main([*WORDS, "--out", str(tmp_path / "broken")])
    assert len(trials(tmp_path / "broken")) < 12
    assert main([*WORDS, "--out", str(tmp_path / "broken"), "--resume"]) == 0
    assert trials(tmp_path / "broken") == trials(tmp_path / "whole")
    assert main([*WORDS, "--out", str(tmp_path / "other"), "--seed", "7"]) == 0
    assert trials(tmp_path / "other") != trials(tmp_path / "whole")
