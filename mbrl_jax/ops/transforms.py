"""Transforms that compress large rewards and values, and their inverses."""

from __future__ import annotations

import jax.numpy as jnp

from mbrl_jax.core.types import Array


def symlog(x: Array) -> Array:
    """sign(x) ln(1 + |x|), elementwise (Hafner et al. 2023, eq. 9)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """sign(x) (exp|x| - 1), elementwise: the inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def signed_hyperbolic(x: Array, eps: Array | float = 1e-3) -> Array:
    """MuZero's transform of rewards and values, elementwise (Schrittwieser et al. 2020, appendix F).

        h(x) = sign(x) (√(|x| + 1) - 1) + ε x

    Computed as x / (√(|x| + 1) + 1) + ε x, which is equal and loses no digits near 0.

    Args:
      x: any shape.
      eps: ε, at least 0; above 0 it keeps the inverse Lipschitz continuous.
    Returns:
      h(x), in the shape of x.
    """
    return x / (jnp.sqrt(jnp.abs(x) + 1.0) + 1.0) + eps * x


def signed_parabolic(x: Array, eps: Array | float = 1e-3) -> Array:
    """The inverse of `signed_hyperbolic`, elementwise.

        v = √(|h⁻¹(x)| + 1) - 1  solves  ε v² + (1 + 2ε) v = |x|,   h⁻¹(x) = sign(x) v (v + 2)

    Args:
      x: any shape.
      eps: ε, at least 0.
    Returns:
      h⁻¹(x), in the shape of x.
    """
    slope = 1.0 + 2.0 * eps
    v = 2.0 * jnp.abs(x) / (slope + jnp.sqrt(slope**2 + 4.0 * eps * jnp.abs(x)))
    return jnp.sign(x) * v * (v + 2.0)
