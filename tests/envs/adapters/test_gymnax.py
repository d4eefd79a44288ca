"""The gymnax adapter: what ends an episode, what cuts it off, and the true successor."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.envs.adapters import gymnax as adapter


def play(env, key, actions):
    """The states before, and everything `step` gives, along the given actions; as one compiled scan."""

    def one(state, at):
        key, action = at
        following, obs, reward, discount, last = env.step(key, state, action)
        return following, (state, obs, reward, discount, last)

    @jax.jit
    def run(key, actions):
        state, obs = env.reset(key)
        end, steps = jax.lax.scan(one, state, (jax.random.split(key, len(actions)), actions))
        return obs, end, steps

    return run(key, actions)


def cartpole_numpy(obs, action):
    """Gymnasium's CartPole step, written out again in float64."""
    x, x_dot, theta, theta_dot = np.asarray(obs, np.float64)
    force = 10.0 if action == 1 else -10.0
    temp = (force + 0.05 * theta_dot**2 * np.sin(theta)) / 1.1
    theta_acc = (9.8 * np.sin(theta) - np.cos(theta) * temp) / (0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1))
    x_acc = temp - 0.05 * theta_acc * np.cos(theta) / 1.1
    return np.array([x + 0.02 * x_dot, x_dot + 0.02 * x_acc, theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc])


def test_cartpole_ends_with_its_true_successor():
    env = adapter.make("CartPole-v1")
    obs, _, (_, following, reward, discount, last) = play(env, jax.random.key(0), jnp.ones(14, jnp.int32))
    want = np.asarray(obs)
    for t in range(14):
        want = cartpole_numpy(want, 1)
        np.testing.assert_allclose(following[t], want, rtol=1e-4, atol=1e-5)
        fallen = abs(want[2]) > 12 * np.pi / 180 or abs(want[0]) > 2.4
        assert bool(last[t]) == fallen
        assert float(discount[t]) == 1.0 - fallen
        want = np.asarray(following[t])
    end = int(np.argmax(last))
    assert 5 <= end <= 11  # pushed one way, the pole falls within about 10 steps
    np.testing.assert_array_equal(reward[: end + 1], 1.0)
    assert abs(float(following[end][2])) > 12 * np.pi / 180  # not the first observation of another episode


def test_pendulum_is_cut_off_and_never_ends():
    env = adapter.make("Pendulum-v1")
    actions = jax.random.uniform(jax.random.key(3), (202, 1), minval=-2.0, maxval=2.0)
    first, _, (states, obs, reward, discount, last) = play(env, jax.random.key(1), actions)
    np.testing.assert_array_equal(discount, 1.0)
    assert int(np.argmax(last)) == 199
    assert not np.any(last[:199])
    # The observation at the cut is one plain step from the one before.
    cos, sin, speed = np.asarray(obs[198], np.float64)
    theta = np.arctan2(sin, cos)
    torque = float(actions[199, 0])
    speed_next = np.clip(speed + 0.05 * (15.0 * np.sin(theta) + 3.0 * torque), -8, 8)
    theta_next = theta + 0.05 * speed_next
    np.testing.assert_allclose(obs[199], [np.cos(theta_next), np.sin(theta_next), speed_next], atol=1e-4)
    np.testing.assert_allclose(reward[199], -(theta**2 + 0.1 * speed**2 + 0.001 * torque**2), rtol=1e-4, atol=1e-4)
    assert env.observe is not None
    np.testing.assert_allclose(jax.vmap(env.observe)(states), jnp.concatenate([first[None], obs[:-1]]), atol=1e-6)


def test_time_limit_does_not_end_cartpole():
    env = adapter.make("CartPole-v1", max_steps_in_episode=3)
    assert env.spec.time_limit == 3
    _, _, (_, _, _, discount, last) = play(env, jax.random.key(0), jnp.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(last, [False, False, True, True])
    np.testing.assert_array_equal(discount, 1.0)


def test_mountain_car_ends_at_its_goal():
    env = adapter.make("MountainCarContinuous-v0")
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(position=jnp.float32(0.44), velocity=jnp.float32(0.06))
    _, obs, reward, discount, last = env.step(jax.random.key(1), state, jnp.ones(1))
    velocity = 0.06 + 0.0015 - 0.0025 * np.cos(3 * 0.44)
    np.testing.assert_allclose(obs, [0.44 + velocity, velocity], atol=1e-6)
    assert (float(discount), bool(last)) == (0.0, True)
    np.testing.assert_allclose(reward, 99.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "obs", "action", "limit", "terminates"),
    [
        ("Catch-bsuite", Box((10, 5), 0.0, 1.0), Discrete(3), 1000, True),
        ("FrozenLake-misc", Discrete(16), Discrete(4), 100, True),
        ("Freeway-MinAtar", Box((10, 10, 7), 0.0, 1.0), Discrete(3), 2500, False),
        ("Reacher-misc", Box((8,)), Box((2,), -1.0, 1.0), 100, False),
    ],
)
def test_spec(name, obs, action, limit, terminates):
    spec = adapter.make(name).spec
    assert spec == (obs, action, limit, terminates, name)


def test_bounds_that_differ_are_kept():
    spec = adapter.make("Pendulum-v1").spec
    assert spec.action == Box((1,), -2.0, 2.0)
    assert isinstance(spec.obs, Box)
    np.testing.assert_array_equal(spec.obs.high, [1.0, 1.0, 8.0])
    cart = adapter.make("CartPole-v1").spec.obs
    assert isinstance(cart, Box)
    np.testing.assert_allclose(cart.low, [-4.8, -np.inf, -24 * np.pi / 180, -np.inf], rtol=1e-6)


def test_only_those_named_never_terminate():
    """Where no state ends an episode, gymnax's own test does not read the state at all."""
    import gymnax

    constant_false = set()
    for name in gymnax.registered_envs:
        if name == "MNISTBandit-bsuite":  # needs a download
            continue
        inner, params = gymnax.make(name)
        state = jax.eval_shape(lambda key, i=inner, p=params: i.reset_env(key, p)[1], jax.random.key(0))
        traced = jax.make_jaxpr(lambda s, i=inner, p=params: i.is_terminated(s, p))(state)
        reads = bool(traced.eqns) or any(out in traced.jaxpr.invars for out in traced.jaxpr.outvars)
        if not reads and not inner.is_terminated(None, params):
            constant_false.add(name)
    assert constant_false == adapter.NEVER_TERMINATES


def test_state_structure_is_kept():
    """Types of the state before and after a step agree, weak ones included, or a compiled loop compiles twice."""
    for name in ("CartPole-v1", "BernoulliBandit-misc", "MetaMaze-misc"):
        env = adapter.make(name)
        key = jax.random.key(0)
        before = jax.eval_shape(env.reset, key)
        action = jax.eval_shape(env.spec.action.sample, key)
        after = jax.eval_shape(env.step, key, before[0], action)
        seen = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(before)]
        assert seen == [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(after[:2])]
        assert [leaf.dtype for leaf in after[2:]] == [jnp.float32, jnp.float32, jnp.bool_]


def test_settings_and_making_inside_a_trace():
    assert adapter.make("DeepSea-bsuite", size=5).spec.time_limit == 5
    pushed = adapter.make("CartPole-v1", force_mag=0.0)
    state, obs = pushed.reset(jax.random.key(0))
    _, following, *_ = pushed.step(jax.random.key(1), state, jnp.array(1))
    np.testing.assert_allclose(following[1], obs[1], atol=5e-3)  # unpushed, the cart keeps its speed
    obs = jax.jit(lambda key: adapter.make("CartPole-v1").reset(key)[1])(jax.random.key(0))
    assert np.all(np.abs(obs) <= 0.05)


def test_gradients_pass_through_the_pendulum():
    env = adapter.make("Pendulum-v1")
    state, _ = env.reset(jax.random.key(0))
    slope = jax.grad(lambda a: env.step(jax.random.key(1), state, a)[1][2])(jnp.zeros(1))
    np.testing.assert_allclose(slope, [3.0 * 0.05], rtol=1e-5)


def test_wrong_names():
    with pytest.raises(ValueError, match=r"env must be one of .*CartPole-v1.*close to it: CartPole-v1"):
        adapter.make("CartPole-v0")
    with pytest.raises(ValueError, match=r"forces is not a setting of CartPole-v1; known are .*force_mag"):
        adapter.make("CartPole-v1", forces=1.0)
    with pytest.raises(ValueError, match="max_steps_in_episode must be at least 1"):
        adapter.make("CartPole-v1", max_steps_in_episode=0)


def test_what_draws_pictures_is_imported_when_it_draws():
    code = (
        "import sys\nfrom mbrl_jax.envs.adapters import gymnax as adapter\nadapter.make('Pendulum-v1')\n"
        "assert not {'seaborn', 'pandas', 'matplotlib', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "from gymnax.environments.misc import pong\nassert callable(pong.sns.color_palette)\n"
        "from gymnax.environments.bsuite import catch\nassert catch.plt.__name__ == 'matplotlib.pyplot'\n"
        "import seaborn, matplotlib.colors, matplotlib.pyplot\n"
        "assert pong.colors.ListedColormap is matplotlib.colors.ListedColormap\n"
        "assert pong.sns.color_palette is seaborn.color_palette and pong.plt.figure is matplotlib.pyplot.figure\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
