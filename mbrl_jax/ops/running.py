"""Running statistics of rows that come in batches, and what scales observations and rewards by them.

Merged by Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances". With n old rows
of mean μ and variance σ², and m new ones of mean μ_B and variance σ_B²,

    w  = m / (n + m)
    μ' = μ + w (μ_B - μ)
    σ'² = (1 - w) σ² + w σ_B² + w (1 - w) (μ_B - μ)²

where n counts at most `memory` rows, so that statistics follow what changes.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from mbrl_jax.core.types import Array

MEMORY = 1e6  # rows
SMALLEST = 1e-8  # a deviation or size below this counts as none


class Running(NamedTuple):
    """Mean and variance of the rows so far."""

    rows: Array  # [] number, at most `memory`
    mean: Array  # [...]
    var: Array  # [...]


def no_rows(shape: tuple[int, ...]) -> Running:
    """The statistics before the first row: mean 0 and variance 1, which the first batch replaces.

    Args:
      shape: of a row.
    """
    return Running(jnp.zeros((), jnp.float32), jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))


def include(running: Running, rows: Array, memory: float = MEMORY) -> Running:
    """Statistics of the rows so far and of these.

    Args:
      running: of the rows so far.
      rows: [B, ...] of any dtype, B at least 1. An entry that is NaN or infinite counts as the mean so far.
      memory: rows that the old statistics count for at most, at least 1.
    Raises:
      AssertionError: rows of another shape.
    """
    chex.assert_shape(rows, (None, *running.mean.shape))
    rows = jnp.asarray(rows, jnp.float32)
    rows = jnp.where(jnp.isfinite(rows), rows, running.mean)
    number = rows.shape[0]
    weight = number / (running.rows + number)
    mean, var = jnp.mean(rows, axis=0), jnp.var(rows, axis=0)
    apart = mean - running.mean
    return Running(
        jnp.minimum(running.rows + number, memory).astype(jnp.float32),
        running.mean + weight * apart,
        (1.0 - weight) * running.var + weight * var + weight * (1.0 - weight) * jnp.square(apart),
    )


def standardize(running: Running, x: Array, limit: float = 10.0) -> Array:
    """clip( (x - μ) / σ, -limit, limit ), with σ 1 for an entry that does not vary.

    Args:
      running: statistics of rows like x.
      x: [...] one row, or several along leading axes.
      limit: above 0.
    """
    return jnp.clip((x - running.mean) / deviation(running), -limit, limit)


def root_mean_square(running: Running) -> Array:
    """sqrt(μ² + σ²), or 1 where all rows were 0: the size of what scatters about 0.

    Args:
      running: statistics of the rows.
    Returns:
      [...] above 0.
    """
    return _or_one(jnp.sqrt(jnp.square(running.mean) + running.var))


def deviation(running: Running) -> Array:
    """σ, or 1 for an entry that does not vary.

    Args:
      running: statistics of the rows.
    Returns:
      [...] above 0.
    """
    return _or_one(jnp.sqrt(running.var))


def _or_one(size: Array) -> Array:
    return jnp.where(size < SMALLEST, 1.0, size)
