"""KL divergences of latent states, and the weighting of their gradients between posterior and prior."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Tree


def categorical_kl(p_logits: Array, q_logits: Array) -> Array:
    """KL(p ‖ q) in nats between G independent categoricals of C classes each.

        KL = Σ_g Σ_c p_gc (log p_gc - log q_gc)

    Args:
      p_logits: [G, C] unnormalised log-probabilities.
      q_logits: [G, C] likewise.
    Returns:
      [] summed over the G.
    """
    chex.assert_rank([p_logits, q_logits], 2)
    chex.assert_equal_shape([p_logits, q_logits])
    p, q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    return jnp.sum(jnp.exp(p) * (p - q))


def gaussian_kl(p_mean: Array, p_std: Array, q_mean: Array, q_std: Array) -> Array:
    """KL(p ‖ q) in nats between diagonal Gaussians.

        KL = Σ_d [ log(σ_q / σ_p) + (σ_p² + (μ_p - μ_q)²) / (2 σ_q²) - ½ ]

    Args:
      p_mean, p_std, q_mean, q_std: [D], deviations above 0.
    Returns:
      [] summed over the D.
    """
    chex.assert_rank([p_mean, p_std, q_mean, q_std], 1)
    chex.assert_equal_shape([p_mean, p_std, q_mean, q_std])
    ratio = p_std / q_std
    return jnp.sum(0.5 * (jnp.square(ratio) + jnp.square((p_mean - q_mean) / q_std) - 1.0) - jnp.log(ratio))


def two_way(kl: Callable[[Tree, Tree], Array], posterior: Tree, prior: Tree) -> tuple[Array, Array]:
    """The same divergence twice: one trains the prior towards the posterior, one the posterior towards the prior.

        dyn = KL(sg q ‖ p),   rep = KL(q ‖ sg p)

    Args:
      kl: (q, p) -> divergence, [] or [...] over a batch.
      posterior: q, the first argument of `kl`.
      prior: p, the second.
    Returns:
      dyn and rep, equal in value and different in gradient.
    """
    stop = jax.lax.stop_gradient
    return kl(stop(posterior), prior), kl(posterior, stop(prior))


def balanced(dyn: Array, rep: Array, alpha: Array | float = 0.8, free: Array | float = 0.0) -> Array:
    """DreamerV2's loss of a batch (Hafner et al. 2021, algorithm 2).

        L = α max(free, mean dyn) + (1 - α) max(free, mean rep)

    The free nats apply to the batch's mean, as in the code of the first two Dreamers. With α = ½ posterior and prior
    each get half the gradient of the plain KL.

    Args:
      dyn, rep: any shape, in nats, from `two_way`.
      alpha: in [0, 1], the share of the gradient that trains the prior.
      free: nats below which there is no gradient.
    Returns:
      [] loss.
    """
    chex.assert_equal_shape([dyn, rep])
    return alpha * jnp.maximum(free, jnp.mean(dyn)) + (1.0 - alpha) * jnp.maximum(free, jnp.mean(rep))


def clipped(
    dyn: Array, rep: Array, free: Array | float = 1.0, dyn_scale: Array | float = 1.0, rep_scale: Array | float = 0.1
) -> Array:
    """DreamerV3's loss of each step (Hafner et al. 2023, eq. 3).

        L = β_dyn max(free, dyn) + β_rep max(free, rep)

    Args:
      dyn, rep: any shape, in nats, from `two_way`; each entry the sum over one step's latents.
      free: nats per step below which there is no gradient.
      dyn_scale: β_dyn, weight of the loss that trains the prior.
      rep_scale: β_rep, weight of the loss that trains the posterior.
    Returns:
      losses in the shape of `dyn`; average them over steps.
    """
    chex.assert_equal_shape([dyn, rep])
    return dyn_scale * jnp.maximum(free, dyn) + rep_scale * jnp.maximum(free, rep)
