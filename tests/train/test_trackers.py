"""Trackers get the rows of the CSV files; each library is tried offline where it is installed."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

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
        assert reader.Tags()["images"] == (["film"] if seed == "3" else [])
    reader = events.EventAccumulator(str(tmp_path / "run" / "tensorboard" / "seed_3"))
    reader.Reload()
    assert [image.step for image in reader.Images("film")] == [25, 30], "at the end of each of the two runs"
    assert reader.Images("film")[-1].encoded_image_string == (tmp_path / "run" / "pictures" / "film.gif").read_bytes()


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
        kept = [file.path for file in client.list_artifacts(run.info.run_id, "pictures")]
        assert kept == (["pictures/film.gif"] if seed == "3" else [])
    assert any((tmp_path / "run" / "mlflow_files").rglob("film.gif"))


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "run", ["wandb"])
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert all(b"eval/return" in file.read_bytes() for file in files)
    assert len(list((tmp_path / "run" / "wandb").rglob("film*.gif"))) == 1


class Kept:
    """A tracker that keeps what it is shown."""

    shown: ClassVar[list] = []

    def __init__(self, job):
        self.shown.clear()

    def __call__(self, event):
        pass

    def show(self, picture, env_steps):
        self.shown.append(
            (picture.seed, picture.name, picture.path.suffix, env_steps, picture.path.stat().st_size > 500)
        )


def test_pictures_are_shown_at_the_end_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(trackers.TRACKERS, "kept", (Kept, "nothing"))
    stopped = train(tmp_path / "run", "kept", callback=lambda event: event.env_steps >= 20)
    assert not stopped.finished
    assert Kept.shown == []
    mbrl.resume(tmp_path / "run", track="kept")
    assert Kept.shown == [(3, "film", ".gif", 25, True)]
    with Image.open(tmp_path / "run" / "pictures" / "film.gif") as film:
        assert getattr(film, "n_frames", 1) > 3

    def broken(state):
        raise ValueError("no light")

    env = mbrl.make_env("CartPole-v1")._replace(render=broken)
    result = mbrl.train("dqn", env, out=tmp_path / "dark", steps=15, agent=SMALL, loop=LOOP, track="kept")
    assert result.finished
    assert Kept.shown == []
    assert capsys.readouterr().err == "film.gif was not drawn: no light\n"


@pytest.mark.slow
def test_a_world_model_shows_what_it_imagines(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "kept", (Kept, "nothing"))
    small = {"net.deter": 8, "net.units": 8, "net.layers": 1, "batch": 2, "length": 4, "imagined": 2}
    loop = {"num_envs": 1, "warmup": 30, "inner": 5, "cycles": 1, "eval_episodes": 0}
    mbrl.train("dreamer_v2", "Pendulum-v1", out=tmp_path / "run", steps=35, agent=small, loop=loop, track="kept")
    assert [picture[1:3] for picture in Kept.shown] == [("film", ".gif"), ("imagined", ".png")]


def test_what_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="track must be of tensorboard, wandb, mlflow, got 'pen'"):
        train(tmp_path / "run", "pen")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"track: wandb needs wandb: pip install 'mbrl_jax\[wandb\]'"):
        train(tmp_path / "run", "wandb")
    assert not (tmp_path / "run").exists()
