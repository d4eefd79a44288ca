"""The scale of returns by which DreamerV3 divides its advantages."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array


class ReturnRange(NamedTuple):
    """Running percentiles of returns."""

    low: Array  # [] the 5th
    high: Array  # [] the 95th


def init() -> ReturnRange:
    """The range before any return: both percentiles 0."""
    return ReturnRange(jnp.float32(0.0), jnp.float32(0.0))


def update(so_far: ReturnRange, returns: Array, rate: Array | float = 0.01) -> ReturnRange:
    """Moves the range towards the percentiles of a batch (Hafner et al. 2023, eq. 12).

        low <- (1 - rate) low + rate Per(R, 5),   high <- (1 - rate) high + rate Per(R, 95)

    The start at 0 is not corrected for: early in training advantages are scaled down less than they will be.

    Args:
      so_far: the range before.
      returns: any shape, all of the batch.
      rate: weight of the batch's percentiles, in [0, 1].
    Returns:
      the range after; no gradient flows into the returns.
    """
    low, high = jnp.percentile(jax.lax.stop_gradient(returns), jnp.array([5.0, 95.0], jnp.float32))
    return ReturnRange(so_far.low + rate * (low - so_far.low), so_far.high + rate * (high - so_far.high))


def scale(so_far: ReturnRange, least: Array | float = 1.0) -> Array:
    """The divisor of advantages, max(least, high - low), so that small returns are not scaled up.

    Args:
      so_far: the running percentiles.
      least: smallest divisor.
    Returns:
      [] with no gradient.
    """
    return jax.lax.stop_gradient(jnp.maximum(least, so_far.high - so_far.low))
