"""An environment in which nothing happens: what a run that learns from a data set alone steps in, at no cost."""

from __future__ import annotations

import jax.numpy as jnp

from mbrl_jax.core.types import Action, DictSpace, Env, Key, Obs, ObsSpace, Spec, State


def idle(spec: Spec) -> Env:
    """An environment of given spaces whose only state is empty: observations and rewards are 0, no episode ends.

    Args:
      spec: of the environment that it stands for.
    """

    def reset(key: Key) -> tuple[State, Obs]:
        del key
        return (), _zeros(spec.obs)

    def step(key: Key, state: State, action: Action) -> tuple:
        del key, action
        return state, _zeros(spec.obs), jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32), jnp.zeros((), bool)

    return Env(spec, reset, step)


def _zeros(space: ObsSpace) -> Obs:
    if isinstance(space, DictSpace):
        return {name: _zeros(part) for name, part in space.spaces.items()}
    return jnp.zeros(space.shape, space.dtype)
