"""Figures of learned models, made small: minutes of compiling."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from figures.dreams import temperature_figure
from figures.tasks import TASKS, tasks_figure

pytestmark = pytest.mark.slow
TINY_LATENT = {
    "net.units": 8, "net.encoder": 8, "net.latent": 8, "net.bins": 5, "batch": 4, "planner.population": 8,
    "planner.elites": 2, "planner.proposals": 2, "planner.iterations": 1,
}  # fmt: skip
TINY_DREAM = {
    "memory.hidden": 4, "length": 8, "memory_updates": 20, "dreams": 4, "population": 4, "generations": 2,
    "horizon": 20,
}  # fmt: skip


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_one_network_and_two_are_judged_on_each_task(tmp_path, capsys):
    found = tasks_figure(tmp_path, seeds=2, chunks=2, inner=20, warmup=20, episodes=1, changes=TINY_LATENT)
    assert {kind: scores.shape for kind, scores in found.items()} == {
        "all": (2, 2, 2),
        **dict.fromkeys(TASKS, (2, 2, 1)),
    }
    table = read(tmp_path / "tasks.csv")
    assert [row["steps"] for row in table[:4]] == ["40", "60", "40", "60"]
    for k, task in enumerate(TASKS):
        for kind, column in (("one for all", k), ("its own", 0)):
            told = [float(row["return"]) for row in table if (row["task"], row["network"]) == (task, kind)]
            scores = found["all" if kind == "one for all" else task][..., column]
            np.testing.assert_allclose(told, scores.ravel(), rtol=1e-4)
            assert np.all((scores < 0) if task.startswith("Pendulum") else (scores > -100))
    assert "one network for all" in capsys.readouterr().out
    assert (tmp_path / "tasks.png").stat().st_size > 5_000


def test_controllers_are_judged_in_dreams_and_in_the_world(tmp_path):
    found = temperature_figure(
        tmp_path, seeds=2, temperatures=(0.5, 1.0), cases=("ledge",), episodes=4, changes=TINY_DREAM
    )
    table = read(tmp_path / "temperature.csv")
    assert [(row["temperature"], row["seed"]) for row in table] == [("0.5", "0"), ("0.5", "1"), ("1", "0"), ("1", "1")]
    for part, scores in zip(("dream", "real"), found["ledge"], strict=True):
        assert scores.shape == (2, 2)
        np.testing.assert_allclose([float(row[part]) for row in table], scores.T.ravel(), rtol=1e-4)
    assert np.all((found["ledge"][1] >= 0) & (found["ledge"][1] <= 20))  # at most 1 in each of 20 steps
