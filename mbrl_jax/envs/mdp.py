"""Small Markov decision processes as exact tables: an environment, its optimal values, the values of a policy.

Tests compare learners and planners with them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mbrl_jax.core import Array, Discrete, Env, Key, Spec
from mbrl_jax.envs import wrappers


class MDP(NamedTuple):
    """A finite decision process. The value of a terminal state is 0, whatever its row of the tables says."""

    transitions: Array  # [S, A, S] probabilities; rows over the last axis sum to 1
    rewards: Array  # [S, A] expected, or [S, A, S] by the state reached
    terminal: Array  # [S] bool: reaching it ends the episode, and the reward of that step counts
    start: Array  # [S] probabilities of the first state


def random_mdp(
    key: Key, states: int, actions: int, *, branching: int | None = None, terminals: int = 0, by_successor: bool = False
) -> MDP:
    """A random Garnet process (Archibald et al. 1995).

    Each state and action leads to `branching` distinct states, drawn uniformly, with probabilities uniform on the
    simplex; rewards are uniform in [0, 1). The last `terminals` states are terminal; episodes start in any other.

    Args:
      key: used once.
      states: S, at least 1.
      actions: A, at least 1.
      branching: in 1..S; S if None.
      terminals: in 0..S-1.
      by_successor: rewards [S, A, S] instead of [S, A].
    Returns:
      The tables, float32.
    Raises:
      ValueError: a number outside its range.
    """
    branching = states if branching is None else branching
    for name, value, low, high in (
        ("states", states, 1, None),
        ("actions", actions, 1, None),
        ("branching", branching, 1, states),
        ("terminals", terminals, 0, states - 1),
    ):
        if value < low or (high is not None and value > high):
            raise ValueError(
                f"{name} must be at least {low}{f' and at most {high}' if high is not None else ''}, got {value}"
            )
    key_mass, key_order, key_reward = jax.random.split(key, 3)
    shape = (states, actions, states)
    order = jax.random.permutation(key_order, jnp.broadcast_to(jnp.arange(states), shape), axis=-1, independent=True)
    mass = jnp.where(order < branching, jax.random.exponential(key_mass, shape, jnp.float32), 0.0)
    terminal = jnp.arange(states) >= states - terminals
    return MDP(
        transitions=mass / mass.sum(-1, keepdims=True),
        rewards=jax.random.uniform(key_reward, shape if by_successor else shape[:2], jnp.float32),
        terminal=terminal,
        start=(~terminal).astype(jnp.float32) / jnp.sum(~terminal),
    )


def as_env(mdp: MDP, time_limit: int | None = None) -> Env:
    """The process as an environment whose observations are state numbers.

    Args:
      mdp: the tables.
      time_limit: steps after which an episode is truncated; None for never.
    Returns:
      An environment with `Discrete` observations and actions.
    Raises:
      ValueError: the tables' shapes do not fit each other, or the time limit is below 1.
    """
    states, actions = _sizes(mdp)
    log_transitions, log_start = jnp.log(mdp.transitions), jnp.log(mdp.start)

    def reset(key: Key) -> tuple[Array, Array]:
        state = jax.random.categorical(key, log_start).astype(jnp.int32)
        return state, state

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        successor = jax.random.categorical(key, log_transitions[state, action]).astype(jnp.int32)
        rewards = mdp.rewards[state, action]
        reward = rewards if mdp.rewards.ndim == 2 else rewards[successor]
        ended = mdp.terminal[successor]
        return successor, successor, reward, 1.0 - ended.astype(jnp.float32), ended

    # Inside a trace the mask is not known, so termination is assumed to be possible.
    terminates = isinstance(mdp.terminal, Tracer) or bool(np.any(mdp.terminal))
    spec = Spec(Discrete(states), Discrete(actions), terminates=terminates, name="mdp")
    env = Env(spec, reset, step, observe=lambda state: state)
    return env if time_limit is None else wrappers.time_limit(env, time_limit)


def value_iteration(
    mdp: MDP, gamma: Array | float, tolerance: float = 1e-5, iterations: int = 100_000
) -> tuple[Array, Array]:
    """The optimal values.

        Q(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V(s'),   V(s) = max_a Q(s, a),   0 in terminal states

    Stops when γ max|V_k+1 - V_k| <= tolerance (1 - γ), which puts every value within `tolerance` of the optimum, since
    a sweep contracts by γ; or after `iterations` sweeps. Rounding adds about 1e-7 max|V| / (1 - γ) in float32.

    Args:
      mdp: the tables.
      gamma: in [0, 1]; at 1 the bound holds only if every policy terminates.
      tolerance: largest error of a value, above 0.
      iterations: maximum number of sweeps.
    Returns:
      values [S] and action values [S, A].
    Raises:
      ValueError: the tables' shapes do not fit each other.
    """
    states, actions = _sizes(mdp)
    rewards, onward = _rewards(mdp), _onward(mdp)

    def sweep(at: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        values, _, _, i = at
        q = jnp.where(mdp.terminal[:, None], 0.0, rewards + gamma * onward @ values)
        new = q.max(-1)
        return new, q, jnp.max(jnp.abs(new - values)), i + 1

    def not_done(at: tuple[Array, Array, Array, Array]) -> Array:
        _, _, change, i = at
        return (gamma * change > tolerance * (1.0 - gamma)) & (i < iterations) | (i == 0)

    first = (
        jnp.zeros(states, jnp.float32),
        jnp.zeros((states, actions), jnp.float32),
        jnp.zeros((), jnp.float32),
        jnp.zeros((), jnp.int32),
    )
    values, q, _, _ = jax.lax.while_loop(not_done, sweep, first)
    return values, q


def policy_evaluation(mdp: MDP, policy: Array, gamma: Array | float) -> tuple[Array, Array]:
    """The values of a policy, exactly, by one linear solve.

        V = (I - γ P_π)^-1 r_π,   with the rows and columns of terminal states 0 in P_π and r_π

    Args:
      mdp: the tables.
      policy: [S, A] probabilities of the actions.
      gamma: in [0, 1); also 1 if the policy terminates from every state.
    Returns:
      values [S] and action values [S, A].
    Raises:
      ValueError: the shapes do not fit each other.
    """
    states, actions = _sizes(mdp)
    if policy.shape != (states, actions):
        raise ValueError(f"policy must be [{states}, {actions}], got {list(policy.shape)}")
    weights = jnp.where(mdp.terminal[:, None], 0.0, policy)
    rewards, onward = _rewards(mdp), _onward(mdp)
    chain = jnp.einsum("sa,sat->st", weights, onward)
    values = jnp.linalg.solve(jnp.eye(states, dtype=jnp.float32) - gamma * chain, jnp.sum(weights * rewards, -1))
    return values, jnp.where(mdp.terminal[:, None], 0.0, rewards + gamma * onward @ values)


def _rewards(mdp: MDP) -> Array:
    """[S, A] expected rewards."""
    return mdp.rewards if mdp.rewards.ndim == 2 else jnp.sum(mdp.transitions * mdp.rewards, -1)


def _onward(mdp: MDP) -> Array:
    """[S, A, S] probabilities of continuing in each state: 0 for terminal ones."""
    return jnp.where(mdp.terminal, 0.0, mdp.transitions)


def _sizes(mdp: MDP) -> tuple[int, int]:
    """S and A, after a check that all tables agree on them."""
    shape = mdp.transitions.shape
    if len(shape) != 3 or shape[0] != shape[2]:
        raise ValueError(f"transitions must be [S, A, S], got {list(shape)}")
    states, actions, _ = shape
    for name, table, allowed in (
        ("rewards", mdp.rewards, [(states, actions), shape]),
        ("terminal", mdp.terminal, [(states,)]),
        ("start", mdp.start, [(states,)]),
    ):
        if table.shape not in allowed:
            raise ValueError(f"{name} must be {' or '.join(str(list(s)) for s in allowed)}, got {list(table.shape)}")
    return states, actions
