"""Choosing an action by action values."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key


def epsilon_greedy(key: Key, values: Array, epsilon: Array | float) -> Array:
    """A uniformly random action with probability ε, else an action of the largest value, ties broken at random.

    Args:
      key: used once.
      values: [A] action values.
      epsilon: in [0, 1].
    Returns:
      [] int32.
    """
    chex.assert_rank(values, 1)
    num_actions = values.shape[0]
    # One draw serves all three choices: random numbers are most of the cost of a tabular agent's step.
    drawn = jax.random.uniform(key, (num_actions + 1,), jnp.float32)
    order, explore = drawn[:-1], drawn[-1] < epsilon
    # The argmax of independent uniform numbers is a uniform choice, among all actions or among the best.
    candidates = explore | (values == jnp.max(values))
    return jnp.argmax(jnp.where(candidates, order, -1.0)).astype(jnp.int32)


def greedy(values: Array) -> Array:
    """The action of the largest value, the first where several tie; [] int32 from values [A]."""
    chex.assert_rank(values, 1)
    return jnp.argmax(values).astype(jnp.int32)
