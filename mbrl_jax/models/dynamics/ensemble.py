"""Several copies of one model, and `bind`: from a model with its parameters outside to the `Model` that a planner sees.

Parameters of an ensemble are the member's with one more leading axis, [E, ...]. Map over that axis outside and over
the batch inside, so that each member's weights meet all of their states in one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Key, Metrics, Model, Obs, Params, State, StepOut, Transition, WorldModel

MODES = ("ts1", "mean", "elites")
Revise: TypeAlias = Callable[[Obs, Action, StepOut], StepOut]
"""(observation, action, the model's step) -> the step that is taken in its place."""


def member(params: Params, w: Array | int) -> Params:
    """The parameters of member `w` out of [E, ...].

    Map it over members, never over a batch of states: each call reads all of a member's weights.
    """
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, w, keepdims=False), params)


def ensemble(model: WorldModel, n: int, mode: str = "ts1", elites: Array | None = None) -> WorldModel:
    """`n` copies of a model whose states mean the same to all of them, as observations do.

    All members predict and one prediction is kept, so that a step costs `n` members' steps; `core.spread` over a bound
    ensemble costs one member's step for each state.

    Args:
      model: the member.
      n: number of members, at least 1.
      mode: what `step` does with the members' predictions:
        "ts1": keeps one member's, drawn anew at every step (Chua et al. 2018);
        "mean": averages them; where members are probabilistic, the average of one sample from each;
        "elites": keeps one, drawn among `elites` (Janner et al. 2019).
      elites: [K] int32 indices of the members to draw from; for "elites" only.
    Returns:
      the ensemble: params [n, ...]; `loss` is the sum over members, each on its own batch, data [n, B, ...]; metrics
      are averages over members; `calibrate` gives every member the same rows; `errors` [B] are averages over members.
    Raises:
      ValueError: n below 1, an unknown mode, elites missing or given to another mode.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if (mode == "elites") != (elites is not None):
        raise ValueError(f"elites must be given with mode 'elites' and with no other, got mode {mode!r}")

    def init(key: Key) -> Params:
        return jax.vmap(model.init)(jax.random.split(key, n))

    def loss(params: Params, key: Key, data: Transition) -> tuple[Array, Metrics]:
        losses, metrics = jax.vmap(model.loss)(params, jax.random.split(key, n), data)
        return jnp.sum(losses), jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

    def step(params: Params, key: Key, state: State, action: Action) -> StepOut:
        key_draw, key_members = jax.random.split(key)
        out = jax.vmap(model.step, (0, 0, None, None))(params, jax.random.split(key_members, n), state, action)
        if mode == "mean":
            return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), out)
        drawn = jax.random.randint(key_draw, (), 0, n if elites is None else elites.shape[0])
        return member(out, drawn if elites is None else elites[drawn])

    def encode(params: Params, key: Key, obs: Obs) -> State:
        return model.encode(member(params, 0), key, obs)

    def decode(params: Params, state: State) -> Obs:
        assert model.decode is not None
        return model.decode(member(params, 0), state)

    def calibrate(params: Params, rows: Transition, mask: Array) -> Params:
        assert model.calibrate is not None
        return jax.vmap(model.calibrate, (0, None, None))(params, rows, mask)

    def errors(params: Params, batch: Transition) -> Array:
        assert model.errors is not None
        return jnp.mean(jax.vmap(model.errors, (0, None))(params, batch), axis=0)

    return WorldModel(
        init,
        loss,
        encode,
        step,
        decode=None if model.decode is None else decode,
        calibrate=None if model.calibrate is None else calibrate,
        errors=None if model.errors is None else errors,
    )


def bind(
    model: WorldModel,
    params: Params,
    members: int = 0,
    value: Callable[[Key, State], Array] | None = None,
    prior: Callable[[Key, State], Array] | None = None,
    resample_member: bool = False,
) -> Model:
    """A world model with its parameters inside: what a planner, or `core.branch`, sees.

    Args:
      model: any world model; with `members`, one member of the ensemble.
      params: its parameters; with `members`, [members, ...].
      members: 0 for a single model. Above 0 the result holds that many members: `at(i)` is one of them, and `step`
        draws one at every step.
      value: (key, state) -> [], the bootstrap at the horizon or leaf.
      prior: (key, state) -> logits [A], or a proposed action.
      resample_member: with `members`, each step of a rollout draws its member anew (TS1); else a rollout keeps its
        own (TS-infinity).
    Returns:
      the bound model.
    Raises:
      ValueError: params do not hold that many members.
    """
    if members == 0:
        return Model(lambda key, state, action: model.step(params, key, state, action), value, prior)
    leading = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(params)}
    if leading != {members}:
        raise ValueError(f"members must be the leading axis of params, got {members} against {sorted(leading)}")
    whole = ensemble(model, members)
    return Model(
        lambda key, state, action: whole.step(params, key, state, action),
        value,
        prior,
        members=members,
        at=lambda w: bind(model, member(params, w), 0, value, prior),
        resample_member=resample_member,
    )


def revised(model: Model, revise: Revise) -> Model:
    """A model over observations in which every step is changed, its members' too.

    Args:
      model: over observations.
      revise: what becomes of a step.
    """
    at = model.at

    def one(i: Array) -> Model:
        assert at is not None
        return revised(at(i), revise)

    def step(key: Key, state: State, action: Action) -> StepOut:
        return revise(state, action, model.step(key, state, action))

    return model._replace(step=step, at=None if at is None else one)
