"""Tasks whose reward is 1 near the goal and 0 everywhere else, which chance does not find.

    Pendulum-sparse           cos θ >= cos 8°; the pendulum hangs at the start
    CartPoleSwingUp-sparse    cos θ >= 0.995 and |x| <= 0.25 m

The bounds are those of dm_control's `pendulum-swingup` and `cartpole-swingup_sparse` (Tassa et al. 2018,
arXiv 1801.00690); the dynamics those of Pendulum-v1 and CartPoleSwingUp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Env, Key
from mbrl_jax.core.types import Action, Obs, State
from mbrl_jax.envs import cartpole, drawings, wrappers
from mbrl_jax.envs.adapters import gymnax

UPRIGHT = float(np.cos(np.deg2rad(8.0)))  # of the pendulum, at least
POLE_UPRIGHT, MIDDLE = 0.995, 0.25  # of the cart-pole: at least, and m at most


def rewarded(env: Env, reward: Callable[[Obs, Action], Array], name: str | None = None) -> Env:
    """The same environment under another reward.

    Args:
      env: any environment.
      reward: (next observation, action) -> [].
      name: of the new environment; that of the old one if None.
    """

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, obs, _, discount, last = env.step(key, state, action)
        return state, obs, reward(obs, action), discount, last

    return env._replace(spec=env.spec if name is None else env.spec._replace(name=name), step=step)


def pendulum_reward(next_obs: Obs, action: Action) -> Array:
    """1 where the pendulum is within 8° of upright, else 0.

    Args:
      next_obs: [3] cos θ, sin θ, θ̇ after the action.
      action: without effect.
    Returns:
      [] reward.
    """
    del action
    return (next_obs[0] >= UPRIGHT).astype(jnp.float32)


def pendulum(steps: int = 200) -> Env:
    """Pendulum-v1 that hangs at the start, to within 0.1 rad and 0.1 rad/s, with `pendulum_reward`.

    Args:
      steps: the time limit, at least 1.
    Raises:
      ValueError: the time limit is below 1.
    """
    env = drawings.gymnax(gymnax.make("Pendulum-v1", max_steps_in_episode=steps))
    observe = env.observe
    assert observe is not None

    def reset(key: Key) -> tuple[Any, Obs]:
        state, _ = env.reset(key)  # θ uniform in [-π, π], θ̇ in [-1, 1]
        state = state.replace(theta=jnp.pi + 0.1 / jnp.pi * state.theta, theta_dot=0.1 * state.theta_dot)
        return state, observe(state)

    return wrappers.scale_action(rewarded(env._replace(reset=reset), pendulum_reward, "Pendulum-sparse"))


def swingup_reward(next_obs: Obs, action: Action) -> Array:
    """1 where the pole is within 5.7° of upright and the cart within 0.25 m of the middle, else 0.

    Args:
      next_obs: [5] x, ẋ, sin θ, cos θ, θ̇ after the action.
      action: without effect.
    Returns:
      [] reward.
    """
    del action
    return ((next_obs[3] >= POLE_UPRIGHT) & (jnp.abs(next_obs[0]) <= MIDDLE)).astype(jnp.float32)


def cartpole_swingup(steps: int = 200) -> Env:
    """CartPoleSwingUp with `swingup_reward`.

    Args:
      steps: the time limit, at least 1.
    Raises:
      ValueError: the time limit is below 1.
    """
    return rewarded(cartpole.cartpole_swingup(steps), swingup_reward, "CartPoleSwingUp-sparse")
