"""`mbrl-jax collect`: the file it writes, what it says, and what it refuses."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mbrl_jax import presets
from mbrl_jax.buffers import datasets
from mbrl_jax.cli import main
from mbrl_jax.core.config import replace
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets import restore
from mbrl_jax.presets.restore import Loaded
from mbrl_jax.train.loop import LoopState


@pytest.fixture
def run(monkeypatch):
    """A run that has learned nothing; the seeds and checkpoints that were asked for."""
    asked = []

    def load(folder, seed, checkpoint):
        asked.append((str(folder), seed, checkpoint))
        raw = make_env("Pendulum-v1")
        cfg = replace(presets.AGENTS["bc"].config(), {"hidden": (4,)})
        agent, env = presets.learner("bc", raw, cfg)
        state = LoopState(jax.random.key(0), agent.init(jax.random.key(0)), (), None)
        return Loaded("bc", "Pendulum-v1", cfg, agent, env, state, 3, env, 30, raw)

    monkeypatch.setattr(restore, "load_run", load)
    return asked


def test_a_data_set_is_written_and_summed_up(run, tmp_path, capsys):
    out = tmp_path / "a.npz"
    words = [
        "collect",
        "runs/x",
        "--out",
        str(out),
        "--steps",
        "410",
        "--envs",
        "2",
        "--seed",
        "1",
        "--checkpoint",
        "7",
    ]
    assert main([*words, "--random", "0.2"]) == 0
    assert run == [("runs/x", 1, "7")]
    data = datasets.load(out)
    assert (data.rows, data.about["run"], data.about["seed"], data.about["random"]) == (410, "runs/x", 1, 0.2)
    said = capsys.readouterr().out
    assert said.startswith("410 rows, 0 complete episodes")  # 164 rows of each copy are the policy's
    assert main([*words[:5], "400", "--envs", "2"]) == 0
    whole = datasets.load(out)
    np.testing.assert_allclose(whole.about["mean_return"], datasets.returns(whole).mean(), rtol=1e-6)
    assert "400 rows, 2 complete episodes, mean return -" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out a.npz", "--steps must be given"),
        ("--out a.npz --steps 0", "--steps must be from 1 to 10000000, got 0"),
        ("--out a.csv --steps 5", "--out must end in .npz, or be minari:ID, got a.csv"),
        ("--out no/a.npz --steps 5", "--out: there is no folder no"),
        ("--out a.npz --steps 5 --random 1.5", "--random must be from 0 to 1, got 1.5"),
        ("--out a.npz --steps 5 --envs 0", "--envs must be from 1 to 10000, got 0"),
        ("--out a.npz --steps 5 --key -1", "--key must be at least 0"),
        ("--out a.npz --replay --steps 5", "--steps, --sampled and --random do not go with it"),
        ("--out a.npz --replay", "--replay needs a run that keeps single transitions"),
        ("--steps 5", "--out"),
    ],
)
def test_what_is_wrong_is_one_line(words, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "runs/x", *words.split()]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert message in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["collect", str(tmp_path / "none"), "--out", str(tmp_path / "a.npz"), "--steps", "5"]) == 2
    assert "no run in" in capsys.readouterr().err
