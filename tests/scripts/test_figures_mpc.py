"""The figure of planning with the true model, made small, with the values in it."""

from __future__ import annotations

import csv

import jax
import numpy as np
import pytest
from figures import suite as figures
from figures.mpc import NOTHING, TASKS, Task, episode, idle, is_solved, model_steps, mpc_figure, planning

from mbrl_jax import presets
from mbrl_jax.envs.cartpole import continuous_cartpole
from mbrl_jax.envs.registry import make_env
from mbrl_jax.planners.mpc.choice import KINDS

SMALL = {
    "planner.cem.horizon": 40, "planner.cem.population": 60, "planner.cem.elites": 6, "planner.cem.iterations": 2,
    "planner.mppi.horizon": 40, "planner.mppi.population": 60, "planner.mppi.iterations": 2,
}  # fmt: skip


def steps_until_it_falls(state) -> int:
    """Gymnasium's cart-pole left alone, in plain floats."""
    x, x_dot, theta, theta_dot = map(float, state)
    for n in range(1, 201):
        push = 0.05 * theta_dot**2 * np.sin(theta) / 1.1
        turn = (9.8 * np.sin(theta) - np.cos(theta) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1))
        speed = push - 0.05 * turn * np.cos(theta) / 1.1
        x, x_dot, theta, theta_dot = (
            x + 0.02 * x_dot, x_dot + 0.02 * speed, theta + 0.02 * theta_dot, theta_dot + 0.02 * turn,
        )  # fmt: skip
        if abs(x) > 2.4 or abs(theta) > np.pi / 15:
            return n
    return 200


def test_planners_balance_a_pole_that_falls_by_itself(tmp_path, capsys):
    found = mpc_figure(tmp_path, seeds=3, tasks=("ContinuousCartPole",), kinds=("cem", "mppi"), changes=SMALL)
    starts = [
        continuous_cartpole().reset(jax.random.split(jax.random.split(jax.random.key(seed))[0], 1)[0])[1]
        for seed in range(3)
    ]
    alone = [steps_until_it_falls(start) for start in starts]
    assert max(alone) < 150
    np.testing.assert_array_equal(found["ContinuousCartPole", NOTHING], alone)
    for kind in ("cem", "mppi"):
        np.testing.assert_array_equal(found["ContinuousCartPole", kind], 200.0)
    rows = list(csv.DictReader((tmp_path / "mpc.csv").read_text().splitlines()))
    assert [(row["planner"], row["seed"]) for row in rows] == [
        (kind, str(seed)) for kind in (NOTHING, "cem", "mppi") for seed in range(3)
    ]
    assert [row["model_steps"] for row in rows] == ["0"] * 3 + [str(40 * 2 * 60)] * 6
    assert [float(row["return"]) for row in rows] == [*alone, *[200.0] * 6]
    assert [row["length"] for row in rows] == [str(round(float(row["return"]))) for row in rows], "1 for each step"
    assert (tmp_path / "mpc.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    printed = capsys.readouterr().out.splitlines()
    solved = {line.split()[1]: line.split()[-3] for line in printed if line.startswith("ContinuousCartPole")}
    assert solved == {NOTHING: "no", "cem": "yes", "mppi": "yes"}


def test_a_car_left_alone_gets_nowhere():
    env = presets.suited("mpc", make_env("MountainCarContinuous-v0"))
    total, length = jax.jit(episode(idle(env), env))(jax.random.key(0))
    assert (float(total), int(length)) == (0.0, 999)


@pytest.mark.parametrize("name", TASKS)
def test_budgets_are_equal(name):
    """360 candidates for each step of the horizon, whatever the planner."""
    for kind in KINDS:
        plans = planning(name, kind).planner
        assert plans.kind == kind
        assert model_steps(plans) == 360 * getattr(plans, kind).horizon, kind
    assert len({getattr(planning(name, kind).planner, kind).horizon for kind in KINDS}) == 1


def test_the_gradient_planners_rounds_are_counted():
    cfg = planning(
        "Pendulum-v1", "gradient", {"planner.gradient.restarts": 3, "planner.gradient.iterations": 4}
    ).planner
    assert model_steps(cfg) == 3 * 5 * cfg.gradient.horizon


def test_unequal_budgets_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"equal budgets of model steps in Pendulum-v1, got .*'cem': 7220"):
        mpc_figure(tmp_path, seeds=2, tasks=("Pendulum-v1",), kinds=("mppi", "cem"), changes={
            "planner.cem.population": 361, "planner.cem.iterations": 1,
        })  # fmt: skip


def test_what_counts_as_solved():
    nothing = np.array([5.0, 15.0])
    assert is_solved(Task("", bar=20.0), np.array([10.0, 30.0]), nothing)
    assert not is_solved(Task("", bar=20.0), np.array([10.0, 29.0]), nothing)
    assert is_solved(Task("", bar=None, above=40.0), np.array([50.0, 50.0]), nothing)
    assert not is_solved(Task("", bar=None, above=40.0), np.array([50.0, 49.0]), nothing)
    assert is_solved(Task("", bar=0.0), np.array([0.0, 0.0]), nothing)


def test_the_command_reaches_it(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr("figures.mpc.mpc_figure", lambda out, **rest: called.append((out, rest)))
    figures.main(["mpc", "--out", str(tmp_path)])
    figures.main(["mpc", "--out", str(tmp_path), "--seeds", "3"])
    assert called == [(tmp_path, {"seeds": 8}), (tmp_path, {"seeds": 3})]
