"""Fitting an ensemble to a buffer inside one compiled program (Janner et al. 2019, and its reference code).

Each fit:
  * holds out h = min(⌊holdout N⌋, max_holdout) rows at random (at least one), the same for every member, and sets the
    models' scales from the other rows;
  * draws for each member as many of the training rows as there are, with replacement: its bootstrap;
  * an epoch takes each member once through its bootstrap in a new order;
  * after an epoch, member i improved if (best_i - error_i) / best_i > improvement on the hold-out; then error_i is its
    best and its parameters are kept. best_i starts at 1e10;
  * stops after the first epoch that makes more than `patience` in a row in which no member improved;
  * gives every member its kept parameters; the elites are the lowest by the error of just those.
Weights and the optimiser's state go on from fit to fit.

Differs from the paper in: the number of epochs has a cap; what is kept of a member includes its log-variance bounds;
the last batch of an epoch is filled up with rows from the epoch's start.

How many rows there are is traced and how many fit is static: a fit costs what its rows cost, not what the buffer could
hold. Orders are therefore computed place by place (`shuffled`) rather than by sorting all places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Array, Key, Metrics, Params, Replay, Transition, Tree, WorldModel
from mbrl_jax.models.dynamics.ensemble import ensemble
from mbrl_jax.ops.optim import descend

WORST = 1e10  # the score of a member that never improved


@config
class FitConfig:
    """Settings of an ensemble's fit."""

    members: int = setting(default=7, low=1, help="models in the ensemble")
    elites: int = setting(
        default=5, low=1, help="members with the lowest hold-out error that imagine; at most `members`"
    )
    lr: float = setting(default=1e-3, low=0.0, help="Adam's rate")
    batch: int = setting(default=256, low=1, help="rows of each member in a gradient step")
    holdout: float = setting(default=0.2, low=0.0, below=1.0, help="share of the rows held out")
    max_holdout: int = setting(default=5000, low=1, help="most rows held out")
    patience: int = setting(default=5, low=0, help="epochs without improvement that are borne")
    improvement: float = setting(default=0.01, low=0.0, help="relative fall of the hold-out error that counts")
    max_epochs: int = setting(default=100, low=1, help="most epochs of a fit")


class FitState(NamedTuple):
    """An ensemble in training."""

    params: Params  # [E, ...]
    opt: Tree
    elites: Array  # [K] int32, best first
    scores: Array  # [E] hold-out error of `params` at the last fit


class Trainer(NamedTuple):
    """Fitting as two functions."""

    init: Callable[[Key], FitState]
    fit: Callable[[Key, FitState, Replay], tuple[FitState, Metrics]]


class Progress(NamedTuple):
    """What an epoch hands to the next."""

    params: Params  # [E, ...]
    opt: Tree
    kept: Params  # [E, ...] parameters at each member's best
    best: Array  # [E] hold-out error of `kept`
    flat: Array  # [] epochs in a row in which no member improved
    epochs: Array  # []
    loss: Array  # [] mean training loss of a member in the last epoch


def random_order(key: Key) -> Array:
    """A random order for `shuffled`: the constants of its four rounds, [4, 2] uint32."""
    return jax.random.bits(key, (4, 2), jnp.uint32)


def shuffled(order: Array, index: Array, n: Array | int) -> Array:
    """Places `index` of a random order of 0..n-1, without making the rest of the order.

    A bijection of 0..2^k - 1 (rounds of an odd multiplication, an addition and a shifted exclusive or), applied again
    to whatever leaves 0..n-1, where 2^k is the smallest power of two that is at least n.

    Args:
      order: [4, 2] from `random_order`.
      index: [...] int32 in 0..n-1.
      n: [] at least 1; may be traced.
    Returns:
      [...] int32 in 0..n-1; distinct for distinct places.
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


def trainer(model: WorldModel, cfg: FitConfig) -> Trainer:
    """An ensemble of a model, fitted to a buffer's rows.

    Args:
      model: the member; it must have `errors`.
      cfg: the settings.
    Returns:
      `init(key) -> FitState` and `fit(key, state, replay) -> (FitState, metrics)`. Metrics: `epochs`; `train_loss`, a
      member's mean over the last epoch; `holdout_error` and `elite_error`, the mean score of all members and of the
      elites. Both are pure and can be vmapped over seeds; a fit then takes as many epochs as its slowest seed.
    Raises:
      ValueError: a setting out of its range, more elites than members, or a model without `errors`.
    """
    check(cfg)
    if cfg.elites > cfg.members:
        raise ValueError(f"elites must be at most members, {cfg.members}, got {cfg.elites}")
    if model.errors is None:
        raise ValueError("the model must have `errors` to be scored on held-out rows")
    members, errors = ensemble(model, cfg.members), model.errors
    optimizer = optax.adam(cfg.lr)

    def init(key: Key) -> FitState:
        params = members.init(key)
        scores = jnp.full(cfg.members, WORST)
        return FitState(params, optimizer.init(params), jnp.arange(cfg.elites, dtype=jnp.int32), scores)

    def fit(key: Key, state: FitState, replay: Replay) -> tuple[FitState, Metrics]:
        key_split, key_bootstrap, key_train = jax.random.split(key, 3)
        split = random_order(key_split)
        rows = jnp.maximum(replay.size, 1)
        held = jnp.floor(cfg.holdout * rows).astype(jnp.int32).clip(1, min(cfg.max_holdout, replay.capacity))
        trained = jnp.maximum(rows - held, 1)

        def row(place: Array) -> Array:
            """Rows in a random order: the first `held` places are held out; a lone row serves for both."""
            return shuffled(split, place % rows, rows)

        def score(params: Params) -> Array:
            """Mean hold-out error [E], batch by batch."""

            def add(i: Array, total: Array) -> Array:
                place = i * cfg.batch + jnp.arange(cfg.batch)
                error = jax.vmap(errors, (0, None))(params, replay.take(row(place)))
                return total + jnp.sum(jnp.where(place < held, error, 0.0), axis=1)

            return jax.lax.fori_loop(0, -(-held // cfg.batch), add, jnp.zeros(cfg.members)) / held

        bootstrap = jax.random.randint(key_bootstrap, (cfg.members, replay.capacity), 0, trained)

        def batch(orders: Array, i: Array) -> Transition:
            """The members' i-th batches of an epoch, [E, B, ...]."""
            place = (i * cfg.batch + jnp.arange(cfg.batch)) % trained
            drawn = jax.vmap(lambda order, own: own[shuffled(order, place, trained)])(orders, bootstrap)
            taken = replay.take(row(held + drawn.reshape(-1)))
            return jax.tree.map(lambda leaf: leaf.reshape(cfg.members, cfg.batch, *leaf.shape[1:]), taken)

        def epoch(at: Progress) -> Progress:
            key_order, key_loss = jax.random.split(jax.random.fold_in(key_train, at.epochs))
            orders = jax.vmap(random_order)(jax.random.split(key_order, cfg.members))
            batches = -(-trained // cfg.batch)

            def one_step(i: Array, at: tuple[Params, Tree, Array]) -> tuple[Params, Tree, Array]:
                params, opt, total = at
                value_and_grad = jax.value_and_grad(members.loss, has_aux=True)
                (loss, _), grads = value_and_grad(params, jax.random.fold_in(key_loss, i), batch(orders, i))
                return *descend(optimizer, grads, opt, params), total + loss

            params, opt, total = jax.lax.fori_loop(0, batches, one_step, (at.params, at.opt, jnp.zeros(())))
            error = score(params)
            improved = (at.best - error) / at.best > cfg.improvement
            return Progress(
                params,
                opt,
                kept=tree.where(improved, params, at.kept),
                best=jnp.where(improved, error, at.best),
                flat=jnp.where(jnp.any(improved), 0, at.flat + 1),
                epochs=at.epochs + 1,
                loss=total / (batches * cfg.members),
            )

        params = state.params
        if members.calibrate is not None:
            place = jnp.arange(min(cfg.max_holdout, replay.capacity))
            out = jnp.where(place < held, row(place), replay.capacity)
            index = jnp.arange(replay.capacity)
            mask = (index < rows).at[out].set(False, mode="drop")
            params = members.calibrate(params, replay.take(jnp.minimum(index, rows - 1)), mask)

        zero = jnp.zeros((), jnp.int32)
        start = Progress(params, state.opt, params, jnp.full(cfg.members, WORST), zero, zero, jnp.zeros(()))
        end = jax.lax.while_loop(lambda at: (at.flat <= cfg.patience) & (at.epochs < cfg.max_epochs), epoch, start)
        elites = jnp.argsort(end.best)[: cfg.elites].astype(jnp.int32)
        metrics = {
            "epochs": end.epochs,
            "train_loss": end.loss,
            "holdout_error": jnp.mean(end.best),
            "elite_error": jnp.mean(end.best[elites]),
        }
        return FitState(end.kept, end.opt, elites, end.best), metrics

    return Trainer(init, fit)
