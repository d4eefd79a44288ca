"""Five probe environments, each with one thing to learn and known optimal values.

They locate a fault in an agent: the value of a constant (1), a value that depends on the observation (2),
bootstrapping (3), the choice of an action (4), and a policy that depends on the observation (5). If an agent fails one
and passes those before it, the fault is in what that one adds. Observations are vectors [1] in [-1, 1] and hold the
whole state; with `continuous` the action is a vector [1] in [-1, 1], else one of two.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Box, Discrete, Env, Key, Spec


def constant(continuous: bool = False) -> Env:
    """One step from the observation 0, reward 1.

    Optimal values: V = 1 and Q = 1 for every action.

    Args:
      continuous: actions are vectors [1] in [-1, 1]; else one of two.
    """
    return _one_step("probe-constant", continuous, _zero, lambda obs, action: jnp.ones((), jnp.float32))


def random_observation(continuous: bool = False) -> Env:
    """One step from the observation +1 or -1, with equal probability; the reward is the observation.

    Optimal values: V(s) = s and Q(s, ·) = s for every action.

    Args:
      continuous: actions are vectors [1] in [-1, 1]; else one of two.
    """
    return _one_step("probe-random-observation", continuous, _sign, lambda obs, action: obs[0])


def delayed_reward(continuous: bool = False) -> Env:
    """Two steps, from the observation 0 and then 1; reward 0 and then 1.

    Optimal values: V(0) = γ and V(1) = 1, and the same for Q with every action.

    Args:
      continuous: actions are vectors [1] in [-1, 1]; else one of two.
    """

    def outcome(obs: Array, action: Array) -> tuple[Array, Array, Array]:
        del action
        ended = obs[0] > 0.5
        return jnp.ones_like(obs), ended.astype(jnp.float32), ended

    return _probe("probe-delayed-reward", continuous, _zero, outcome)


def action_reward(continuous: bool = False) -> Env:
    """One step from the observation 0, with a reward that depends on the action.

    Optimal values:
      discrete: reward 1 for action 0 and -1 for action 1, so Q = (1, -1) and V = 1.
      continuous: reward -(a - 0.5)², so Q(a) is that, V = 0 and the best action is 0.5.

    Args:
      continuous: actions are vectors [1] in [-1, 1]; else one of two.
    """

    def reward(obs: Array, action: Array) -> Array:
        del obs
        return -jnp.square(action[0] - 0.5) if continuous else jnp.where(action == 0, jnp.float32(1.0), -1.0)

    return _one_step("probe-action-reward", continuous, _zero, reward)


def observation_action_reward(continuous: bool = False) -> Env:
    """One step from the observation s = +1 or -1, with a reward that depends on it and on the action.

    Optimal values:
      discrete: reward 1 for action 1 where s = 1 and for action 0 where s = -1, else -1; so Q(1, ·) = (-1, 1),
        Q(-1, ·) = (1, -1) and V = 1.
      continuous: reward -(a - s/2)², so Q(s, a) is that, V = 0 and the best action is s/2.

    Args:
      continuous: actions are vectors [1] in [-1, 1]; else one of two.
    """

    def reward(obs: Array, action: Array) -> Array:
        if continuous:
            return -jnp.square(action[0] - 0.5 * obs[0])
        return jnp.where((action == 1) == (obs[0] > 0), jnp.float32(1.0), -1.0)

    return _one_step("probe-observation-action-reward", continuous, _sign, reward)


PROBES: dict[str, Callable[[bool], Env]] = {
    "constant": constant,
    "random_observation": random_observation,
    "delayed_reward": delayed_reward,
    "action_reward": action_reward,
    "observation_action_reward": observation_action_reward,
}
"""All five, easiest first."""


def _zero(key: Key) -> Array:
    del key
    return jnp.zeros(1, jnp.float32)


def _sign(key: Key) -> Array:
    return jax.random.rademacher(key, (1,), jnp.float32)


def _one_step(
    name: str, continuous: bool, start: Callable[[Key], Array], reward: Callable[[Array, Array], Array]
) -> Env:
    """An environment of one step, which terminates and does not change the observation."""
    return _probe(name, continuous, start, lambda obs, action: (obs, reward(obs, action), jnp.ones((), bool)))


def _probe(
    name: str,
    continuous: bool,
    start: Callable[[Key], Array],
    outcome: Callable[[Array, Array], tuple[Array, Array, Array]],
) -> Env:
    """An environment whose state is its observation.

    `outcome` is (obs, action) -> the next obs [1], the reward [] and whether it terminates [].
    """

    def reset(key: Key) -> tuple[Array, Array]:
        obs = start(key)
        return obs, obs

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        del key
        obs, reward, ended = outcome(state, action)
        return obs, obs, reward, 1.0 - ended.astype(jnp.float32), ended

    space = Box((1,), -1.0, 1.0) if continuous else Discrete(2)
    return Env(Spec(Box((1,), -1.0, 1.0), space, name=name), reset, step, observe=lambda state: state)
