"""Wrappers: each changes what its docstring says, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, Env, Spec
from mbrl_jax.envs import make_env, wrappers


def counting(obs_space, action_space, view, time_limit=None):
    """Adds the action to its state and terminates at 5 and above; `view` makes the observation."""

    def step(key, state, action):
        state = state + jnp.sum(action)
        ended = state >= 5
        return state, view(state), 10.0 * state, 1.0 - ended.astype(jnp.float32), ended

    spec = Spec(obs_space, action_space, time_limit=time_limit, name="counting")
    return Env(spec, lambda key: (jnp.zeros(()), view(jnp.zeros(()))), step, observe=view)


KEY = jax.random.key(0)


def test_a_pool_is_one_program_also_where_a_trace_asks_for_it_first():
    env = make_env("Pendulum-v1")
    constants = []

    def reset(key):
        constants.append(jnp.arange(3) * 2)  # thousands of these in Craftax's maps: no programs of their own
        return env.reset(key)

    pooled = wrappers.reset_pool(env._replace(reset=reset), 3, seed=5)
    state, obs = jax.jit(pooled.reset)(jax.random.key(0))
    assert [isinstance(made, jax.core.Tracer) for made in constants] == [True]
    states, starts = jax.vmap(env.reset)(jax.random.split(jax.random.key(5), 3))
    i = int(jax.random.randint(jax.random.key(0), (), 0, 3, jnp.int32))
    np.testing.assert_array_equal(obs, starts[i])
    for one, all_of_them in zip(jax.tree.leaves(state), jax.tree.leaves(states), strict=True):
        np.testing.assert_array_equal(one, all_of_them[i])


def test_a_pool_of_resets_gives_each_of_its_states_and_no_other():
    env = make_env("CartPole-v1")
    pooled = wrappers.reset_pool(env, 3, seed=5)
    keys = jax.random.split(jax.random.key(0), 60)
    _, seen = jax.jit(jax.vmap(pooled.reset))(keys)
    want = np.stack([env.reset(key)[1] for key in jax.random.split(jax.random.key(5), 3)])
    which = np.argmin(np.abs(np.asarray(seen)[:, None] - want).sum(-1), 1)
    np.testing.assert_allclose(seen, want[which], rtol=1e-6)
    assert set(which) == {0, 1, 2}
    state, obs = pooled.reset(jax.random.key(1))
    np.testing.assert_allclose([state.x, state.theta], [obs[0], obs[2]])
    assert pooled.step is env.step
    with pytest.raises(ValueError, match="reset_pool needs at least 1 state, got 0"):
        wrappers.reset_pool(env, 0)


def test_flatten():
    grid = Box((2, 3), np.arange(6.0).reshape(2, 3), 9.0, jnp.int32)
    env = wrappers.flatten(counting(grid, Discrete(2), lambda s: jnp.arange(6).reshape(2, 3) + s.astype(jnp.int32)))
    space = env.spec.obs
    assert isinstance(space, Box)
    assert (space.shape, space.high, space.dtype) == ((6,), 9.0, jnp.float32)
    np.testing.assert_array_equal(space.low, np.arange(6.0))
    state, obs = env.reset(KEY)
    np.testing.assert_array_equal(obs, np.arange(6.0))
    state, obs, reward, discount, last = env.step(KEY, state, jnp.float32(2))
    np.testing.assert_array_equal(obs, np.arange(6.0) + 2)
    assert obs.dtype == jnp.float32
    assert env.observe is not None
    np.testing.assert_array_equal(env.observe(state), obs)
    assert (float(reward), float(discount), bool(last)) == (20.0, 1.0, False)
    with pytest.raises(ValueError, match="use one_hot"):
        wrappers.flatten(counting(Discrete(3), Discrete(2), lambda s: s))


def test_one_hot():
    env = wrappers.one_hot(counting(Discrete(4), Discrete(2), lambda s: s.astype(jnp.int32)))
    assert env.spec.obs == Box((4,), 0.0, 1.0)
    state, obs = env.reset(KEY)
    np.testing.assert_array_equal(obs, [1.0, 0.0, 0.0, 0.0])
    state, obs, *_ = env.step(KEY, state, jnp.float32(2))
    np.testing.assert_array_equal(obs, [0.0, 0.0, 1.0, 0.0])
    assert env.observe is not None
    np.testing.assert_array_equal(env.observe(state), obs)
    with pytest.raises(ValueError, match="one_hot needs discrete"):
        wrappers.one_hot(env)


def test_scale_action():
    box = Box((2,), np.array([0.0, -3.0]), np.array([1.0, 1.0]))
    env = wrappers.scale_action(counting(Box(()), box, lambda s: s))
    assert env.spec.action == Box((2,), -1.0, 1.0)
    state, _ = env.reset(KEY)

    def total(action):
        return float(env.step(KEY, state, jnp.array(action))[0])

    assert total([-1.0, -1.0]) == 0.0 - 3.0
    assert total([1.0, 1.0]) == 1.0 + 1.0
    assert total([0.0, 0.5]) == 0.5 + 0.0
    assert total([7.0, -7.0]) == 1.0 - 3.0  # outside is clipped
    for space in (Discrete(2), Box((2,)), Box((2,), -1.0, np.array([1.0, np.inf]))):
        with pytest.raises(ValueError, match="scale_action needs"):
            wrappers.scale_action(counting(Box(()), space, lambda s: s))


def test_scale_obs():
    box = Box((2,), np.array([-1.0, 0.0]), np.array([3.0, 0.1]))
    env = wrappers.scale_obs(counting(box, Box(()), lambda s: jnp.stack([s, s / 40.0])))
    assert env.spec.obs == Box((2,), -1.0, 1.0)
    state, obs = env.reset(KEY)
    np.testing.assert_allclose(obs, [-0.5, -1.0], atol=1e-6)  # of (0, 0)
    state, obs, *_ = env.step(KEY, state, jnp.float32(2.0))
    np.testing.assert_allclose(obs, [0.5, 0.0], atol=1e-6)  # of (2, 0.05)
    assert env.observe is not None
    np.testing.assert_allclose(env.observe(state), obs)
    for space in (Discrete(2), Box((2,)), Box((2,), 0.0, np.array([1.0, 0.0]))):
        with pytest.raises(ValueError, match="scale_obs needs"):
            wrappers.scale_obs(counting(space, Box(()), lambda s: s))


def test_repeat_action():
    env = wrappers.repeat_action(counting(Box(()), Box(()), lambda s: s, time_limit=7), 3)
    assert env.spec.time_limit == 3
    state, _ = env.reset(KEY)
    state, obs, reward, discount, last = env.step(KEY, state, jnp.float32(1.0))
    assert (float(obs), float(reward), float(discount), bool(last)) == (3.0, 10.0 + 20.0 + 30.0, 1.0, False)
    state, obs, reward, discount, last = env.step(KEY, state, jnp.float32(1.0))  # ends at 5, one step before the third
    assert (float(obs), float(reward), float(discount), bool(last)) == (5.0, 40.0 + 50.0, 0.0, True)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        wrappers.repeat_action(env, 0)


def test_repeated_steps_use_different_keys():
    def step(key, state, action):
        return state, state, jax.random.uniform(key), jnp.ones(()), jnp.zeros((), bool)

    noisy = Env(Spec(Box(()), Box(()), None, name="noisy"), lambda key: (jnp.zeros(()), jnp.zeros(())), step)
    env = wrappers.repeat_action(noisy, 4)
    reward = env.step(KEY, jnp.zeros(()), jnp.zeros(()))[2]
    assert float(reward) == pytest.approx(sum(float(jax.random.uniform(jax.random.fold_in(KEY, i))) for i in range(4)))


def test_time_limit():
    env = wrappers.time_limit(counting(Box(()), Box(()), lambda s: s), 3)
    assert env.spec.time_limit == 3
    state, _ = env.reset(KEY)
    seen = []
    for action in (1.0, 1.0, 1.0, 3.0):
        state, obs, _, discount, last = env.step(KEY, state, jnp.float32(action))
        seen.append((float(obs), float(discount), bool(last)))
    # Cut off at 3 with discount 1; what terminates later still does.
    assert seen == [(1.0, 1.0, False), (2.0, 1.0, False), (3.0, 1.0, True), (6.0, 0.0, True)]
    assert env.observe is not None
    assert float(env.observe(state)) == 6.0
    state, _ = env.reset(KEY)
    _, _, _, discount, last = env.step(KEY, state, jnp.float32(5))
    assert (float(discount), bool(last)) == (0.0, True)


def test_time_limit_is_the_shorter_one():
    short = counting(Box(()), Box(()), lambda s: s, time_limit=2)
    assert wrappers.time_limit(short, 7).spec.time_limit == 2
    assert wrappers.time_limit(short, 1).spec.time_limit == 1
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        wrappers.time_limit(short, 0)


def picture(view):
    """`counting` observed as an image of bytes [4, 6, 3]."""
    base = np.random.default_rng(0).integers(0, 100, (4, 6, 3), np.uint8)
    space = Box((4, 6, 3), 0, 255, jnp.uint8)
    return counting(space, Discrete(2), lambda s: view(jnp.asarray(base), s.astype(jnp.uint8))), base


def test_grey_and_resize():
    env, base = picture(lambda image, s: image + s)
    small = wrappers.resize(wrappers.grey(env), 2, 3)
    assert small.spec.obs == Box((2, 3, 1), 0, 255, jnp.uint8)
    state, _ = small.reset(KEY)
    state, obs, *_ = small.step(KEY, state, jnp.float32(2))
    grey = np.round((base + 2.0) @ [0.299, 0.587, 0.114])
    expected = [[grey[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(3)] for i in range(2)]
    assert obs.dtype == jnp.uint8
    np.testing.assert_allclose(obs[..., 0], expected, atol=0.51)
    assert small.observe is not None
    np.testing.assert_array_equal(small.observe(state), obs)
    assert wrappers.resize(env, 8).spec.obs == Box((8, 8, 3), 0, 255, jnp.uint8)
    for wrapped in (wrappers.grey, lambda env: wrappers.resize(env, 2)):
        with pytest.raises(ValueError, match=r"needs images \[height, width, channels\] of bytes, counting has Box"):
            wrapped(counting(Box((3,)), Discrete(2), lambda s: jnp.zeros(3)))
    with pytest.raises(ValueError, match="grey needs images of 3 channels, counting has 1"):
        wrappers.grey(wrappers.grey(env))
    with pytest.raises(ValueError, match="resize must be given sizes of at least 1, got 0 and 0"):
        wrappers.resize(env, 0)


def test_frame_stack():
    env, base = picture(lambda image, s: image + s)
    stacked = wrappers.frame_stack(env, 3)
    assert stacked.spec.obs == Box((4, 6, 9), 0, 255, jnp.uint8)
    state, obs = stacked.reset(KEY)
    seen = [base, base, base]
    for action in (1, 2, 1):
        np.testing.assert_array_equal(obs, np.concatenate(seen, axis=-1))
        state, obs, reward, *_ = stacked.step(KEY, state, jnp.float32(action))
        seen = [*seen[1:], base + np.uint8(reward / 10)]
    np.testing.assert_array_equal(obs, np.concatenate(seen, axis=-1))
    assert stacked.observe is not None
    np.testing.assert_array_equal(stacked.observe(state), obs)
    bounds = wrappers.frame_stack(counting(Box((1, 1, 2), np.array([[[1.0, 2.0]]]), 9.0), Discrete(2), None), 2)
    np.testing.assert_array_equal(bounds.spec.obs.low, [[[1.0, 2.0, 1.0, 2.0]]])
    with pytest.raises(ValueError, match="must be given at least 1 frame, got 0"):
        wrappers.frame_stack(env, 0)
