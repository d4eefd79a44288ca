"""Where the members of an ensemble disagree: a measure of what the model does not know, without a unit.

    v_d      = mean over rows of Var_i[ m_i,d(s, a) ]             `usual`: the members' variance where the data is
    u(s, a)  = 1/D Σ_d Var_i[ m_i,d(s, a) ] / v_d                  `disagreement`: 1 on average over those rows

m_i is the mean that member i predicts of the next observation and the reward. Noise of the environment is in each
member's deviation and not in u.
"""

from __future__ import annotations

import jax.numpy as jnp

from mbrl_jax.core.types import Array

LEAST = 1e-12
"""Least variance of the members that is divided by: entries that all members know exactly."""


def usual(means: Array) -> Array:
    """v, the variance of the members' means, averaged over rows.

    Args:
      means: [N, K, D] what each of K members predicts of N rows.
    Returns:
      [D] in squared units of the predictions.
    """
    return jnp.mean(jnp.var(means, axis=1), axis=0)


def disagreement(means: Array, usual: Array) -> Array:
    """u, the variance of the members' means beside the usual one, averaged over what is predicted.

    Args:
      means: [K, D] what each member predicts of one step.
      usual: [D] v.
    Returns:
      [] at least 0.
    """
    return jnp.mean(jnp.var(means, axis=0) / jnp.maximum(usual, LEAST))
