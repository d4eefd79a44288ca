"""Two cart-pole tasks with one continuous action: balance and swing-up.

A cart of mass M on a rail carries a uniform rod of mass m and half-length l, hinged at its foot. The angle θ is
measured from upright, positive where the tip leans towards positive x (Barto, Sutton & Anderson 1983; Florian 2007):

    u   = (F - b ẋ + m l θ̇² sin θ) / (M + m)
    θ̈  = (g sin θ - u cos θ) / (l (4/3 - m cos² θ / (M + m)))
    ẍ   = u - m l θ̈ cos θ / (M + m)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Box, Env, Key, Spec
from mbrl_jax.envs import drawings, wrappers


class Physics(NamedTuple):
    """The constants of a cart and its pole."""

    cart_mass: float  # kg
    pole_mass: float  # kg
    half_length: float  # m, from the hinge to the middle of the pole
    gravity: float  # m/s²
    friction: float = 0.0  # N s/m, between cart and rail


BALANCE = Physics(cart_mass=1.0, pole_mass=0.1, half_length=0.5, gravity=9.8)
SWINGUP = Physics(cart_mass=0.5, pole_mass=0.5, half_length=0.3, gravity=9.82, friction=0.1)

FORCE = 10.0  # N at action 1
BALANCE_STEP = 0.02  # s
SWINGUP_STEP = 0.04  # s
SWINGUP_SUBSTEPS = 2
SWINGUP_LENGTH = 0.6  # m, from the hinge to the tip
X_LIMIT = 2.4  # m
THETA_LIMIT = 12 * 2 * jnp.pi / 360  # rad


def derivative(physics: Physics, state: Array, force: Array) -> Array:
    """The rate of change of a cart-pole's state.

    Args:
      physics: its constants.
      state: [4] x (m), ẋ (m/s), θ (rad, 0 upright), θ̇ (rad/s).
      force: [] N on the cart.
    Returns:
      [4] ẋ, ẍ, θ̇, θ̈.
    """
    _, x_dot, theta, theta_dot = state
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    mass = physics.cart_mass + physics.pole_mass
    moment = physics.pole_mass * physics.half_length
    push = (force - physics.friction * x_dot + moment * theta_dot**2 * sin) / mass
    inertia = physics.half_length * (4.0 / 3.0 - physics.pole_mass * cos**2 / mass)
    theta_acc = (physics.gravity * sin - push * cos) / inertia
    x_acc = push - moment * theta_acc * cos / mass
    return jnp.stack([x_dot, x_acc, theta_dot, theta_acc])


def euler(physics: Physics, state: Array, force: Array, dt: float) -> Array:
    """One explicit Euler step of `dt` seconds: [4] -> [4].

    Args:
      physics: constants of cart and pole.
      state: [4] x (m), ẋ (m/s), θ (rad), θ̇ (rad/s).
      force: [] N on the cart.
      dt: step, s.
    """
    return state + dt * derivative(physics, state, force)


def runge_kutta(physics: Physics, state: Array, force: Array, dt: float) -> Array:
    """One classical fourth-order Runge-Kutta step of `dt` seconds: [4] -> [4].

    Args:
      physics: constants of cart and pole.
      state: [4] x (m), ẋ (m/s), θ (rad), θ̇ (rad/s).
      force: [] N on the cart.
      dt: step, s.
    """
    k1 = derivative(physics, state, force)
    k2 = derivative(physics, state + 0.5 * dt * k1, force)
    k3 = derivative(physics, state + 0.5 * dt * k2, force)
    k4 = derivative(physics, state + dt * k3, force)
    return state + dt / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


def continuous_cartpole(steps: int = 200, physics: Physics = BALANCE) -> Env:
    """Balance: keep an upright pole from falling by pushing the cart.

    The dynamics are those of Gymnasium's CartPole, with Euler steps of 0.02 s and a force of 10 N · clip(a, -1, 1).
    Every step has reward 1, the last one too, so the return is the number of steps. An episode terminates where
    |x| > 2.4 m or |θ| > 12°, and is truncated after `steps`. The initial state is uniform in [-0.05, 0.05]⁴.

    Args:
      steps: the time limit, at least 1.
      physics: constants of cart and pole, of another pole for example.
    Returns:
      An environment with observations [4], x, ẋ, θ, θ̇, and actions [1] in [-1, 1].
    Raises:
      ValueError: the time limit is below 1.
    """

    def reset(key: Key) -> tuple[Array, Array]:
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05, dtype=jnp.float32)
        return state, state

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        del key
        state = euler(physics, state, FORCE * jnp.clip(action[0], -1.0, 1.0), BALANCE_STEP)
        ended = (jnp.abs(state[0]) > X_LIMIT) | (jnp.abs(state[2]) > THETA_LIMIT)
        return state, state, jnp.ones((), jnp.float32), 1.0 - ended.astype(jnp.float32), ended

    spec = Spec(Box((4,)), Box((1,), -1.0, 1.0), name="continuous-cartpole")
    return wrappers.time_limit(Env(spec, reset, step, lambda state: state, drawings.continuous_cartpole), steps)


def swingup_reward(next_obs: Array, action: Array) -> Array:
    """The reward of the swing-up, for planners that are given it (Chua et al. 2018, reference code).

        exp(-||tip - (0, 0.6)||² / 0.6²) - 0.01 a²,   tip = (x + 0.6 sin θ, 0.6 cos θ)

    The source measures the angle from hanging and writes the tip as (x - 0.6 sin, -0.6 cos), which is the same point.
    The maximum is 1: upright at x = 0 without force.

    Args:
      next_obs: [5] the observation after the action.
      action: [1] in [-1, 1].
    Returns:
      [] reward.
    """
    x, _, sin, cos, _ = next_obs
    miss = (x + SWINGUP_LENGTH * sin) ** 2 + (SWINGUP_LENGTH * cos - SWINGUP_LENGTH) ** 2
    return jnp.exp(-miss / SWINGUP_LENGTH**2) - 0.01 * action[0] ** 2


def cartpole_swingup(steps: int = 200) -> Env:
    """Swing-up: swing a hanging pole upright at the middle of the rail, and keep it there.

    Masses, length, friction and gravity are those of Deisenroth & Rasmussen (2011): cart and pole 0.5 kg each, pole
    0.6 m, friction 0.1 N s/m, 9.82 m/s². The step is 0.04 s, made of two Runge-Kutta steps, and the force
    10 N · clip(a, -1, 1), about the weight of cart and pole, so a few swings bring the pole up; 200 steps are 8 s.
    No state is terminal, and the rail is infinite. The pole starts hanging at x = 0, with normal noise of standard
    deviation 0.1 on every entry of the state; the reward is `swingup_reward`.

    Args:
      steps: the time limit, at least 1.
    Returns:
      An environment with observations [5], x, ẋ, sin θ, cos θ, θ̇ (θ = 0 upright), and actions [1] in [-1, 1].
    Raises:
      ValueError: the time limit is below 1.
    """

    def observe(state: Array) -> Array:
        x, x_dot, theta, theta_dot = state
        return jnp.stack([x, x_dot, jnp.sin(theta), jnp.cos(theta), theta_dot])

    def reset(key: Key) -> tuple[Array, Array]:
        state = jnp.array([0.0, 0.0, jnp.pi, 0.0], jnp.float32) + 0.1 * jax.random.normal(key, (4,), jnp.float32)
        return state, observe(state)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        del key
        action = jnp.clip(action, -1.0, 1.0)
        for _ in range(SWINGUP_SUBSTEPS):
            state = runge_kutta(SWINGUP, state, FORCE * action[0], SWINGUP_STEP / SWINGUP_SUBSTEPS)
        obs = observe(state)
        return state, obs, swingup_reward(obs, action), jnp.ones((), jnp.float32), jnp.zeros((), bool)

    spec = Spec(Box((5,)), Box((1,), -1.0, 1.0), terminates=False, name="cartpole-swingup")
    return wrappers.time_limit(Env(spec, reset, step, observe, drawings.swingup), steps)
