"""An environment that breaks at step 300: one line, what was learned is saved, and the run goes on from there."""

from __future__ import annotations

import csv

import pytest

import mbrl_jax as mbrl
from mbrl_jax.cli import train
from mbrl_jax.train import compilation

pytest.importorskip("gymnasium", reason="gymnasium is an extra")

NAME = "gymnasium:helpers.host_envs:Hostile-v0"
SMALL = (
    f"sac --env {NAME} --env-arg max_episode_steps=50 --agent.hidden 16 16 --agent.batch 16 --steps 700 --quiet"
    " --out run --loop.num-envs 2 --loop.inner 60 --loop.cycles 1 --loop.warmup 60 --loop.eval-episodes 1"
)
SAID = {
    "nan": "the observation is NaN in 1 of 3 entries, first [1]",
    "shape": "the observation must have shape (3,), as the space says, got (4,)",
    "raise": "step raised ZeroDivisionError: the motor stalled (host_envs.py, line ",
    "reward": "reward is NaN",
    "die": "its process ended by signal SIGKILL",
}
CASES = [(how, workers) for workers in (0, 2) for how in SAID if workers or how != "die"]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "workers"), CASES)
def test_a_hostile_environment_ends_in_one_line_and_goes_on(how, workers, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    words = [*SMALL.split(), "--env-arg", f"how={how}", "--env-workers", str(workers)]
    assert train.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: environment {NAME}, copy 0, step 300: {SAID[how]}")
    assert said.count("\n") == 1
    assert int(mbrl.load("run").state.buffer.size) == 2 * 299  # all whole iterations, of two environments
    assert train.main([*words, "--resume"]) == 0
    with open("run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["env_steps"]) for row in rows] == [240, 360, 480, 600, 720]
    assert [int(row["updates"]) for row in rows] == [60, 120, 180, 240, 300]
