"""Rollouts of a model: open loop, closed loop, and branched over the members of an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Key, Model, PolicyFn, Rollout, State, StepFn, StepOut, Transition, Tree


def unroll(step: StepFn, key: Key, state: State, actions: Action) -> tuple[State, Rollout]:
    """An open-loop rollout: given actions from one state.

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
    """A closed-loop rollout: a policy chooses each action in the imagined state.

    Args:
      step: a model's step.
      policy: (key, state) -> action.
      key: used once; each step gets two of its own.
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
    """One step of a batch, in equal parts through each member of the model.

    Row i goes through member `i // (N / members)`; shuffle the rows to draw members at random. The member axis is
    outside and the batch axis inside, so that each member's weights meet all of its rows in one matrix product.

    Args:
      model: of `members` members, reached by `at`.
      key: used once.
      states: [N, ...], N a multiple of `members`.
      actions: [N, ...].
    Returns:
      StepOut of [N, ...].
    Raises:
      ValueError: N is not a multiple of `members`.
    """
    batch = jax.tree.leaves(states)[0].shape[0]
    keys = jax.random.split(key, batch)
    if model.at is None:
        return jax.vmap(model.step)(keys, states, actions)
    if batch % model.members:
        raise ValueError(f"the batch must be a multiple of the model's {model.members} members, got {batch} rows")
    at = model.at
    grouped = jax.tree.map(
        lambda leaf: leaf.reshape(model.members, batch // model.members, *leaf.shape[1:]), (keys, states, actions)
    )
    out = jax.vmap(lambda i, group: jax.vmap(at(i).step)(*group))(jnp.arange(model.members), grouped)
    return tree.flatten_dims(out, 2)


class Cut(NamedTuple):
    """What ends branched rollouts before steps that are not to be trusted."""

    start: Tree  # what a rollout has spent before its first step
    spend: Callable[[Tree, State, Action], tuple[Tree, Array]]  # (spent, state, action) -> spent, [] bool trusted


def branch(
    model: Model,
    policy: PolicyFn,
    key: Key,
    states: State,
    horizon: Array | int,
    store: Callable[[Any, Transition, Array], Any],
    data: Any,
    cut: Cut | None = None,
) -> Any:
    """Branched rollouts (Janner et al. 2019, algorithm 2): a batch of short policy rollouts from given states.

    Every step shuffles the rollouts and splits them evenly among the members, so each member is drawn with equal
    probability for each rollout and step. Rollouts that have terminated stay in the arrays with `alive` False. A
    rollout continues where the absolute value of the model's discount is at least 0.5 (it is -1 where the player to
    move changes).

    Args:
      model: of `members` members, whose states are observations.
      policy: (key, state) -> action.
      key: used once.
      states: [N, ...] initial states, N a multiple of `members`.
      horizon: steps to take; may be traced, so that it can grow during a run.
      store: (data, rows [N, ...], alive [N] bool) -> data, called once per step.
      data: the initial `data` of `store`, a buffer for example.
      cut: a rollout is cut before the first step that is not trusted, which is stored with `alive` False. The first
        step of every rollout is taken, and what it spends counts. None to trust all.
    Returns:
      data, after `horizon` calls of `store`.
    """
    batch = jax.tree.leaves(states)[0].shape[0]

    def one(i: Array, at: tuple[State, Array, Tree, Any]) -> tuple[State, Array, Tree, Any]:
        states, alive, spent, data = at
        key_shuffle, key_policy, key_step = jax.random.split(jax.random.fold_in(key, i), 3)
        order = jax.random.permutation(key_shuffle, batch)
        states, alive, spent = tree.take((states, alive, spent), order)
        actions = jax.vmap(policy)(jax.random.split(key_policy, batch), states)
        if cut is not None:
            spent, trusted = jax.vmap(cut.spend)(spent, states, actions)
            alive = alive & ((i == 0) | trusted)
        out = spread(model, key_step, states, actions)
        ended = jnp.abs(out.discount) < 0.5
        data = store(data, Transition(states, actions, out.reward, out.discount, out.state, ended), alive)
        return out.state, alive & ~ended, spent, data

    spent = () if cut is None else jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *jnp.shape(x))), cut.start)
    return jax.lax.fori_loop(0, horizon, one, (states, jnp.ones(batch, bool), spent, data))[3]


def discounted_return(rewards: Array, discounts: Array, bootstrap: Array | float = 0.0) -> Array:
    """The discounted sum of one trajectory's rewards.

        G = Σ_t (Π_{i<t} d_i) r_t  +  (Π_{i<T} d_i) b

    Args:
      rewards: [T].
      discounts: [T] γ, times 0 at termination; the reward of the terminating step counts, later ones do not.
      bootstrap: [] value of the state after the last step.
    Returns:
      [] the return from the first step on.
    """
    chex.assert_rank([rewards, discounts], 1)
    chex.assert_equal_shape([rewards, discounts])
    weights = jnp.concatenate([jnp.ones(1, rewards.dtype), jnp.cumprod(discounts)])
    return jnp.sum(weights[:-1] * rewards) + weights[-1] * bootstrap
