"""Losses and targets of value-based and maximum-entropy agents, each for one transition."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array


def td_target(reward: Array, discount: Array, next_value: Array, gamma: Array | float) -> Array:
    """One-step bootstrapped target, y = r + γ d V(s').

    Args:
      reward: [] r.
      discount: [] d, 0 at termination.
      next_value: [] V(s').
      gamma: γ, discount factor per step, in [0, 1].
    Returns:
      [] y, with no gradient.
    """
    chex.assert_rank([reward, discount, next_value], 0)
    return jax.lax.stop_gradient(reward + gamma * discount * next_value)


def twin_loss(q: Array, target: Array) -> Array:
    """Squared error of every critic against one target, Σ_i ½ (q_i - y)².

    Args:
      q: [C] one value per critic.
      target: [] y.
    Returns:
      [] loss.
    """
    chex.assert_rank(q, 1)
    chex.assert_rank(target, 0)
    return 0.5 * jnp.sum(jnp.square(q - target))


def soft_value(q: Array, log_prob: Array, alpha: Array) -> Array:
    """Soft state value from one sampled action, V = min_i q_i - α log π(a|s) (Haarnoja et al. 2018, eq. 3).

    Args:
      q: [C] the critics' values of the sampled action.
      log_prob: [] log π(a|s), nats.
      alpha: [] temperature.
    Returns:
      [] value.
    """
    chex.assert_rank(q, 1)
    chex.assert_rank([log_prob, alpha], 0)
    return jnp.min(q) - alpha * log_prob


def expected_soft_value(q: Array, logits: Array, alpha: Array) -> Array:
    """Soft state value in expectation over discrete actions (Christodoulou 2019, eq. 10).

        V = Σ_a π(a) [ min_i q_i(a) - α log π(a) ]

    Args:
      q: [C, A] each critic's values of all actions.
      logits: [A] of the policy.
      alpha: [] temperature.
    Returns:
      [] value.
    """
    chex.assert_rank(q, 2)
    chex.assert_rank(logits, 1)
    log_prob = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_prob) * (jnp.min(q, axis=0) - alpha * log_prob))


def temperature_loss(log_alpha: Array, entropy: Array, target_entropy: Array | float) -> Array:
    """Lowers α where the policy's entropy is above its target, log α · (H - H_target) (Haarnoja et al. 2018, eq. 18).

    The gradient is with respect to log α alone, as in the authors' code.

    Args:
      log_alpha: [] log of the temperature α.
      entropy: [] the policy's entropy in nats, or an estimate such as -log π(a|s) of a sampled action; no gradient
        flows into it.
      target_entropy: H_target in nats.
    Returns:
      [] loss.
    """
    chex.assert_rank([log_alpha, entropy], 0)
    return log_alpha * jax.lax.stop_gradient(entropy - target_entropy)


def clipped_ratio_loss(ratio: Array, advantage: Array, clip: Array | float) -> Array:
    """Clipped surrogate, -min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) (Schulman et al. 2017, eq. 7).

    The gradient is 0 where the ratio has already moved past 1 ± ε in the direction that the advantage favours.

    Args:
      ratio: [] ρ, probability of the action under the policy now over that under the policy that drew it.
      advantage: [] A.
      clip: ε, above 0.
    Returns:
      [] loss.
    """
    chex.assert_rank([ratio, advantage], 0)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)
