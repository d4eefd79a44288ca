"""R2-Dreamer's representation loss: states that tell of observations without a decoder.

Redundancy reduction (Barlow Twins, Zbontar et al. 2021, arXiv 2103.03230) between what a linear map makes of
DreamerV3's states and the encoded observations. With both standardised over all N rows of a batch, x those of the
states and y the tokens,

    C = xᵀ y / N,     L = Σ_i (C_ii - 1)² + μ Σ_{i≠j} C_ij²

The tokens are constants here: encoder and memory learn through the states.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net

SCALE = 0.05
"""Of the loss beside DreamerV3's others, in the authors' code."""


def projector(feature: int, token: int) -> Net:
    """The linear map from a state's features [feature] to [token]."""
    return layers(feature, (), token)


def redundancy_loss(projected: Array, tokens: Array, off: Array | float = 5e-4) -> Array:
    """L [] of N rows.

    Args:
      projected: [N, E] of the states.
      tokens: [N, E] encoded observations, taken as constants.
      off: μ, weight of the entries off the diagonal.
    """
    x, y = _standard(projected), _standard(jax.lax.stop_gradient(tokens))
    cross = x.T @ y / x.shape[0]
    diagonal = jnp.diagonal(cross)
    others = jnp.sum(jnp.square(cross)) - jnp.sum(jnp.square(diagonal))
    return jnp.sum(jnp.square(diagonal - 1.0)) + off * others


def _standard(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return (x - jnp.mean(x, axis=0)) * jax.lax.rsqrt(jnp.var(x, axis=0) + 1e-8)
