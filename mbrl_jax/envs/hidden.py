"""Partially observed environments: only some entries of the observation are visible, velocities hidden for example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Box, Env, Key
from mbrl_jax.core.types import Action, Obs, State


def select(env: Env, entries: Sequence[int], name: str | None = None) -> Env:
    """The same environment with only some entries of its observations.

    Args:
      env: an environment with vector observations.
      entries: indices of the entries to keep, in their new order.
      name: of the new environment; the old name with "-hidden" if None.
    Returns:
      The environment with observations [len(entries)].
    Raises:
      ValueError: observations that are not vectors, no entries, an index out of range, or a repeated index.
    """
    space = env.spec.obs
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(f"select needs vectors as observations, {env.spec.name} has {space}")
    if not entries or len(set(entries)) < len(entries) or not all(0 <= i < space.size for i in entries):
        raise ValueError(f"entries must be different numbers from 0 to {space.size - 1}, got {tuple(entries)}")
    index = np.asarray(entries)

    def bound(value: Any) -> Any:
        return value if np.ndim(value) == 0 else np.broadcast_to(np.asarray(value), space.shape)[index]

    def visible(obs: Obs) -> Array:
        return jnp.asarray(obs)[index]

    def reset(key: Key) -> tuple[State, Obs]:
        state, obs = env.reset(key)
        return state, visible(obs)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, obs, reward, discount, last = env.step(key, state, action)
        return state, visible(obs), reward, discount, last

    observe = env.observe
    part = Box((len(index),), bound(space.low), bound(space.high), space.dtype)
    spec = env.spec._replace(obs=part, name=f"{env.spec.name}-hidden" if name is None else name)
    return Env(spec, reset, step, None if observe is None else lambda state: visible(observe(state)), env.render)


def hide(env: Env, entries: Sequence[int], name: str | None = None) -> Env:
    """The opposite of `select`: `hide(cartpole, (1, 3))` leaves the positions and hides the velocities.

    Args:
      env: an environment with vector observations.
      entries: indices of the entries to hide; the others keep their order.
      name: as in `select`.
    Raises:
      ValueError: as in `select`.
    """
    size = env.spec.obs.size if isinstance(env.spec.obs, Box) else 0
    if not all(0 <= i < size for i in entries):
        raise ValueError(f"entries must be numbers from 0 to {size - 1}, got {tuple(entries)}")
    return select(env, [i for i in range(size) if i not in entries], name)
