"""Numbers as classes: two-hot targets over bins, their cross-entropy, and the number that a softmax stands for.

Bellemare et al. 2017 for the projection; symexp bins after Hafner et al. 2023 (arXiv 2301.04104, section 3), whole
numbers of a transformed scale after Schrittwieser et al. 2020 (arXiv 1911.08265, appendix F).
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Array

Transform = Callable[[Array], Array]


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


def two_hot_cross_entropy(logits: Array, target: Array, bins: Array, transform: Transform | None = None) -> Array:
    """The cross-entropy of a predicted softmax over bins against a number's two-hot weights.

        -Σ_i w_i log softmax(logits)_i,   w = two_hot(f(target))

    Args:
      logits: [K].
      target: [], a constant: no gradient is stopped.
      bins: [K] increasing, of f(target).
      transform: f, such as `symlog` or `signed_hyperbolic`; None where bins are in the target's own units.
    Returns:
      [] nats.
    """
    weights = two_hot(target if transform is None else transform(target), bins)
    return -jnp.sum(weights * jax.nn.log_softmax(logits))


def two_hot_decode(logits: Array, bins: Array, inverse: Transform | None = None, symmetric: bool = True) -> Array:
    """The number that a softmax over bins stands for, f⁻¹(Σ_i p_i b_i).

    Args:
      logits: [K].
      bins: [K] increasing.
      inverse: f⁻¹, such as `symexp` or `signed_parabolic`; None where bins are in the number's own units.
      symmetric: sum opposite bins first, as `expectation` does, which matters where bins are large; else a plain sum.
    Returns:
      [].
    """
    mean = expectation(logits, bins) if symmetric else jax.nn.softmax(logits) @ bins
    return mean if inverse is None else inverse(mean)
