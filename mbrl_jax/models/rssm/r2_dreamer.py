"""R2-Dreamer's representation loss: states informative about observations, without a decoder.

Redundancy reduction (Barlow Twins, Zbontar et al. 2021, arXiv 2103.03230) between a linear projection of DreamerV3's
states and the encoded observations. With both standardised over all N rows of a batch, x the projections and y the
tokens,

    C = xᵀ y / N,     L = Σ_i (C_ii - 1)² + μ Σ_{i≠j} C_ij²

The tokens are constants here: encoder and RSSM learn through the states.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Metrics, Params
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net

SCALE = 0.05
"""Weight of this loss among DreamerV3's, from the authors' code."""


def projector(feature: int, token: int) -> Net:
    """The linear map from a state's features [feature] to [token]."""
    return layers(feature, (), token)


def redundancy(projected: Array, tokens: Array, off: Array | float = 5e-4) -> tuple[Array, Array]:
    """The two terms of L, [] each: Σ_i (C_ii - 1)² and μ Σ_{i≠j} C_ij².

    Args:
      projected: [N, E] projected states.
      tokens: [N, E] encoded observations, taken as constants.
      off: μ, weight of the off-diagonal entries.
    """
    x, y = _standardised(projected), _standardised(jax.lax.stop_gradient(tokens))
    cross = x.T @ y / x.shape[0]
    diagonal = jnp.diagonal(cross)
    others = jnp.sum(jnp.square(cross)) - jnp.sum(jnp.square(diagonal))
    return jnp.sum(jnp.square(diagonal - 1.0)), off * others


def redundancy_loss(
    params: Params, feature: Array, tokens: Array, *, project: Net, off: Array | float = 5e-4
) -> tuple[Array, Metrics]:
    """R2-Dreamer's loss L of a batch.

    Args:
      params: the projector's.
      feature: [N, F] features of states; gradients flow into them.
      tokens: [N, E] encoded observations of the same rows, taken as constants.
      project: `projector(F, E)`.
      off: μ, weight of the off-diagonal entries.
    Returns:
      L [] and its two terms, "invariance" and "redundancy".
    """
    invariance, others = redundancy(jax.vmap(project.apply, (None, 0))(params, feature), tokens, off)
    return invariance + others, {"invariance": invariance, "redundancy": others}


def _standardised(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return (x - jnp.mean(x, axis=0)) * jax.lax.rsqrt(jnp.var(x, axis=0) + 1e-8)
