"""Expected returns of sequences of actions in a model: the scores of all sampling planners.

    G = Σ_t (Π_{i<t} γ d_i) r_t  +  (Π_{i<H} γ d_i) V(s_H),   the mean over particles

Particles follow PETS' trajectory sampling (Chua et al. 2018, section 5.1). In an ensemble each particle keeps its
member for the whole rollout ("TS-infinity"); with `Model.resample_member` the particles of each candidate are shuffled
among the members in every step ("TS1"). Either way each member predicts an equal share of every candidate's particles
in every step. A model that combines its members in its own step, such as by their mean, counts as one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.rollout import spread
from mbrl_jax.core.types import Action, Array, Key, Model, State, Tree


def score(model: Model, key: Key, state: State, actions: Action, gamma: Array | float, particles: int) -> Array:
    """The expected discounted return of each of N sequences of actions from one state.

    The reward of a terminating step counts; later rewards do not, even if they are NaN. A learned discount, the
    probability to go on, weights what follows. A model's `value` is added at the horizon.

    Args:
      model: any; each of its members predicts an equal share of every candidate's particles.
      key: used once; each particle of each candidate has its own noise.
      state: one state.
      actions: [N, H, ...] candidates.
      gamma: discount per step, in [0, 1].
      particles: rollouts per candidate, a multiple of the model's members; 1 for deterministic models.
    Returns:
      [N]; minus infinity where any particle's return is not finite: NaN scores rank last.
    Raises:
      ValueError: particles below 1, or no multiple of the members.
    """
    if particles < 1 or particles % model.members:
        raise ValueError(f"particles must be a multiple of the model's {model.members} members, got {particles}")
    at = model.at
    if at is None or model.members == 1:
        returns = _returns(model, key, state, actions, gamma, particles)[None]
    elif model.resample_member:
        returns = _returns_resampled(model, key, state, actions, gamma, particles)[None]
    else:
        # Members outside, rollouts inside: each member's weights meet all of its rollouts in one matrix product.
        share = particles // model.members
        returns = jax.vmap(lambda w, key: _returns(at(w), key, state, actions, gamma, share))(
            jnp.arange(model.members), jax.random.split(key, model.members)
        )
    mean = jnp.mean(returns, axis=(0, 2))
    return jnp.where(jnp.isfinite(mean), mean, -jnp.inf)


def _returns(model: Model, key: Key, state: State, actions: Action, gamma: Array | float, share: int) -> Array:
    """Returns [N, share] of `share` particles of every candidate in one member."""
    candidates, horizon = jax.tree.leaves(actions)[0].shape[:2]
    rollouts = candidates * share
    key_steps, key_value = jax.random.split(key)
    # One flat axis of rollouts, time in front: the shape of a plain matrix product at every step.
    taken = jax.tree.map(lambda leaf: jnp.repeat(jnp.swapaxes(leaf, 0, 1), share, axis=1), actions)

    def one(at: tuple[State, Array, Array], now: tuple[Array, Action]) -> tuple[tuple[State, Array, Array], None]:
        states, weights, totals = at
        t, action = now
        keys = jax.random.split(jax.random.fold_in(key_steps, t), rollouts)
        out = jax.vmap(model.step)(keys, states, action)
        totals = totals + _weighted(weights, out.reward)
        return (out.state, weights * gamma * out.discount, totals), None

    start = (tree.tile(state, rollouts), jnp.ones(rollouts, jnp.float32), jnp.zeros(rollouts, jnp.float32))
    (states, weights, totals), _ = jax.lax.scan(one, start, (jnp.arange(horizon), taken))
    if model.value is not None:
        totals = totals + _weighted(weights, jax.vmap(model.value)(jax.random.split(key_value, rollouts), states))
    return totals.reshape(candidates, share)


def _returns_resampled(
    model: Model, key: Key, state: State, actions: Action, gamma: Array | float, particles: int
) -> Array:
    """Returns [N, particles] of rollouts that change members at random in every step."""
    candidates, horizon = jax.tree.leaves(actions)[0].shape[:2]
    members, share, rollouts = model.members, particles // model.members, candidates * particles
    key_steps, key_value = jax.random.split(key)

    def shuffle(key: Key, flat: Tree) -> Tree:
        """The rollouts [members x N x share], shuffled within each candidate."""
        order = jnp.argsort(jax.random.uniform(key, (candidates, particles), jnp.float32), axis=1)

        def one(leaf: Array) -> Array:
            by_candidate = leaf.reshape(members, candidates, share, *leaf.shape[1:]).swapaxes(0, 1)
            grouped = by_candidate.reshape(candidates, particles, *leaf.shape[1:])
            shuffled = jax.vmap(lambda own, order: own[order])(grouped, order)
            back = shuffled.reshape(candidates, members, share, *leaf.shape[1:]).swapaxes(0, 1)
            return back.reshape(rollouts, *leaf.shape[1:])

        return jax.tree.map(one, flat)

    def one(at: tuple[State, Array, Array], t: Array) -> tuple[tuple[State, Array, Array], None]:
        key_shuffle, key_step = jax.random.split(jax.random.fold_in(key_steps, t))
        states, weights, totals = shuffle(key_shuffle, at)
        action = jax.tree.map(
            lambda leaf: tree.flatten_dims(tree.tile(jnp.repeat(leaf[:, t], share, 0), members), 2), actions
        )
        out = spread(model, key_step, states, action)
        totals = totals + _weighted(weights, out.reward)
        return (out.state, weights * gamma * out.discount, totals), None

    start = (tree.tile(state, rollouts), jnp.ones(rollouts, jnp.float32), jnp.zeros(rollouts, jnp.float32))
    (states, weights, totals), _ = jax.lax.scan(one, start, jnp.arange(horizon))
    if model.value is not None:
        totals = totals + _weighted(weights, jax.vmap(model.value)(jax.random.split(key_value, rollouts), states))
    return totals.reshape(members, candidates, share).swapaxes(0, 1).reshape(candidates, particles)


def _weighted(weights: Array, values: Array) -> Array:
    """Weights times values; 0 where the weight is 0, even if the value is NaN, as it may be after termination."""
    return jnp.where(weights == 0.0, 0.0, weights * values)
