"""What a sequence of actions is worth in a model: the one function behind every sampling planner.

    G = Σ_t (Π_{i<t} γ d_i) r_t  +  (Π_{i<H} γ d_i) V(s_H),   the mean over particles

Trajectory sampling is that of PETS (Chua et al. 2018, section 5.1). Where a model holds several worlds, every particle
spends its whole life in one of them ("TS-infinity"); where the model is `mixed`, the particles of each candidate are
dealt out anew among the worlds in every step ("TS1"). Either way each world carries an equal share of the particles of
every candidate in every step. A model whose own step mixes its members, such as their mean, is one world.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.rollout import spread
from mbrl_jax.core.types import Action, Array, Key, Model, State, Tree


def score(model: Model, key: Key, state: State, actions: Action, gamma: Array | float, particles: int) -> Array:
    """The expected discounted return of each of N sequences of actions from one state.

    The reward of a terminating step counts, and whatever comes after it does not, not even NaN. A learned discount is
    a probability to go on, and weighs what follows. A model's `value` is added at the horizon.

    Args:
      model: any; with `members` above 1 each world carries an equal share of every candidate's particles.
      key: used once; each particle of each candidate draws for itself.
      state: one state.
      actions: [N, H, ...] candidates.
      gamma: discount per step, in [0, 1].
      particles: lives per candidate, a multiple of the model's worlds; 1 where nothing is random.
    Returns:
      [N]; minus infinity where a particle's return is not a finite number, so that NaN is never a good score.
    Raises:
      ValueError: particles below 1, or no multiple of the worlds.
    """
    if particles < 1 or particles % model.members:
        raise ValueError(f"particles must be a multiple of the model's {model.members} members, got {particles}")
    at = model.at
    if at is None or model.members == 1:
        returns = _live(model, key, state, actions, gamma, particles)[None]
    elif model.resample_member:
        returns = _live_mixed(model, key, state, actions, gamma, particles)[None]
    else:
        # Members outside, lanes inside: each member's weights meet all of its lanes in one matrix product.
        share = particles // model.members
        returns = jax.vmap(lambda w, key: _live(at(w), key, state, actions, gamma, share))(
            jnp.arange(model.members), jax.random.split(key, model.members)
        )
    mean = jnp.mean(returns, axis=(0, 2))
    return jnp.where(jnp.isfinite(mean), mean, -jnp.inf)


def _live(model: Model, key: Key, state: State, actions: Action, gamma: Array | float, share: int) -> Array:
    """Returns [N, share] of `share` particles of every candidate in one world."""
    candidates, horizon = jax.tree.leaves(actions)[0].shape[:2]
    lanes = candidates * share
    key_steps, key_value = jax.random.split(key)
    # One flat axis of lanes, time in front: the shape of a plain matrix product at every step.
    taken = jax.tree.map(lambda leaf: jnp.repeat(jnp.swapaxes(leaf, 0, 1), share, axis=1), actions)

    def one(at: tuple[State, Array, Array], now: tuple[Array, Action]) -> tuple[tuple[State, Array, Array], None]:
        states, weights, totals = at
        t, action = now
        keys = jax.random.split(jax.random.fold_in(key_steps, t), lanes)
        out = jax.vmap(model.step)(keys, states, action)
        totals = totals + _weighed(weights, out.reward)
        return (out.state, weights * gamma * out.discount, totals), None

    start = (tree.tile(state, lanes), jnp.ones(lanes), jnp.zeros(lanes))
    (states, weights, totals), _ = jax.lax.scan(one, start, (jnp.arange(horizon), taken))
    if model.value is not None:
        totals = totals + _weighed(weights, jax.vmap(model.value)(jax.random.split(key_value, lanes), states))
    return totals.reshape(candidates, share)


def _live_mixed(model: Model, key: Key, state: State, actions: Action, gamma: Array | float, particles: int) -> Array:
    """Returns [N, particles] of lives that change worlds at random in every step."""
    candidates, horizon = jax.tree.leaves(actions)[0].shape[:2]
    worlds, share, lanes = model.members, particles // model.members, candidates * particles
    key_steps, key_value = jax.random.split(key)

    def deal(key: Key, lives: Tree) -> Tree:
        """The lives [worlds x N x share] of each candidate in a new order."""
        order = jnp.argsort(jax.random.uniform(key, (candidates, particles)), axis=1)

        def one(leaf: Array) -> Array:
            by_candidate = leaf.reshape(worlds, candidates, share, *leaf.shape[1:]).swapaxes(0, 1)
            lives = by_candidate.reshape(candidates, particles, *leaf.shape[1:])
            moved = jax.vmap(lambda own, order: own[order])(lives, order)
            back = moved.reshape(candidates, worlds, share, *leaf.shape[1:]).swapaxes(0, 1)
            return back.reshape(lanes, *leaf.shape[1:])

        return jax.tree.map(one, lives)

    def one(at: tuple[State, Array, Array], t: Array) -> tuple[tuple[State, Array, Array], None]:
        key_deal, key_step = jax.random.split(jax.random.fold_in(key_steps, t))
        states, weights, totals = deal(key_deal, at)
        action = jax.tree.map(
            lambda leaf: tree.flatten_dims(tree.tile(jnp.repeat(leaf[:, t], share, 0), worlds), 2), actions
        )
        out = spread(model, key_step, states, action)
        totals = totals + _weighed(weights, out.reward)
        return (out.state, weights * gamma * out.discount, totals), None

    start = (tree.tile(state, lanes), jnp.ones(lanes), jnp.zeros(lanes))
    (states, weights, totals), _ = jax.lax.scan(one, start, jnp.arange(horizon))
    if model.value is not None:
        totals = totals + _weighed(weights, jax.vmap(model.value)(jax.random.split(key_value, lanes), states))
    return totals.reshape(worlds, candidates, share).swapaxes(0, 1).reshape(candidates, particles)


def _weighed(weights: Array, values: Array) -> Array:
    """Weights times values, and 0 where the weight is: an ended life may go on in states that mean nothing."""
    return jnp.where(weights == 0.0, 0.0, weights * values)
