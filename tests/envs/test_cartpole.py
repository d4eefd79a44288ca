"""Cart-poles: Gymnasium's dynamics, conservation of energy, rewards and terminations of the tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box
from mbrl_jax.envs import cartpole
from mbrl_jax.envs.adapters import gymnax as adapter
from mbrl_jax.envs.wrappers import Timed

KEY = jax.random.key(0)


def gymnasium_step(state, force):
    """Gymnasium's CartPole, reimplemented in float64."""
    x, x_dot, theta, theta_dot = state
    temp = (force + 0.05 * theta_dot**2 * np.sin(theta)) / 1.1
    theta_acc = (9.8 * np.sin(theta) - np.cos(theta) * temp) / (0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1))
    x_acc = temp - 0.05 * theta_acc * np.cos(theta) / 1.1
    return np.array([x + 0.02 * x_dot, x_dot + 0.02 * x_acc, theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc])


def test_balance_moves_as_gymnasium_does():
    env, other = cartpole.continuous_cartpole(), adapter.make("CartPole-v1")
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (32, 4)) * [2, 3, 0.2, 3]
    actions = rng.uniform(-1.6, 1.6, (32, 1))
    actions[:16] = np.sign(actions[:16])
    step = jax.jit(jax.vmap(lambda s, a: env.step(KEY, Timed(s, jnp.array(0)), a)))
    _, obs, _, discount, last = step(jnp.array(states, jnp.float32), jnp.array(actions, jnp.float32))
    want = np.stack([gymnasium_step(s, 10 * np.clip(a[0], -1, 1)) for s, a in zip(states, actions, strict=True)])
    np.testing.assert_allclose(obs, want, rtol=1e-4, atol=1e-5)
    fallen = (np.abs(want[:, 0]) > 2.4) | (np.abs(want[:, 2]) > 12 * np.pi / 180)
    assert 0 < fallen.sum() < 32
    np.testing.assert_array_equal(discount, 1.0 - fallen)
    np.testing.assert_array_equal(last, fallen)

    # gymnax, pushed by as much to the same side
    template, _ = other.reset(KEY)

    def step_other(s, a):
        state = template.replace(x=s[0], x_dot=s[1], theta=s[2], theta_dot=s[3])
        return other.step(KEY, state, (a[0] > 0).astype(jnp.int32))

    _, obs_other, _, discount_other, _ = jax.jit(jax.vmap(step_other))(
        jnp.float32(states[:16]), jnp.float32(actions[:16])
    )
    np.testing.assert_allclose(obs[:16], obs_other, atol=1e-5)
    np.testing.assert_array_equal(discount[:16], discount_other)


def test_balance_episode():
    env = cartpole.continuous_cartpole()
    assert env.spec.action == Box((1,), -1.0, 1.0)
    assert (env.spec.time_limit, env.spec.terminates) == (200, True)
    _, starts = jax.vmap(env.reset)(jax.random.split(KEY, 64))
    assert np.all(np.abs(starts) <= 0.05)
    assert np.all(starts.std(0) > 0.02)

    @jax.jit
    def play(gain):
        def one(at, _):
            state, obs = at
            action = jnp.clip(obs @ gain, -1.0, 1.0)[None]
            state, obs, reward, discount, last = env.step(KEY, state, action)
            return (state, obs), (reward, discount, last)

        return jax.lax.scan(one, env.reset(KEY), None, 200)[1]

    reward, discount, last = play(jnp.array([0.1, 0.2, 3.0, 0.6]))  # a hand-made balance
    np.testing.assert_array_equal(reward, 1.0)
    np.testing.assert_array_equal(discount, 1.0)
    assert int(np.argmax(last)) == 199
    _, discount, last = play(jnp.zeros(4))  # left alone it falls
    end = int(np.argmax(last))
    assert 20 < end < 150
    assert float(discount[end]) == 0.0


@pytest.mark.parametrize("physics", [cartpole.BALANCE, cartpole.SWINGUP._replace(friction=0.0)])
def test_energy_is_conserved(physics):
    """With no force and no friction; the energy is that of a cart and a uniform rod, from mechanics alone."""

    def energy(state):
        _, v, theta, w = np.asarray(state, np.float64)
        length = physics.half_length
        middle = (v + length * w * np.cos(theta), -length * w * np.sin(theta))
        inertia = physics.pole_mass * (2 * length) ** 2 / 12
        moving = physics.cart_mass * v**2 + physics.pole_mass * (middle[0] ** 2 + middle[1] ** 2) + inertia * w**2
        return 0.5 * moving + physics.pole_mass * physics.gravity * length * np.cos(theta)

    start = jnp.array([0.3, -0.5, 2.0, 4.0])
    momentum = (physics.cart_mass + physics.pole_mass) * -0.5 + physics.pole_mass * physics.half_length * 4 * np.cos(
        2.0
    )

    def one(state, _):
        state = cartpole.runge_kutta(physics, state, jnp.zeros(()), 0.02)
        return state, state

    path = np.asarray(jax.jit(lambda s: jax.lax.scan(one, s, None, 400)[1])(start), np.float64)
    energies = np.array([energy(state) for state in path])
    assert np.ptp(path[:, 2]) > 1.0  # it does swing
    np.testing.assert_allclose(energies, energy(start), atol=5e-3 * (np.abs(energy(start)) + 1))
    total = (physics.cart_mass + physics.pole_mass) * path[:, 1]
    total += physics.pole_mass * physics.half_length * path[:, 3] * np.cos(path[:, 2])
    np.testing.assert_allclose(total, momentum, atol=1e-3)


def test_a_longer_pole_falls_more_slowly():
    """From the linearised pole: θ̈ = θ g / (l (4/3 - m / (M + m))), so that twice the length halves the acceleration."""
    state, quiet = jnp.array([0.0, 0.0, 0.01, 0.0]), jnp.zeros(1)
    speeds = []
    for length in (0.5, 1.0):
        env = cartpole.continuous_cartpole(physics=cartpole.BALANCE._replace(half_length=length))
        at = env.reset(jax.random.key(0))[0]._replace(inner=state)
        speeds.append(float(env.step(jax.random.key(0), at, quiet)[1][3]))
    expected = 0.02 * 0.01 * 9.8 / (0.5 * (4 / 3 - 0.1 / 1.1))
    assert speeds[0] == pytest.approx(expected, rel=1e-3)
    assert speeds[1] == pytest.approx(expected / 2, rel=1e-3)


def test_friction_slows_the_cart():
    state = jnp.array([0.0, 2.0, jnp.pi, 0.0])  # hanging still under a moving cart
    _, acc, _, _ = cartpole.derivative(cartpole.SWINGUP, state, jnp.zeros(()))
    # The rod's foot is dragged: effective mass M + m - 3m/4 = 0.625 kg for a uniform rod.
    np.testing.assert_allclose(acc, -0.1 * 2.0 / 0.625, rtol=1e-5)
    _, push, _, _ = cartpole.derivative(cartpole.SWINGUP, jnp.array([0.0, 0.0, jnp.pi, 0.0]), jnp.array(10.0))
    np.testing.assert_allclose(push, 10.0 / 0.625, rtol=1e-5)


def test_swingup_reward():
    def reward(x, theta, a):
        obs = jnp.array([x, 0.0, np.sin(theta), np.cos(theta), 0.0])
        return float(cartpole.swingup_reward(obs, jnp.array([a])))

    assert reward(0.0, 0.0, 0.0) == 1.0
    np.testing.assert_allclose(reward(0.0, 0.0, -1.0), 0.99, rtol=1e-6)
    np.testing.assert_allclose(reward(0.0, np.pi, 0.0), np.exp(-4.0), rtol=1e-5)  # 1.2 m below: (1.2 / 0.6)² = 4
    # The source's own form, its angle counted from hanging.
    for x, theta, a in ((0.4, 0.3, 0.5), (-0.7, 2.0, -0.2), (0.2, -1.0, 1.0)):
        from_hanging = theta + np.pi
        tip = np.array([x - 0.6 * np.sin(from_hanging), -0.6 * np.cos(from_hanging)])
        want = np.exp(-np.sum((tip - [0, 0.6]) ** 2) / 0.36) - 0.01 * a**2
        np.testing.assert_allclose(reward(x, theta, a), want, rtol=1e-5)


def test_swingup_can_be_solved():
    """An energy-pumping controller swings the pole up in time, and a linear one keeps it there."""
    env = cartpole.cartpole_swingup()
    assert (env.spec.time_limit, env.spec.terminates) == (200, False)

    @jax.jit
    @jax.vmap
    def play(key):
        def one(at, _):
            state, obs = at
            x, v, sin, cos, w = obs
            energy = 0.5 * 0.06 * w**2 + 0.5 * 9.82 * 0.3 * (cos - 1.0)  # of the rod about its hinge; 0 upright
            swing = jnp.clip(4.0 * energy * w * cos - 0.15 * x - 0.1 * v, -1.0, 1.0)
            hold = jnp.clip(0.1 * x + 0.25 * v + 3.6 * jnp.arctan2(sin, cos) + 0.6 * w, -1.0, 1.0)
            action = jnp.where(cos > 0.85, hold, swing)[None]
            state, obs, reward, discount, last = env.step(KEY, state, action)
            return (state, obs), (obs, reward, discount, last)

        return env.reset(key)[1], jax.lax.scan(one, env.reset(key), None, 200)[1]

    first, (obs, reward, discount, last) = play(jax.random.split(KEY, 4))
    assert np.all(first[:, 3] < -0.9)  # hanging
    np.testing.assert_array_equal(discount, 1.0)
    np.testing.assert_array_equal(np.argmax(last, 1), 199)
    np.testing.assert_allclose(obs[..., 2] ** 2 + obs[..., 3] ** 2, 1.0, rtol=1e-4)
    assert np.all(obs[:, -20:, 3] > 0.99)
    assert np.all(reward[:, -20:] > 0.9)
    assert np.all(reward <= 1.0)
