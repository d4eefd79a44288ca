"""Many seeds in one program, in waves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

A = TypeVar("A")
B = TypeVar("B")


def over_seeds(fn: Callable[[A], B], wave: int) -> Callable[[A], B]:
    """`fn` over a leading seed axis: `wave` seeds side by side under `vmap`, one wave after the other.

    A wave of several seeds fills the machine where one seed's products are small; where one seed fills it already,
    waves of one keep its data in the cache, and let each seed's early-stopped loops stop when it is done.

    Args:
      fn: a pure function of one seed.
      wave: seeds under `vmap` at once, at least 1.
    Raises:
      ValueError: the wave is below 1.
    """
    if wave < 1:
        raise ValueError(f"wave must be at least 1, got {wave}")

    def mapped(seeds: A) -> B:
        count = jax.tree.leaves(seeds)[0].shape[0]
        if count <= wave and wave > 1:
            return jax.vmap(fn)(seeds)
        if wave > 1:
            return jax.lax.map(fn, seeds, batch_size=wave)
        return jax.lax.map(fn, seeds)

    return mapped
