"""Imagined replay: branched rollouts of a learned model, kept in a ring, and batches that hold some of them.

Janner et al. 2019, "When to Trust Your Model" (arXiv 1906.08253), algorithm 2. MBPO and deep Dyna share it:

    refresh:  fit the ensemble to all real rows;  roll the policy out from replayed states, k steps in its elites
    sample:   rows of the ring, alone or mixed with real ones

Rollouts may be cut where the elites disagree (`disagreement_cut`), in the spirit of Pan et al. 2020 (arXiv
2010.04893), or when too much of what would have happened is lost (`information_cut`), by Frauenknecht et al. 2025
(arXiv 2501.16918).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from mbrl_jax.buffers.uniform import Ring, append, empty
from mbrl_jax.buffers.uniform import sample as sample_ring
from mbrl_jax.core import tree
from mbrl_jax.core.rollout import Cut, branch
from mbrl_jax.core.types import (
    Action,
    Array,
    Key,
    Metrics,
    Model,
    Obs,
    PolicyFn,
    Replay,
    Spec,
    Transition,
    WorldModel,
)
from mbrl_jax.models.dynamics import information
from mbrl_jax.models.dynamics.disagreement import disagreement, member_means, uncertainty, usual, variance, with_bonus
from mbrl_jax.models.dynamics.ensemble import bind
from mbrl_jax.models.dynamics.fit import FitState, Trainer

MakeCut: TypeAlias = Callable[[WorldModel, FitState, Transition], Cut]
"""(the ensemble's member, the ensemble, real rows [N, ...]) -> what ends rollouts early."""


def empty_ring(spec: Spec, capacity: int) -> Ring:
    """A ring without rows, with room for `capacity` imagined transitions."""
    scalar = jnp.zeros((), jnp.float32)
    obs = jnp.zeros(spec.obs.shape, jnp.float32)
    action = jnp.zeros(spec.action.shape, spec.action.dtype)
    return empty(Transition(obs, action, scalar, scalar, obs, jnp.zeros((), bool)), capacity)


def imagined_batches(replay: Replay, imagined: Ring) -> Replay:
    """A replay whose `sample` draws from the imagined rows alone."""
    return replay._replace(sample=lambda key, n: sample_ring(key, imagined, n))


def mixed_batches(replay: Replay, imagined: Ring, *, real_ratio: Array | float) -> Replay:
    """A replay whose `sample` mixes real and imagined rows, by `mixed_batch`.

    Args:
      replay: the real rows.
      imagined: the imagined rows.
      real_ratio: share of real rows in each batch, in [0, 1]; may be traced.
    """
    return replay._replace(sample=lambda key, n: mixed_batch(key, replay, imagined, n, real_ratio=real_ratio))


def mixed_batch(key: Key, replay: Replay, imagined: Ring, n: int, *, real_ratio: Array | float) -> Transition:
    """A batch of floor(real_ratio · n) real rows, then imagined ones.

    Args:
      key: used once.
      replay: the real rows, at least one; their `extras` are dropped.
      imagined: the imagined rows, at least one.
      n: rows of the batch.
      real_ratio: share of real rows, in [0, 1]; may be traced.
    Returns:
      [n, ...] transitions.
    """
    key_real, key_imagined = jax.random.split(key)
    rows = replay.sample(key_real, n)._replace(extras=()), sample_ring(key_imagined, imagined, n)
    return tree.where(is_real(n, real_ratio), *rows)


def is_real(n: int, real_ratio: Array | float) -> Array:
    """Which rows of a `mixed_batch` are real ones, the first floor(real_ratio · n), [n] bool.

    Args:
      n: rows of the batch.
      real_ratio: share of real rows, in [0, 1]; may be traced.
    """
    # The small addend keeps a ratio such as 0.29 · 100, just below 29 in binary, from losing a row.
    return jnp.arange(n) < jnp.floor(real_ratio * n + 1e-4)


def refresh(
    key: Key,
    fitted: FitState,
    imagined: Ring,
    replay: Replay,
    *,
    model: Trainer,
    member: WorldModel,
    policy: PolicyFn,
    rollouts: int,
    horizon: Array | int,
    capacity: Array | int | None = None,
    cut: MakeCut | None = None,
    bonus: Array | float | None = None,
) -> tuple[FitState, Ring, Metrics]:
    """Fits the ensemble to the real rows, then adds rollouts of the policy in its elites to the ring.

    Rollouts start from replayed states in which an action was taken, so never from a terminal one, and each ends where
    the model predicts termination with probability above one half. Each step draws anew which elite carries it.

    Args:
      key: used once.
      fitted: the ensemble before.
      imagined: the ring before; its oldest rows are overwritten.
      replay: the real rows, at least one.
      model: how the ensemble is fitted, from `models.dynamics.fit.trainer`.
      member: the ensemble's member, over observations.
      policy: (key, obs) -> action, of one observation.
      rollouts: N, a multiple of the number of elites.
      horizon: k, steps of a rollout; may be traced.
      capacity: rows of the ring in use, never shrinking from call to call; may be traced. All if None.
      cut: (member, ensemble, rows that rollouts start from) -> what ends rollouts early, `disagreement_cut` for
        example. None to cut none.
      bonus: w, weight of the elites' disagreement in the imagined rewards, r + w u(s, a), with u in units of `variance`
        (`models.dynamics.disagreement`); may be traced. None for the model's rewards as they are.
    Returns:
      the ensemble, the ring, and the fit's metrics.
    """
    key_fit, key_start, key_branch = jax.random.split(key, 3)
    fitted, metrics = model.fit(key_fit, fitted, replay)
    rows = replay.sample(key_start, rollouts)
    elites = elites_of(member, fitted)
    if bonus is not None:
        unsure = uncertainty(member, tree.take(fitted.params, fitted.elites), variance(replay))
        elites = with_bonus(elites, unsure, bonus)
    ring = add_rollouts(
        key_branch, imagined, jnp.asarray(rows.obs, jnp.float32), elites=elites, policy=policy,
        horizon=horizon, capacity=capacity, cut=None if cut is None else cut(member, fitted, rows),
    )  # fmt: skip
    return fitted, ring, metrics


def elites_of(member: WorldModel, fitted: FitState) -> Model:
    """The elites of a fitted ensemble as a `Model` of as many members.

    Args:
      member: the ensemble's member.
      fitted: the ensemble.
    """
    return bind(member, tree.take(fitted.params, fitted.elites), members=fitted.elites.shape[0])


def disagreement_cut(member: WorldModel, fitted: FitState, rows: Transition, *, quantile: Array | float) -> Cut:
    """Ends rollouts where the elites disagree more than they do on real rows, but for a few of those.

        trusted(s, a) = u(s, a) <= the q-quantile of u over the rows

    Args:
      member: the ensemble's member, with `moments`.
      fitted: the ensemble.
      rows: [N, ...] real ones.
      quantile: q, in [0, 1]; may be traced.
    Returns:
      the cut, over observations, with u from `models.dynamics.disagreement`; it spends nothing.
    Raises:
      ValueError: the member has no `moments`.
    """
    _need_moments(member)
    means = member_means(member, tree.take(fitted.params, fitted.elites))
    on_rows = jax.vmap(means)(jnp.asarray(rows.obs, jnp.float32), rows.action)
    scale = usual(on_rows)
    most = jnp.quantile(jax.vmap(disagreement, (0, None))(on_rows, scale), quantile)
    return Cut((), lambda spent, obs, action: (spent, disagreement(means(obs, action), scale) <= most))


def information_cut(
    member: WorldModel, fitted: FitState, rows: Transition, *, quantile: Array | float, budget: Array | float
) -> Cut:
    """Ends rollouts when a step, or all steps together, lose too many bits of what would have happened.

    Args:
      member: the ensemble's member, with `moments`.
      fitted: the ensemble.
      rows: [N, ...] real ones.
      quantile: q, in [0, 1]; may be traced.
      budget: bits that a rollout may lose of each entry, of which a step at the lower quantile of the rows loses one;
        may be traced.
    Returns:
      the cut, over observations, with losses and limits from `models.dynamics.information`; a rollout spends bits.
    Raises:
      ValueError: the member has no `moments`.
    """
    _need_moments(member)
    moments, elites = member.moments, tree.take(fitted.params, fitted.elites)
    assert moments is not None
    of_elites = jax.vmap(moments, (0, None, None))
    on_rows = jax.vmap(lambda obs, action: of_elites(elites, obs, action))(
        jnp.asarray(rows.obs, jnp.float32), rows.action
    )
    most = information.allowance(*on_rows, quantile=quantile, budget=budget)

    def spend(spent: Array, obs: Obs, action: Action) -> tuple[Array, Array]:
        bits = information.lost(information.fused(*of_elites(elites, obs, action)), most.width)
        return spent + bits, jnp.all((bits <= most.step) & (spent + bits <= most.total))

    return Cut(jnp.zeros_like(most.total), spend)


def _need_moments(member: WorldModel) -> None:
    if member.moments is None:
        raise ValueError("cut needs a member with moments, mean and deviation of a step, got one without")


def add_rollouts(
    key: Key,
    imagined: Ring,
    starts: Array,
    *,
    elites: Model,
    policy: PolicyFn,
    horizon: Array | int,
    capacity: Array | int | None = None,
    cut: Cut | None = None,
) -> Ring:
    """Adds rollouts of a policy from given observations to the ring, a row for each step until the rollout ends.

    Args:
      key: used once.
      imagined: the ring before; its oldest rows are overwritten.
      starts: [N, D] observations, N a multiple of the number of elites.
      elites: from `elites_of`, or another model of several members over observations.
      policy, horizon, capacity: as in `refresh`.
      cut: ends rollouts before steps that are not to be trusted, but for their first. None to trust all.
    Returns:
      the ring.
    """

    def store(ring: Ring, rows: Transition, alive: Array) -> Ring:
        return append(ring, rows, alive, capacity)

    return branch(elites, policy, key, starts, horizon, store, imagined, cut)


def newest(ring: Ring, count: Array) -> Ring:
    """The ring with its newest rows alone.

    Args:
      ring: capacity C, written to with all of it in use.
      count: [] int32 rows to keep, at most those stored.
    """
    capacity = jax.tree.leaves(ring.rows)[0].shape[0]
    index = (ring.head - count + jnp.arange(capacity)) % capacity
    return Ring(tree.take(ring.rows, index), (count % capacity).astype(jnp.int32), count.astype(jnp.int32))


def check_rollouts(rollouts: int, elites: int) -> None:
    """Refuses rollouts that cannot be split evenly among the elites.

    Raises:
      ValueError: rollouts are not a multiple of the elites.
    """
    if rollouts % elites:
        raise ValueError(f"rollouts must be a multiple of fit.elites ({elites}), got {rollouts}")
