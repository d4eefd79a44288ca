"""Sparse rewards: where they are 1, how episodes begin, and that the dynamics are those of the tasks they come from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.envs import sparse
from mbrl_jax.envs.check import find_faults
from mbrl_jax.envs.registry import make_env

NAMES = {"Pendulum-sparse": "Pendulum-v1", "CartPoleSwingUp-sparse": "CartPoleSwingUp"}


@pytest.mark.parametrize(("degrees", "expected"), [(0, 1), (7.9, 1), (-7.9, 1), (8.1, 0), (90, 0), (180, 0)])
def test_the_pendulum_is_rewarded_within_eight_degrees_of_upright(degrees: float, expected: int) -> None:
    angle = np.deg2rad(degrees)
    obs = jnp.array([np.cos(angle), np.sin(angle), 3.0], jnp.float32)
    assert float(sparse.pendulum_reward(obs, jnp.ones(1))) == expected


@pytest.mark.parametrize(
    ("x", "degrees", "expected"), [(0, 0, 1), (0.24, 5.7, 1), (-0.26, 0, 0), (0.26, 0, 0), (0, 5.8, 0), (0, 180, 0)]
)
def test_the_cartpole_is_rewarded_upright_in_the_middle(x: float, degrees: float, expected: int) -> None:
    angle = np.deg2rad(degrees)
    obs = jnp.array([x, 0.0, np.sin(angle), np.cos(angle), 0.0], jnp.float32)
    assert float(sparse.swingup_reward(obs, jnp.ones(1))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_only_the_reward_and_the_start_differ_from_the_task(name: str) -> None:
    env, task = make_env(name), make_env(NAMES[name])
    assert env.spec.name == name
    for part in ("action", "time_limit", "terminates"):
        assert getattr(env.spec, part) == getattr(task.spec, part)
    np.testing.assert_array_equal(env.spec.obs.high, task.spec.obs.high)
    assert find_faults(env) == []
    state, _ = env.reset(jax.random.key(0))
    action = jnp.array([0.7])
    mine, theirs = (e.step(jax.random.key(1), state, action) for e in (env, task))
    np.testing.assert_array_equal(mine[1], theirs[1])
    assert float(mine[2]) == 0.0 != float(theirs[2])
    assert (float(mine[3]), bool(mine[4])) == (float(theirs[3]), bool(theirs[4]))


def test_the_pendulum_hangs_at_the_start() -> None:
    env = make_env("Pendulum-sparse", steps=30)
    assert env.spec.time_limit == 30
    obs = np.asarray(jax.vmap(lambda key: env.reset(key)[1])(jax.random.split(jax.random.key(0), 200)))
    assert obs[:, 0].max() < -0.99
    assert 0.08 < np.abs(obs[:, 1]).max() <= 0.1
    assert np.abs(obs[:, 2]).max() <= 0.1
