"""Transforms of large numbers, and regression by classification: numbers as distributions over bins."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

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

    Computed as x / (√(|x| + 1) + 1) + ε x, which is the same and loses no digits near 0.

    Args:
      x: any shape.
      eps: ε, at least 0; keeps the slope, and so the inverse, bounded.
    """
    return x / (jnp.sqrt(jnp.abs(x) + 1.0) + 1.0) + eps * x


def signed_parabolic(x: Array, eps: Array | float = 1e-3) -> Array:
    """The inverse of `signed_hyperbolic`, elementwise.

        v = √(|h⁻¹(x)| + 1) - 1  solves  ε v² + (1 + 2ε) v = |x|,   h⁻¹(x) = sign(x) v (v + 2)

    Args:
      x: any shape.
      eps: ε, at least 0.
    """
    slope = 1.0 + 2.0 * eps
    v = 2.0 * jnp.abs(x) / (slope + jnp.sqrt(slope**2 + 4.0 * eps * jnp.abs(x)))
    return jnp.sign(x) * v * (v + 2.0)


def two_hot(x: Array, bins: Array) -> Array:
    """A number as weights on the two bins beside it, whose weighted mean it is.

        w_i = (b_{i+1} - x) / (b_{i+1} - b_i),   w_{i+1} = 1 - w_i    where  b_i <= x <= b_{i+1};  0 elsewhere

    Args:
      x: []; beyond the bins it counts as the outermost one.
      bins: [K] increasing, at least 2.
    Returns:
      [K] weights that sum to 1.
    """
    chex.assert_rank([x, bins], [0, 1])
    # The share of each gap that lies below x is 1, ..., 1, w, 0, ..., 0: no index, and so no gather in its gradient.
    below = jnp.clip((x - bins[:-1]) / (bins[1:] - bins[:-1]), 0.0, 1.0)
    ends = jnp.ones((1,), below.dtype)
    return jnp.concatenate([ends, below]) - jnp.concatenate([below, 0.0 * ends])


def expectation(logits: Array, bins: Array) -> Array:
    """The mean Σ_i p_i b_i of a softmax over bins, exactly 0 where both are symmetric (Hafner et al. 2023).

    Bins opposite each other are summed first, as ½ (p - p')(b - b') + ½ (p + p')(b + b'): with b' = -b and p' = p both
    terms are 0 without rounding, however large b is. Of 255 symexp bins a plain sum can give 3, and a sum of rounded
    pairs 0.16, once the compiler fuses a product with its addition.

    Args:
      logits: [K].
      bins: [K].
    Returns:
      [].
    """
    chex.assert_rank([logits, bins], 1)
    chex.assert_equal_shape([logits, bins])
    half = bins.shape[0] // 2
    probs = jax.nn.softmax(logits)
    p, q = probs[:half], probs[::-1][:half]
    b, c = bins[:half], bins[::-1][:half]
    pairs = 0.5 * (p - q) * (b - c) + 0.5 * (p + q) * (b + c)
    return jnp.sum(pairs) + jnp.sum((probs * bins)[half : bins.shape[0] - half])


def symexp_bins(count: int = 255, bound: int = 20) -> Array:
    """DreamerV3's bins [count]: symexp of numbers evenly spaced in [-bound, bound], mirrored exactly.

    Raises:
      ValueError: the count is not odd, or below 3.
    """
    if count < 3 or count % 2 == 0:
        raise ValueError(f"count must be odd and at least 3, got {count}")
    half = np.expm1(np.linspace(float(bound), 0.0, count // 2 + 1)).astype(np.float32)
    return jnp.asarray(np.concatenate([-half, half[-2::-1]]))


def integer_bins(n: int) -> Array:
    """MuZero's support [2n + 1]: the whole numbers from -n to n; for transformed values.

    Raises:
      ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return jnp.arange(-n, n + 1, dtype=jnp.float32)
