"""Trajectories through a model: open loop, closed loop, and branched over an ensemble's members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Key, Model, PolicyFn, Rollout, State, StepFn, StepOut, Transition


def unroll(step: StepFn, key: Key, state: State, actions: Action) -> tuple[State, Rollout]:
    """Open loop: the given actions from one state.

    Args:
      step: a model's step.
      key: used once; each step gets its own.
      state: the first state.
      actions: [H, ...].
    Returns:
      the state after the last action, and the rollout [H, ...].
    """
    horizon = jax.tree.leaves(actions)[0].shape[0]

    def one(state: State, at: tuple[Key, Action]) -> tuple[State, Rollout]:
        key_step, action = at
        out = step(key_step, state, action)
        return out.state, Rollout(state, action, out.reward, out.discount)

    return jax.lax.scan(one, state, (jax.random.split(key, horizon), actions))


def imagine(step: StepFn, policy: PolicyFn, key: Key, state: State, horizon: int) -> tuple[State, Rollout]:
    """Closed loop: a policy chooses each action in the imagined state.

    Args:
      step: a model's step.
      policy: (key, state) -> action.
      key: used once.
      state: the first state.
      horizon: steps to take, at least 1.
    Returns:
      the state after the last action, and the rollout [H, ...].
    Raises:
      ValueError: the horizon is below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")

    def one(state: State, i: Array) -> tuple[State, Rollout]:
        key_policy, key_step = jax.random.split(jax.random.fold_in(key, i))
        action = policy(key_policy, state)
        out = step(key_step, state, action)
        return out.state, Rollout(state, action, out.reward, out.discount)

    return jax.lax.scan(one, state, jnp.arange(horizon))


def spread(model: Model, key: Key, states: State, actions: Action) -> StepOut:
    """One step of many lanes, an equal share of them through each of the model's worlds.

    The member axis is outside and the lanes inside, so that each member's weights meet all of its lanes in one matrix
    product: lane i goes through world `i // (N / worlds)`. Shuffle the lanes to draw worlds at random.

    Args:
      model: `members` hypotheses, reached by `at`.
      key: used once.
      states: [N, ...], N a multiple of `members`.
      actions: [N, ...].
    Returns:
      StepOut of [N, ...].
    """
    lanes = jax.tree.leaves(states)[0].shape[0]
    keys = jax.random.split(key, lanes)
    if model.at is None:
        return jax.vmap(model.step)(keys, states, actions)
    if lanes % model.members:
        raise ValueError(f"lanes must be a multiple of the model's {model.members} members, got {lanes}")
    at = model.at
    grouped = jax.tree.map(
        lambda leaf: leaf.reshape(model.members, lanes // model.members, *leaf.shape[1:]), (keys, states, actions)
    )
    out = jax.vmap(lambda w, group: jax.vmap(at(w).step)(*group))(jnp.arange(model.members), grouped)
    return tree.flatten_dims(out, 2)


def branch(
    model: Model,
    policy: PolicyFn,
    key: Key,
    states: State,
    horizon: Array | int,
    store: Callable[[Any, Transition, Array], Any],
    data: Any,
) -> Any:
    """Branched rollouts (Janner et al. 2019, algorithm 2): short policy rollouts from many states at once.

    Every step draws anew which of the model's worlds carries each lane: the lanes are shuffled, then split evenly, so
    each world is drawn with equal probability for each lane and step. Lanes that terminated are dropped: they stay in
    the arrays with `alive` False. A lane goes on while the model gives it an even chance or better to; -1, where the
    player to move changes, is a chance of 1.

    Args:
      model: `members` hypotheses over observations.
      policy: (key, state) -> action.
      key: used once.
      states: [N, ...] where the rollouts branch off, N a multiple of `members`.
      horizon: steps to take; may be traced, so that it can grow during a run.
      store: (data, rows [N, ...], alive [N] bool) -> data, called once a step.
      data: what `store` folds the rows into.
    Returns:
      data, after `horizon` calls of `store`.
    """
    lanes = jax.tree.leaves(states)[0].shape[0]

    def one(i: Array, at: tuple[State, Array, Any]) -> tuple[State, Array, Any]:
        states, alive, data = at
        key_shuffle, key_policy, key_step = jax.random.split(jax.random.fold_in(key, i), 3)
        order = jax.random.permutation(key_shuffle, lanes)
        states, alive = tree.take((states, alive), order)
        actions = jax.vmap(policy)(jax.random.split(key_policy, lanes), states)
        out = spread(model, key_step, states, actions)
        ended = jnp.abs(out.discount) < 0.5
        data = store(data, Transition(states, actions, out.reward, out.discount, out.state, ended), alive)
        return out.state, alive & ~ended, data

    return jax.lax.fori_loop(0, horizon, one, (states, jnp.ones(lanes, bool), data))[2]


def discounted_return(rewards: Array, discounts: Array, bootstrap: Array | float = 0.0) -> Array:
    """The discounted sum of one trajectory's rewards.

        G = Σ_t (Π_{i<t} d_i) r_t  +  (Π_{i<T} d_i) b

    Args:
      rewards: [T].
      discounts: [T] γ times 0 at termination; the reward of the terminating step counts, later ones do not.
      bootstrap: [] value of the state after the last step.
    Returns:
      [] the return from the first step.
    """
    chex.assert_rank([rewards, discounts], 1)
    chex.assert_equal_shape([rewards, discounts])
    weights = jnp.concatenate([jnp.ones(1, rewards.dtype), jnp.cumprod(discounts)])
    return jnp.sum(weights[:-1] * rewards) + weights[-1] * bootstrap
