"""One planner object on every kind of model: the true environment, a count table, an ensemble, a latent model."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

from mbrl_jax.core import Spec
from mbrl_jax.envs.mdp import as_env
from mbrl_jax.models import tabular
from mbrl_jax.planners import mpc
from mbrl_jax.testing.planners import BEST, GAMMA, HORIZON, check_planner, counted, find_faults, open_loop, table

POINT_PLANNERS = {
    "shooting": lambda spec: mpc.shooting(mpc.Shooting(horizon=HORIZON, population=5000, particles=4), spec),
    "cem": lambda spec: mpc.cem(
        mpc.CEM(horizon=HORIZON, population=200, elites=20, iterations=6, particles=4, proposals=5), spec
    ),
    "icem": lambda spec: mpc.icem(
        mpc.ICEM(horizon=HORIZON, population=300, iterations=3, particles=4, beta=0.5, proposals=5), spec
    ),
    "mppi": lambda spec: mpc.mppi(
        mpc.MPPI(horizon=HORIZON, population=500, iterations=8, particles=4, kappa=30.0, sigma=0.3, beta=0.95), spec
    ),
    "mppi_elites": lambda spec: mpc.mppi_elites(
        mpc.MPPIElites(horizon=HORIZON, particles=4, kappa=3.0, gamma=1.0, explore=0.0), spec
    ),
}


@pytest.mark.parametrize("name", POINT_PLANNERS)
def test_one_planner_pushes_the_point_in_every_model(name):
    # its own step combines the members of "ensemble-ts1": to a planner it is like any other model
    check_planner(POINT_PLANNERS[name], skip=() if name == "cem" else ("ensemble-ts1",))


TABLE_PLANNERS = {
    "shooting": lambda spec: mpc.shooting(
        mpc.Shooting(horizon=3, population=500, particles=64, gamma=GAMMA, proposals=5), spec
    ),
    "cem": lambda spec: mpc.cem(mpc.CEM(horizon=3, population=100, elites=10, particles=32, gamma=GAMMA), spec),
    "mppi": lambda spec: mpc.mppi(
        mpc.MPPI(horizon=3, population=100, iterations=4, particles=32, gamma=GAMMA, kappa=4.0), spec
    ),
}


@pytest.mark.parametrize("name", TABLE_PLANNERS)
def test_one_planner_finds_the_way_in_every_model(name):
    assert max(itertools.product(range(3), repeat=3), key=open_loop) == BEST
    # "expectation" is the same table, in the form whose states are distributions
    check_planner(TABLE_PLANNERS[name], "discrete", skip=() if name == "cem" else ("expectation",))


def broken(kind):
    """A planner with one fault."""

    def make(spec: Spec):
        right = POINT_PLANNERS["cem"](spec)

        def plan(key, model, state, warm):
            action, after, info = right.plan(key, model, state, warm)
            if kind == "random":
                action = jax.random.uniform(key, (1,), minval=-1.0, maxval=-0.5)
                return action, after, info._replace(actions=info.actions.at[0].set(action))
            if kind == "shape":
                return action[0], after, info
            if kind == "warm":
                return action, (after, after), info
            if kind == "raises":
                raise RuntimeError("no plan today")
            return jnp.clip(action + 0.3, 0.0, 2.0), after, info

        return right._replace(plan=plan)

    return make


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("random", "the best one"),
        ("shape", r"an action must be float32[1], got float32[]"),
        ("warm", "must have the structure"),
        ("raises", "plan: raised RuntimeError: no plan today"),
        ("other", "must be the first of info.actions"),
    ],
)
def test_faults_are_found(kind, said):
    skip = ("ensemble", "ensemble-ts1", "latent")
    faults = find_faults(broken(kind), skip=skip)
    assert any(said in fault for fault in faults), faults
    assert all(fault.startswith("in the environment: ") for fault in faults)
    with pytest.raises(ValueError, match="the planner breaks its contract:\n  - in the environment"):
        check_planner(broken(kind), skip=skip)


def test_a_value_makes_a_short_horizon_long():
    """Within two steps the best way has no reward; with the value of the state after them, it is chosen."""
    values = jnp.array([0.0, 3.0, 4.0, 0.0, 0.0])
    blind = tabular.model(counted(), "sample")
    seeing = blind._replace(value=lambda key, state: values[state])
    spec, short = as_env(table()).spec, dict(horizon=2, population=50, particles=32, gamma=GAMMA)
    planner = mpc.cem(mpc.CEM(elites=5, **short), spec)
    first = [
        int(jax.jit(planner.plan, static_argnums=1)(jax.random.key(0), model, jnp.int32(0), planner.init())[0])
        for model in (blind, seeing)
    ]
    assert first[0] in (0, 2)
    assert first[1] == 1
