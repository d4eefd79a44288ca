"""Fitting an ensemble to a buffer inside one compiled program (Janner et al. 2019, and its reference code).

Each fit (`fit_ensemble`):
  * `holdout_split`: holds out h = min(⌊holdout N⌋, max_holdout) of the N rows at random (at least one), the same for
    every member, and sets the models' scales from the other rows;
  * `bootstrap`: draws for each member as many of the training rows as there are, with replacement;
  * `epoch`: takes each member once through its bootstrap in a new order;
  * `keep_best`: after an epoch, member i improved if (best_i - error_i) / best_i > improvement, where error_i is its
    hold-out error; then error_i is its best and its parameters are kept. best_i starts at twice the error of the
    weights that the member has;
  * stops after the first epoch that makes more than `patience` in a row in which no member improved;
  * gives every member its kept parameters, which are those from before the fit if none came within twice their error;
    the elites are the members of lowest kept error.
Weights and the optimiser's state carry over from fit to fit.

Differs from the paper in: best_i starts at 1e10 there, so that a member whose first epoch fails loses what it had
learned before. It may not start at the error of its weights either: they were trained on most of the rows that are now
held out. The number of epochs has a cap; what is kept of a member includes its log-variance bounds;
the last batch of an epoch is filled up with rows from the epoch's start.

The number of rows N is traced, while the buffer's capacity is static: a fit costs what its rows cost, not what the
buffer could hold. Random orders are therefore computed entry by entry (`shuffled`) instead of by sorting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import over_data
from mbrl_jax.core.types import Array, Key, Metrics, Params, Replay, Transition, Tree, WorldModel
from mbrl_jax.models.dynamics.ensemble import ensemble
from mbrl_jax.ops.optim import descend

WORST = 1e10  # the hold-out error of a member whose own is not a number
SPOILED = 2.0  # factor of the hold-out error beyond which what a fit gives is worse than what was there


@config
class FitConfig:
    """Settings of an ensemble's fit."""

    members: int = setting(default=7, low=1, help="models in the ensemble")
    elites: int = setting(
        default=5, low=1, help="members of lowest hold-out error, used for imagined rollouts; at most fit.members"
    )
    lr: float = setting(default=1e-3, low=0.0, help="Adam's learning rate")
    batch: int = setting(default=256, low=1, help="rows per gradient step and member")
    holdout: float = setting(default=0.2, low=0.0, below=1.0, help="share of the rows held out for early stopping")
    max_holdout: int = setting(default=5000, low=1, help="largest number of rows held out")
    patience: int = setting(
        default=5, low=0, help="largest number of epochs in a row without improvement; one more ends the fit"
    )
    improvement: float = setting(
        default=0.01, low=0.0, help="relative fall of the hold-out error that counts as an improvement"
    )
    max_epochs: int = setting(default=100, low=1, help="largest number of epochs of a fit")


class FitState(NamedTuple):
    """An ensemble in training."""

    params: Params  # [E, ...]
    opt: Tree  # Adam's state
    elites: Array  # [K] int32, best first
    scores: Array  # [E] hold-out error of `params` at the last fit
    unit: Tree = ()  # [D] of `disagreement.variance`, where an agent plans with it


class Trainer(NamedTuple):
    """Fitting as two functions."""

    init: Callable[[Key], FitState]
    fit: Callable[[Key, FitState, Replay], tuple[FitState, Metrics]]


class Split(NamedTuple):
    """A random order of a buffer's rows: the first `held_out` places are held out, the others are trained on."""

    order: Array  # [4, 2] uint32, from `random_order`
    rows: Array  # [] int32, at least 1
    held_out: Array  # [] int32, at least 1
    trained: Array  # [] int32, at least 1: a lone row serves for both


class Progress(NamedTuple):
    """What an epoch hands to the next."""

    params: Params  # [E, ...]
    opt: Tree
    kept: Params  # [E, ...] parameters at each member's lowest hold-out error
    best: Array  # [E] hold-out error of `kept`
    flat: Array  # [] int32 epochs in a row in which no member improved
    epochs: Array  # [] int32 so far
    loss: Array  # [] mean training loss of a member in the last epoch


# Random orders of a traced length -----------------------------------------------------------------------------------


def random_order(key: Key) -> Array:
    """A random order for `shuffled`: the constants of its four rounds, [4, 2] uint32."""
    return jax.random.bits(key, (4, 2), jnp.uint32)


def shuffled(order: Array, index: Array, n: Array | int) -> Array:
    """The entries at `index` of a random order of 0..n-1, without computing the rest of the order.

    A bijection of 0..2^k - 1 (rounds of an odd multiplication, an addition and a shifted exclusive or), applied again
    to whatever lies outside 0..n-1, where 2^k is the smallest power of two that is at least n.

    Args:
      order: [4, 2] from `random_order`.
      index: [...] int32 in 0..n-1.
      n: [] at least 1; may be traced.
    Returns:
      [...] int32 in 0..n-1; distinct for distinct indices.
    """
    n = jnp.asarray(n, jnp.uint32)
    bits = jnp.uint32(32) - jax.lax.clz(n - 1)
    mask, half = (jnp.uint32(1) << bits) - 1, (bits + 1) // 2

    def mix(x: Array) -> Array:
        for i in range(4):
            x = (x * (order[i, 0] | 1) + order[i, 1]) & mask
            x = x ^ (x >> half)
        return x

    def again(x: Array) -> Array:
        return jnp.where(x >= n, mix(x), x)

    start = mix(index.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(x >= n), again, start).astype(jnp.int32)


# The pieces of a fit ------------------------------------------------------------------------------------------------


def holdout_split(key: Key, replay: Replay, *, holdout: Array | float, max_holdout: int) -> Split:
    """Which rows of a buffer are held out: h = min(⌊holdout N⌋, max_holdout) of N at random, at least one.

    Args:
      key: used once.
      replay: the buffer; an empty one counts as one row.
      holdout: share of the rows, in [0, 1).
      max_holdout: largest number of rows held out.
    Returns:
      the split; how many rows are held out is traced.
    """
    order = random_order(key)
    rows = jnp.maximum(replay.size, 1)
    held_out = jnp.floor(holdout * rows).astype(jnp.int32).clip(1, min(max_holdout, replay.capacity))
    return Split(order, rows, held_out, jnp.maximum(rows - held_out, 1))


def row_at(split: Split, place: Array) -> Array:
    """Indices of the buffer's rows at places of the split's order, [...] int32; places count modulo the rows."""
    return shuffled(split.order, place % split.rows, split.rows)


def bootstrap(key: Key, split: Split, *, members: int, capacity: int) -> Array:
    """Each member's bootstrap of the training rows, drawn with replacement.

    Args:
      key: used once.
      split: the rows held out and trained on.
      members: E.
      capacity: C, the buffer's.
    Returns:
      [E, C] int32 in 0..trained-1, places after the held-out ones; the first `trained` of each member count.
    """
    return jax.random.randint(key, (members, capacity), 0, split.trained)


def calibrate(model: WorldModel, params: Params, replay: Replay, split: Split, *, max_holdout: int) -> Params:
    """Parameters with their scales set from the training rows; unchanged for a model without `calibrate`.

    Args:
      model: the whole ensemble.
      params: [E, ...].
      replay: the buffer.
      split: its rows held out and trained on.
      max_holdout: at least `split.held_out`.
    Returns:
      [E, ...].
    """
    if model.calibrate is None:
        return params
    place = jnp.arange(min(max_holdout, replay.capacity))
    held_out = jnp.where(place < split.held_out, row_at(split, place), replay.capacity)
    index = jnp.arange(replay.capacity)
    mask = (index < split.rows).at[held_out].set(False, mode="drop")
    return model.calibrate(params, replay.take(jnp.minimum(index, split.rows - 1)), mask)


def holdout_errors(params: Params, replay: Replay, split: Split, *, model: WorldModel, batch: int) -> Array:
    """Mean error of every member over the held-out rows, [E], computed batch by batch.

    Args:
      params: [E, ...].
      replay: the buffer.
      split: its rows held out and trained on.
      model: the member, with `errors`.
      batch: rows per call of `errors`.
    """
    assert model.errors is not None
    errors = model.errors
    members = jax.tree.leaves(params)[0].shape[0]

    def add(i: Array, total: Array) -> Array:
        place = i * batch + jnp.arange(batch)
        error = jax.vmap(errors, (0, None))(params, replay.take(row_at(split, place)))
        return total + jnp.sum(jnp.where(place < split.held_out, error, 0.0), axis=1)

    return jax.lax.fori_loop(0, -(-split.held_out // batch), add, jnp.zeros(members, jnp.float32)) / split.held_out


def member_batches(replay: Replay, split: Split, drawn: Array, orders: Array, i: Array, *, batch: int) -> Transition:
    """The i-th batch of each member in an epoch, [E, B, ...]; past the bootstrap's end it starts over.

    Args:
      replay: the buffer.
      split: its rows held out and trained on.
      drawn: [E, C] from `bootstrap`.
      orders: [E, 4, 2] each member's order of its bootstrap in this epoch, from `random_order`.
      i: [] int32.
      batch: B.
    """
    place = (i * batch + jnp.arange(batch)) % split.trained
    places = jax.vmap(lambda order, own: own[shuffled(order, place, split.trained)])(orders, drawn)
    taken = replay.take(row_at(split, split.held_out + places.reshape(-1)))
    return over_data(jax.tree.map(lambda leaf: leaf.reshape(*places.shape, *leaf.shape[1:]), taken), 1)


def epoch(
    key: Key,
    params: Params,
    opt: Tree,
    replay: Replay,
    split: Split,
    drawn: Array,
    *,
    model: WorldModel,
    optimizer: optax.GradientTransformation,
    batch: int,
) -> tuple[Params, Tree, Array]:
    """One pass of every member through its bootstrap, in a new order.

    Args:
      key: used once.
      params: [E, ...].
      opt: the optimiser's state for them.
      replay: the buffer.
      split: its rows held out and trained on.
      drawn: [E, C] from `bootstrap`.
      model: the whole ensemble; its `loss` is the sum over members.
      optimizer: any optax optimiser.
      batch: rows per gradient step and member.
    Returns:
      the new parameters, the optimiser's new state, and the mean loss [] of a member and batch.
    """
    key_order, key_loss = jax.random.split(key)
    members = drawn.shape[0]
    orders = jax.vmap(random_order)(jax.random.split(key_order, members))
    batches = -(-split.trained // batch)

    def step(i: Array, carry: tuple[Params, Tree, Array]) -> tuple[Params, Tree, Array]:
        params, opt, total = carry
        data = member_batches(replay, split, drawn, orders, i, batch=batch)
        value_and_grad = jax.value_and_grad(model.loss, has_aux=True)
        (loss, _), grads = value_and_grad(params, jax.random.fold_in(key_loss, i), data)
        return *descend(optimizer, grads, opt, params), total + loss

    params, opt, total = jax.lax.fori_loop(0, batches, step, (params, opt, jnp.zeros((), jnp.float32)))
    return params, opt, total / (batches * members)


def keep_best(progress: Progress, params: Params, error: Array, *, improvement: Array | float) -> Progress:
    """Keeps the parameters of the members that improved: (best_i - error_i) / best_i > improvement.

    Args:
      progress: before the epoch.
      params: [E, ...] after it.
      error: [E] their hold-out errors; NaN never improves.
      improvement: relative fall of the error that counts, at least 0.
    Returns:
      progress with `kept`, `best` and `flat` brought up to date; its `params`, `opt`, `epochs` and `loss` unchanged.
    """
    improved = (progress.best - error) / progress.best > improvement
    return progress._replace(
        kept=tree.where(improved, params, progress.kept),
        best=jnp.where(improved, error, progress.best),
        flat=jnp.where(jnp.any(improved), 0, progress.flat + 1),
    )


def unspoiled(start: Progress, end: Progress, before: Array) -> Progress:
    """The end of a fit in which members that it has spoiled have what they had before: parameters, error and moments.

    Args:
      start: whose `best` is what an epoch had to beat.
      end: after the last epoch.
      before: [E] hold-out errors of the parameters before the fit.
    Returns:
      `end`; of members that never improved `best` is `before`, `kept` is already theirs, and the optimiser's arrays of
      members [E, ...] are those of `start`.
    """
    improved = end.best < start.best

    def own(new: Array, old: Array) -> Array:
        return tree.where(improved, new, old) if jnp.ndim(new) else new

    return end._replace(best=jnp.where(improved, end.best, before), opt=jax.tree.map(own, end.opt, start.opt))


def fit_ensemble(
    key: Key, state: FitState, replay: Replay, *, model: WorldModel, cfg: FitConfig
) -> tuple[FitState, Metrics]:
    """One fit of an ensemble to a buffer's rows, from the parameters and the optimiser's state of the fit before.

    Args:
      key: used once.
      state: from `init_ensemble`, or the fit before.
      replay: the buffer.
      model: the member; it must have `errors`.
      cfg: all settings of the fit; floats may be traced.
    Returns:
      the state, and the metrics `epochs`; `train_loss`, a member's mean over the last epoch; `holdout_error` and
      `elite_error`, the mean hold-out errors of all members and of the elites.
    """
    key_split, key_bootstrap, key_train = jax.random.split(key, 3)
    members, optimizer = ensemble(model, cfg.members), optax.adam(cfg.lr)
    split = holdout_split(key_split, replay, holdout=cfg.holdout, max_holdout=cfg.max_holdout)
    drawn = bootstrap(key_bootstrap, split, members=cfg.members, capacity=replay.capacity)
    params = calibrate(members, state.params, replay, split, max_holdout=cfg.max_holdout)

    def unfinished(at: Progress) -> Array:
        return (at.flat <= cfg.patience) & (at.epochs < cfg.max_epochs)

    def one_epoch(at: Progress) -> Progress:
        key_epoch = jax.random.fold_in(key_train, at.epochs)
        params, opt, loss = epoch(
            key_epoch, at.params, at.opt, replay, split, drawn, model=members, optimizer=optimizer, batch=cfg.batch
        )
        error = holdout_errors(params, replay, split, model=model, batch=cfg.batch)
        after = keep_best(at, params, error, improvement=cfg.improvement)
        return after._replace(params=params, opt=opt, epochs=at.epochs + 1, loss=loss)

    zero = jnp.zeros((), jnp.int32)
    before = jnp.nan_to_num(holdout_errors(params, replay, split, model=model, batch=cfg.batch), nan=WORST)
    before = jnp.minimum(before, WORST)
    start = Progress(params, state.opt, params, SPOILED * before, zero, zero, jnp.zeros((), jnp.float32))
    end = unspoiled(start, jax.lax.while_loop(unfinished, one_epoch, start), before)
    elites = jnp.argsort(end.best)[: cfg.elites].astype(jnp.int32)
    metrics = {
        "epochs": end.epochs,
        "train_loss": end.loss,
        "holdout_error": jnp.mean(end.best),
        "elite_error": jnp.mean(end.best[elites]),
    }
    return FitState(end.kept, end.opt, elites, end.best), metrics


def init_ensemble(key: Key, *, model: WorldModel, cfg: FitConfig) -> FitState:
    """An ensemble before its first fit; its elites are the first `cfg.elites` members.

    Args:
      key: used once.
      model: the member.
      cfg: settings of the fit.
    """
    params = ensemble(model, cfg.members).init(key)
    elites = jnp.arange(cfg.elites, dtype=jnp.int32)
    return FitState(params, optax.adam(cfg.lr).init(params), elites, jnp.full(cfg.members, WORST, jnp.float32))


def trainer(model: WorldModel, cfg: FitConfig) -> Trainer:
    """`init_ensemble` and `fit_ensemble` of one model and settings.

    Args:
      model: the member; it must have `errors`.
      cfg: settings of the fit; floats may be traced.
    Returns:
      `init(key) -> FitState` and `fit(key, state, replay) -> (FitState, metrics)`. Both are pure and can be vmapped
      over seeds; a fit then takes as many epochs as its slowest seed.
    Raises:
      ValueError: a setting out of its range, more elites than members, or a model without `errors`.
    """
    check(cfg)
    if cfg.elites > cfg.members:
        raise ValueError(f"elites must be at most members, {cfg.members}, got {cfg.elites}")
    if model.errors is None:
        raise ValueError("the model must have `errors` to be scored on held-out rows")

    def init(key: Key) -> FitState:
        return init_ensemble(key, model=model, cfg=cfg)

    def fit(key: Key, state: FitState, replay: Replay) -> tuple[FitState, Metrics]:
        return fit_ensemble(key, state, replay, model=model, cfg=cfg)

    return Trainer(init, fit)
