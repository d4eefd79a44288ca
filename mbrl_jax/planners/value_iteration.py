"""Exact planning on tables: value iteration, policy iteration, and greedy policies with ties.

The tables are an environment's (`envs.mdp`, `envs.maze.as_mdp`) or the means of a tabular model
(`models.tabular.tables`).
Howard (1960); Sutton & Barto (2018), sections 4.3 and 4.4.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array
from mbrl_jax.envs.mdp import MDP, policy_evaluation, value_iteration

__all__ = ["greedy", "policy_iteration", "value_iteration"]


def greedy(q: Array, tolerance: Array | float = 1e-5) -> Array:
    """The greedy policy, with equal probabilities for all best actions.

    Args:
      q: [..., A] action values.
      tolerance: action values this far below the best count as best, at least 0.
    Returns:
      [..., A] probabilities.
    """
    best = (q >= q.max(-1, keepdims=True) - tolerance).astype(q.dtype)
    return best / best.sum(-1, keepdims=True)


def policy_iteration(
    mdp: MDP, gamma: Array | float, tolerance: float = 1e-5, iterations: int = 1_000
) -> tuple[Array, Array, Array]:
    """The optimal values by policy iteration: alternating exact evaluation and greedy improvement.

    An action is replaced only by one that is better by more than `tolerance` times (1 + max|Q|), so that rounding
    cannot make it cycle between equals. Once no state changes its action, V is within that over (1 - γ) of the optimum.
    One iteration is a linear solve, O(S³).

    Args:
      mdp: the tables.
      gamma: in [0, 1).
      tolerance: in float32 not below 1e-6.
      iterations: maximum number of iterations, at least 1.
    Returns:
      values [S] and action values [S, A] of the policy; the policy [S] int32.
    Raises:
      ValueError: the tables' shapes do not fit each other, or fewer than 1 iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    states, actions, _ = mdp.transitions.shape

    def improve(at: tuple[Array, Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array, Array]:
        proposed, _, _, _, _, i = at
        values, q = policy_evaluation(mdp, jax.nn.one_hot(proposed, actions, dtype=jnp.float32), gamma)
        current = jnp.take_along_axis(q, proposed[:, None], -1)[:, 0]
        better = q.max(-1) - current > tolerance * (1.0 + jnp.max(jnp.abs(q)))
        return jnp.where(better, q.argmax(-1), proposed).astype(jnp.int32), proposed, values, q, jnp.any(better), i + 1

    def not_done(at: tuple[Array, Array, Array, Array, Array, Array]) -> Array:
        return at[4] & (at[5] < iterations)

    first = jnp.zeros(states, jnp.int32)
    start = (
        first,
        first,
        jnp.zeros(states, jnp.float32),
        jnp.zeros((states, actions), jnp.float32),
        jnp.ones((), bool),
        jnp.zeros((), jnp.int32),
    )
    _, policy, values, q, _, _ = jax.lax.while_loop(not_done, improve, start)
    return values, q, policy
