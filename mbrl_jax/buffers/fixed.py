"""Rows that are there from the start: a buffer that holds a data set and nothing else, and one that begins with it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Buffer, Key, Replay, Transition, Tree


def fixed(rows: Transition) -> Buffer:
    """A buffer of given rows, to which nothing is added; they are sampled uniformly.

    The rows are no part of `data`, which is empty: a checkpoint does not hold them, and seeds under `vmap` share them.

    Args:
      rows: [N, ...], at least one.
    Raises:
      ValueError: no rows.
    """
    count = rows.reward.shape[0]
    if count < 1:
        raise ValueError("rows must be at least 1, got none")

    def take(index: Array) -> Transition:
        return tree.take(rows, index)

    def sample(key: Key, data: Tree, n: int) -> Transition:
        del data
        return take(jax.random.randint(key, (n,), 0, count))

    return Buffer(
        init=lambda item: (),
        add=lambda data, trajectory: data,
        sample=sample,
        replay=lambda data: Replay(lambda key, n: sample(key, data, n), take, jnp.int32(count), count),
    )


def preloaded(buffer: Buffer, rows: Transition) -> Buffer:
    """A buffer that holds rows before the first step.

    Args:
      buffer: of single transitions, `uniform` for example, with room for all rows.
      rows: [N, ...], added in their order as the trajectory of one environment.
    """
    return buffer._replace(init=lambda item: buffer.add(buffer.init(item), jax.tree.map(lambda x: x[:, None], rows)))
