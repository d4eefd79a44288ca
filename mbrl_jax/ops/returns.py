"""Returns and advantages of one trajectory, time-major; `vmap` them over axis 1 of many."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array


def lambda_returns(rewards: Array, discounts: Array, values: Array, lam: Array | float) -> Array:
    """λ-returns of one trajectory (Sutton & Barto 2018, eq. 12.18).

        G_t = r_t + d_t [ (1 - λ) v_{t+1} + λ G_{t+1} ],   G_T = v_T

    Args:
      rewards: [T] r_t, of the action taken at step t.
      discounts: [T] d_t: γ, or 0 at termination.
      values: [T + 1] values of the visited states; the last one bootstraps.
      lam: in [0, 1]; 0 is one-step TD, 1 is Monte Carlo with bootstrap.
    Returns:
      [T] targets; no gradient is stopped.
    """
    chex.assert_rank([rewards, discounts, values], 1)
    chex.assert_equal_shape([rewards, discounts, values[1:]])

    def backward(next_return: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, discount, next_value = step
        this_return = reward + discount * ((1.0 - lam) * next_value + lam * next_return)
        return this_return, this_return

    return jax.lax.scan(backward, values[-1], (rewards, discounts, values[1:]), reverse=True)[1]


def gae(rewards: Array, discounts: Array, values: Array, next_values: Array, last: Array, lam: Array | float) -> Array:
    """Generalised advantage estimates of a trajectory that may hold several episodes (Schulman et al. 2016, eq. 16).

        δ_t = r_t + d_t v(s'_t) - v(s_t),   A_t = δ_t + d_t λ (1 - last_t) A_{t+1},   A_T = 0

    At termination d_t is 0. At a time limit d_t is γ: δ_t bootstraps from the successor that was really reached, and
    the sum stops there too, because t + 1 belongs to another episode.

    Args:
      rewards: [T] r_t, of the action taken at step t.
      discounts: [T] d_t: γ, or 0 at termination.
      values: [T] v(s_t).
      next_values: [T] v(s'_t) of the true successor; not values[1:] where an episode ends.
      last: [T] bool: terminated or out of time.
      lam: in [0, 1]; 0 is the one-step error, 1 is Monte Carlo with bootstrap.
    Returns:
      [T] advantages; plus `values` they are λ-returns. No gradient is stopped.
    """
    chex.assert_rank([rewards, discounts, values, next_values, last], 1)
    chex.assert_equal_shape([rewards, discounts, values, next_values, last])
    errors = rewards + discounts * next_values - values
    traces = lam * discounts * jnp.where(last, 0.0, 1.0)

    def backward(next_advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        error, trace = step
        advantage = error + trace * next_advantage
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros_like(errors[0]), (errors, traces), reverse=True)[1]


def discounted_sums(rewards: Array, last: Array, gamma: Array | float) -> Array:
    """R_t = r_t + γ R_{t-1} within each episode, from 0 at the first step: what has come so far, not what is to come.

    Args:
      rewards: [T, ...] float.
      last: [T, ...] bool, whether an episode ends with the step.
      gamma: γ, in [0, 1].
    Returns:
      [T, ...].
    """
    chex.assert_equal_shape([rewards, last])

    def one(before: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, ends = row
        now = reward + gamma * before
        return jnp.where(ends, 0.0, now), now

    return jax.lax.scan(one, jnp.zeros(rewards.shape[1:], jnp.float32), (rewards, last))[1]
