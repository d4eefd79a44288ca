"""The reaching task: moves, edges, rewards and the best return, against plain NumPy; what both forms show."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, DictSpace, MultiDiscrete, multi_binary
from mbrl_jax.envs import reach
from mbrl_jax.envs.registry import make_env


def test_steps():
    env = make_env("Reach")
    assert env.spec.action == MultiDiscrete((3, 3))
    rng, step = np.random.default_rng(0), jax.jit(env.step)
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    point, goal = np.asarray(state.point), np.asarray(state.goal)
    assert (point != goal).any()
    for i in range(reach.STEPS):
        action = rng.integers(0, 3, 2)
        state, obs, reward, discount, last = step(jax.random.key(0), state, jnp.asarray(action, jnp.int32))
        point = np.clip(point + action - 1, 0, 10)
        there = (point == goal).all()
        np.testing.assert_allclose(obs, np.concatenate([point, goal]) / 5 - 1, atol=1e-6)
        assert float(reward) == pytest.approx(1.0 if there else -0.05)
        assert (float(discount), bool(last)) == (1.0 - there, there or i == reach.STEPS - 1)
        if there:
            break


def test_goals_are_never_where_the_point_is_and_the_best_return_is_as_documented():
    states, _ = jax.jit(jax.vmap(reach.reach().reset))(jax.random.split(jax.random.key(0), 4000))
    away = np.abs(np.asarray(states.point) - np.asarray(states.goal)).max(-1)
    assert away.min() == 1
    assert np.mean(1 - 0.05 * (away - 1)) == pytest.approx(0.79, abs=0.01)


def test_the_picture_shows_the_point_and_the_vector_the_goal():
    env = make_env("Reach-seen")
    assert isinstance(env.spec.obs, DictSpace)
    assert {name: space.shape for name, space in env.spec.obs.spaces.items()} == {"image": (32, 32, 3), "goal": (2,)}
    state = reach.State(jnp.array([10, 5]), jnp.array([0, 10]), jnp.int32(0))
    assert env.observe is not None
    obs = env.observe(state)
    np.testing.assert_allclose(obs["goal"], [-1.0, 1.0])
    light = np.asarray(obs["image"], float).sum(-1)
    rows, columns = np.nonzero(light > light.max() / 2)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((16, 16 * 1.85), abs=0.6)
    with pytest.raises(ValueError, match="size must be at least 8 pixels, got 4"):
        reach.reach_seen(4)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        reach.reach(0)


def test_vectors_of_discrete_actions():
    space = MultiDiscrete((3, 2, 4))
    assert (space.shape, space.size, space.dtype) == ((3,), 9, jnp.int32)
    drawn = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 3000)))
    assert drawn.dtype == np.int32
    for i, n in enumerate(space.nvec):
        np.testing.assert_allclose(np.bincount(drawn[:, i]) / 3000, np.full(n, 1 / n), atol=0.05)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1]) < 0.06
    np.testing.assert_array_equal(space.one_hot(jnp.array([2, 0, 1])), [0, 0, 1, 1, 0, 0, 1, 0, 0])
    assert [part.tolist() for part in space.split(jnp.arange(9))] == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    assert multi_binary(3) == MultiDiscrete((2, 2, 2))


def test_a_dict_of_spaces_has_no_shape():
    with pytest.raises(ValueError, match="observations must be one array, got a dict of goal, image"):
        _ = DictSpace({"image": Box((4, 4, 3)), "goal": Box((2,))}).shape
