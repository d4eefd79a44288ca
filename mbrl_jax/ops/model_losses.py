"""Losses of learned dynamics, each over one row."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array


def soft_bound(raw: Array, low: Array, high: Array) -> Array:
    """Log-variances kept between two soft bounds (Chua et al. 2018, appendix A.1).

        u = high - softplus(high - raw),   v = low + softplus(u - low)

    Smooth and rising in `raw`. The second bound is applied after the first, so the largest value is
    low + softplus(high - low), a little above `high`.

    Args:
      raw: [D] log-variances as the network gives them.
      low: [D] lower bounds.
      high: [D] upper bounds.
    Returns:
      [D] bounded log-variances.
    """
    chex.assert_rank([raw, low, high], 1)
    chex.assert_equal_shape([raw, low, high])
    upper = high - jax.nn.softplus(high - raw)
    return low + jax.nn.softplus(upper - low)


def gaussian_nll(mean: Array, log_var: Array, target: Array) -> Array:
    """Negative log-likelihood of a diagonal Gaussian, twice it, less a constant (Chua et al. 2018, eq. 1).

        L = 1/D Σ_d [ (m_d - y_d)² exp(-v_d) + v_d ]

    There is no factor 1/2, and it is the mean over dimensions, not the sum: both set its weight beside other terms.

    Args:
      mean: [D] m.
      log_var: [D] v.
      target: [D] y.
    Returns:
      [] loss.
    """
    chex.assert_rank([mean, log_var, target], 1)
    chex.assert_equal_shape([mean, log_var, target])
    return jnp.mean(jnp.square(mean - target) * jnp.exp(-log_var) + log_var)


def squared_error(prediction: Array, target: Array) -> Array:
    """Mean over dimensions of the squared error.

        L = 1/D Σ_d (m_d - y_d)²

    Args:
      prediction: [D] m.
      target: [D] y.
    Returns:
      [] loss.
    """
    chex.assert_rank([prediction, target], 1)
    chex.assert_equal_shape([prediction, target])
    return jnp.mean(jnp.square(prediction - target))


def binary_cross_entropy(logit: Array, target: Array) -> Array:
    """Cross-entropy of a two-way classifier, stable for large logits.

        L = -y log σ(z) - (1 - y) log(1 - σ(z)) = softplus(z) - y z

    Args:
      logit: [] z.
      target: [] y in [0, 1].
    Returns:
      [] loss.
    """
    chex.assert_rank([logit, target], 0)
    return jax.nn.softplus(logit) - target * logit


PRECISE = 100.0  # largest weight of a squared error: what is known exactly would drown all other losses


def likelihood_weight(error: Array, entries: int) -> Array:
    """The weight of a sum of squared errors in the likelihood of normal distributions with the best common variance.

        D / 2 log(L / D)  has the gradient  w ∇L,  w = D / (2 L)

    The better observations can be reconstructed, the more an error weighs, whatever they are measured in; noise that
    cannot be keeps its variance. After Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated
    Decoders" (arXiv 2006.13202), eq. 9.

    Args:
      error: L, [] mean over rows of the squared errors' sum, or of a multiple of it; a constant here.
      entries: D, of an observation.
    Returns:
      w, at most `PRECISE`: where an entry's error is 0.07, without the multiple.
    """
    return jnp.minimum(0.5 * entries / jnp.maximum(jax.lax.stop_gradient(error), 1e-6), PRECISE)
