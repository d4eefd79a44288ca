"""An environment of any spec, to try an agent in: some of its episodes terminate, others run out of time."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Box, DictSpace, Discrete, Env, Key, MultiDiscrete, Obs, ObsSpace, Spec
from mbrl_jax.envs.check import check_env

__all__ = ["check_env", "stand_in"]

STEPS = 3
"""The time limit of its episodes, in steps."""


def stand_in(spec: Spec, steps: int = STEPS) -> Env:
    """An environment with the observations and actions of a spec.

    Observations are drawn at random; the reward is the mean of observation and action, so that it depends on both.
    Half of the episodes terminate before the time limit where the spec says that some do.

    Args:
      spec: of the environment that it stands for.
      steps: its time limit, at least 2.
    Returns:
      an environment that is written in JAX; its state is (steps so far, the last observation).
    """

    def reset(key: Key) -> tuple[tuple[Array, Obs], Obs]:
        obs = _draw(key, spec.obs)
        return (jnp.int32(0), obs), obs

    def step(key: Key, state: tuple[Array, Obs], action: Action) -> tuple:
        key_obs, key_end = jax.random.split(key)
        time, obs = state[0] + 1, _draw(key_obs, spec.obs)
        end = jax.random.bernoulli(key_end, 0.3) if spec.terminates else jnp.zeros((), bool)
        reward = (_mean(state[1]) + _mean(action)) / 2
        return (time, obs), obs, reward, jnp.where(end, 0.0, 1.0).astype(jnp.float32), end | (time >= steps)

    return Env(spec._replace(time_limit=steps), reset, step, observe=lambda state: state[1])


def _draw(key: Key, space: ObsSpace) -> Obs:
    """A random observation within its bounds."""
    if isinstance(space, DictSpace):
        keys = jax.random.split(key, len(space.spaces))
        return {name: _draw(k, part) for k, (name, part) in zip(keys, sorted(space.spaces.items()), strict=True)}
    if isinstance(space, Discrete | MultiDiscrete):
        return space.sample(key)
    assert isinstance(space, Box)
    if not jnp.issubdtype(space.dtype, jnp.floating):
        return jax.random.randint(key, space.shape, space.low, jnp.asarray(space.high) + 1).astype(space.dtype)
    low, high = jnp.maximum(space.low, -2.0), jnp.minimum(space.high, 2.0)
    outside = (low > high) | (space.low > 2.0) | (space.high < -2.0)  # bounds beyond the usual range of a feature
    low, high = jnp.where(outside, space.low, low), jnp.where(outside, space.high, high)
    return jax.random.uniform(key, space.shape, space.dtype, low, high)


def _mean(values: Obs) -> Array:
    leaves = [leaf.astype(jnp.float32).reshape(-1) for leaf in jax.tree.leaves(values)]
    return jnp.mean(jnp.concatenate(leaves))
