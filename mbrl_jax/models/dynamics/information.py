"""How much of a step is lost where the members of an ensemble disagree, in bits, for each entry of what is predicted.

Frauenknecht et al. 2025, "On Rollouts in Model-Based Reinforcement Learning" (arXiv 2501.16918), take a model's step
for the environment's, seen through a channel whose noise is what the model does not know. For members with means m_i
and variances v_i,

    1/v̄ = mean_i 1/v_i,   m̄ = v̄ mean_i m_i / v_i      the environment's own noise v̄: all members, fused   `fused`
    w   = mean_i (m_i - m̄)²                            the channel's noise
    K   = v̄ / (v̄ + w),    lost = max(0, log2 sqrt(2πe (1 - K) v̄) - log2 δ)                                `lost`

(1 - K) v̄ is the variance that the next observation has left once the model's step is known; δ is the width of the bins
in which it is told. Agreeing members lose nothing, however noisy the environment is. No more can be lost than there is
noise: where members are sure of themselves and disagree all the same, far from all data, v̄ is small and so is what is
lost. The disagreement itself (`disagreement.py`) is large there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array

LEAST = 1e-12
"""Least variance, in squared units of the predictions: entries that the members know exactly."""


class Fused(NamedTuple):
    """What all members together say of one step."""

    mean: Array  # [D] m̄
    noise: Array  # [D] v̄, the environment's variance
    doubt: Array  # [D] w, the variance of the members' means about m̄


def fused(means: Array, stds: Array) -> Fused:
    """The members' predictions of one step, each weighted by its precision.

    Args:
      means: [K, D] m_i.
      stds: [K, D] the members' standard deviations.
    """
    precision = 1.0 / jnp.maximum(jnp.square(stds), LEAST)
    noise = 1.0 / jnp.mean(precision, axis=0)
    mean = noise * jnp.mean(means * precision, axis=0)
    return Fused(mean, noise, jnp.mean(jnp.square(means - mean), axis=0))


def left(step: Fused) -> Array:
    """log2 sqrt(2πe (1 - K) v̄), the entropy [D] in bits that a step leaves open.

    Args:
      step: from `fused`.
    """
    remaining = step.noise * step.doubt / (step.noise + step.doubt)  # (1 - K) v̄ without the difference
    return 0.5 * jnp.log2(2 * jnp.pi * jnp.e * jnp.maximum(remaining, LEAST))


class Allowance(NamedTuple):
    """What a rollout may lose."""

    width: Array  # [D] log2 δ
    step: Array  # [D] bits of one step
    total: Array  # [D] bits of all steps up to one


def lost(step: Fused, width: Array) -> Array:
    """Bits [D] of one step that are lost.

    Args:
      step: from `fused`.
      width: [D] log2 δ.
    """
    return jnp.maximum(left(step) - width, 0.0)


def allowance(means: Array, stds: Array, *, quantile: Array | float, budget: Array | float) -> Allowance:
    """The bins, and what may be lost, by what the members lose on real rows.

    A bin is as wide as makes the loss one bit at the lower quantile of the rows, q or 1 - q. One step may lose what the
    upper of the two does, and a rollout `budget` times what the lower does: `budget` bits. The authors have q 0.99 and
    a budget of 100.

    Args:
      means, stds: [N, K, D] what each of K members predicts of N rows, and its deviations.
      quantile: q in [0, 1]; may be traced.
      budget: steps of a rollout that lose as little as the lower quantile; may be traced.
    """
    entropy = jax.vmap(lambda mean, std: left(fused(mean, std)))(means, stds)
    low, high = jnp.sort(jnp.quantile(entropy, jnp.stack([1.0 - quantile, quantile]), axis=0), axis=0)
    return Allowance(low - 1.0, high - low + 1.0, jnp.full_like(low, budget))
