"""The last trajectory alone, for on-policy agents and those that learn from every step once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.buffers.uniform import check_axes
from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Buffer, Key, Replay, Transition


def latest(steps: int, num_envs: int) -> Buffer:
    """A buffer of the trajectory [T, N, ...] added last; `sample` returns all of it, time-major.

    Bytes = steps x num_envs x bytes of one transition (x seeds under `vmap`).

    Args:
      steps: T of every trajectory added.
      num_envs: N of every trajectory added.
    Raises:
      ValueError: a size below 1, or a trajectory of another shape.
    """
    if min(steps, num_envs) < 1:
        raise ValueError(f"steps and num_envs must be at least 1, got {steps} and {num_envs}")

    def init(item: Transition) -> Transition:
        return jax.tree.map(lambda leaf: jnp.zeros((steps, num_envs, *leaf.shape), leaf.dtype), item)

    def add(data: Transition, trajectory: Transition) -> Transition:
        check_axes(jax.tree.map(lambda leaf: leaf[0], data), trajectory, 2, "trajectory", "[T, N, ...]")
        if trajectory.reward.shape != data.reward.shape:
            raise ValueError(f"a trajectory must be {data.reward.shape}, got {trajectory.reward.shape}")
        return tree.strip_weak_types(trajectory)

    def sample(key: Key | None, data: Transition, n: Any = None) -> Transition:
        del key, n
        return data

    def replay(data: Transition) -> Replay:
        def take(index: Array) -> Transition:
            return tree.take(tree.flatten_dims(data, 2), index)

        rows = steps * num_envs
        return Replay(lambda key=None, n=None: sample(key, data, n), take, jnp.int32(rows), rows)

    return Buffer(init, add, sample, replay, axis=1)
