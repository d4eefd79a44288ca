"""Trackers get the rows of the CSV files; each library is tried offline where it is installed."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.train import trackers
from mbrl_jax.train.run import Event

SMALL = {"hidden": (4,), "batch": 4}
LOOP = {"warmup": 10, "inner": 5, "cycles": 1, "eval_episodes": 2, "capacity": 100}


def event(**changes):
    return Event(Path("run"), 1, 15, 5, 2.5, (3, 4), {"return": np.array([7.0, 0.0]), "episodes": np.array([2.0, 0.0]),
                 "loss": np.array([0.5, 0.25])}, np.array([[1.0, 3.0], [5.0, 7.0]]), np.array([[4, 6], [8, 8]]), None,
                 )._replace(**changes)  # fmt: skip


def test_scalars_are_those_of_each_seed_and_what_is_missing_is_left_out():
    found = trackers.scalars(event())
    assert found[3] == {"episodes": 2.0, "loss": 0.5, "train/return": 7.0, "eval/return": 2.0, "eval/length": 5.0,
                        "time/wall_seconds": 2.5}  # fmt: skip
    assert "train/return" not in found[4], "no episode ended"
    assert found[4]["eval/return"] == 6.0
    assert "eval/return" not in trackers.scalars(event(returns=np.zeros((2, 0)), lengths=np.zeros((2, 0))))[3]


def train(folder, name, **more):
    return mbrl.train("dqn", "CartPole-v1", out=folder, steps=25, seeds=2, seed=3, agent=SMALL, loop=LOOP, track=name,
                      **more)  # fmt: skip


def rows(folder):
    """The evaluation return of each seed by steps, as the CSV file has it."""
    with open(folder / "metrics.csv") as file:
        return {(row["seed"], int(row["env_steps"])): float(row["eval_return"]) for row in csv.DictReader(file)}


def test_tensorboard_shows_the_rows_and_a_resumed_run_goes_on(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard to read the files"
    )
    train(tmp_path / "run", "tensorboard")
    mbrl.resume(tmp_path / "run", steps=30, track="tensorboard")
    written = rows(tmp_path / "run")
    assert len(written) == 8
    for seed in ("3", "4"):
        reader = events.EventAccumulator(str(tmp_path / "run" / "tensorboard" / f"seed_{seed}"))
        reader.Reload()
        assert {"eval/return", "eval/length", "loss", "episodes", "time/wall_seconds"} <= set(reader.Tags()["scalars"])
        shown = {(seed, point.step): point.value for point in reader.Scalars("eval/return")}
        assert shown == pytest.approx({key: value for key, value in written.items() if key[0] == seed})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")  # its own
def test_mlflow_keeps_the_rows_in_the_folder_of_the_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(tmp_path / "run", ["mlflow"])
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (experiment,) = [known for known in client.search_experiments() if known.name == "mbrl_jax"]
    found = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.params["seed"] for run in found) == ["3", "4"]
    for run in found:
        assert run.data.params["agent.batch"] == "4"
        assert run.info.status == "FINISHED"
        seed = run.data.params["seed"]
        shown = {(seed, point.step): point.value for point in client.get_metric_history(run.info.run_id, "eval/return")}
        assert shown == pytest.approx({key: value for key, value in rows(tmp_path / "run").items() if key[0] == seed})


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "run", ["wandb"])
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert all(b"eval/return" in file.read_bytes() for file in files)


def test_what_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="track must be of tensorboard, wandb, mlflow, got 'pen'"):
        train(tmp_path / "run", "pen")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"track: wandb needs wandb: pip install 'mbrl_jax\[wandb\]'"):
        train(tmp_path / "run", "wandb")
    assert not (tmp_path / "run").exists()
