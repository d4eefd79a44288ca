"""Scaling of vectors to mean 0 and standard deviation 1, with statistics taken from masked rows."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from mbrl_jax.core.types import Array

LARGE = 1e12  # columns with larger entries are scaled down first, for their squares would overflow float32
SMALLEST_STD = 1e-6  # a column with a smaller standard deviation counts as constant


class Normalizer(NamedTuple):
    """Mean and standard deviation of each entry of a vector."""

    mean: Array  # [D]
    std: Array  # [D] above 0


def identity_normalizer(size: int) -> Normalizer:
    """The normaliser of mean 0 and deviation 1, which changes nothing, over vectors of `size` entries."""
    return Normalizer(jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32))


def fit_normalizer(rows: Array, mask: Array) -> Normalizer:
    """Statistics of the rows where the mask holds.

        μ = Σ m x / Σ m,   σ² = Σ m (x - μ)² / Σ m

    Computed in two passes, so that float32 suffices even where the mean is much larger than the deviation.

    Args:
      rows: [N, D] of any dtype; rows where the mask is False have no effect, nor has an entry that is NaN or infinite.
      mask: [N] bool.
    Returns:
      the normaliser, always finite; a deviation below 1e-6 becomes 1, so that a constant column maps to 0. Where a
      column has no entry that counts, its mean is 0 and its deviation 1.
    """
    chex.assert_rank([rows, mask], [2, 1])
    chex.assert_equal_shape_prefix([rows, mask], 1)
    rows = jnp.asarray(rows, jnp.float32)
    keep = mask[:, None] & jnp.isfinite(rows)
    count = jnp.maximum(jnp.sum(keep, axis=0), 1).astype(rows.dtype)
    largest = jnp.max(jnp.where(keep, jnp.abs(rows), 0.0), axis=0)
    unit = jnp.where(largest > LARGE, jnp.minimum(largest, 1e37), 1.0)  # the inverse of more is 0 in float32
    rows = rows / unit
    mean = jnp.sum(jnp.where(keep, rows, 0.0), axis=0) / count
    std = unit * jnp.sqrt(jnp.sum(jnp.where(keep, jnp.square(rows - mean), 0.0), axis=0) / count)
    return Normalizer(unit * mean, jnp.where(std < SMALLEST_STD, 1.0, std))


def normalize(normalizer: Normalizer, x: Array) -> Array:
    """(x - μ) / σ of one vector [D]."""
    chex.assert_equal_shape([normalizer.mean, normalizer.std, x])
    return (x - normalizer.mean) / normalizer.std


def denormalize(normalizer: Normalizer, x: Array) -> Array:
    """μ + σ x of one vector [D]: the inverse of `normalize`."""
    chex.assert_equal_shape([normalizer.mean, normalizer.std, x])
    return normalizer.mean + normalizer.std * x
