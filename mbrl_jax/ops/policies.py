"""Choosing an action by its value."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key


def epsilon_greedy(key: Key, values: Array, epsilon: Array | float) -> Array:
    """A uniform action with probability ε, else one of the largest value, ties broken at random.

    Args:
      key: used once.
      values: [A] of the actions.
      epsilon: in [0, 1].
    Returns:
      [] int32.
    """
    chex.assert_rank(values, 1)
    num_actions = values.shape[0]
    # One draw for all: generating random numbers is most of what a tabular agent's step costs.
    drawn = jax.random.uniform(key, (num_actions + 1,))
    order, explore = drawn[:-1], drawn[-1] < epsilon
    # The place of the largest of independent uniform numbers is a uniform choice, among all or among the best.
    among = explore | (values == jnp.max(values))
    return jnp.argmax(jnp.where(among, order, -1.0)).astype(jnp.int32)


def greedy(values: Array) -> Array:
    """The action of the largest value, the first of several; [] int32 from [A]."""
    chex.assert_rank(values, 1)
    return jnp.argmax(values).astype(jnp.int32)
