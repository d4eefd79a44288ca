"""What the offline model-based agents share: one fit of an ensemble, doubted rollouts of it, SAC on both kinds of rows.

    first refresh:  fit the ensemble to the data; measure on the data what the agent needs of it (`study`)
    each refresh:   roll the policy out from the data's states, k steps in the elites, each step changed by what the
                    agent doubts of it (`revise`)
    update:         SAC on floor(real_ratio · B) rows of the data and B - floor(real_ratio · B) imagined ones

Rollouts end where the model, or the doubt, says so. The ring of imagined rows wraps around, so that after `retain`
refreshes it holds those of the latest `retain` of them and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents import imagined_replay, sac
from mbrl_jax.agents.learned_model import LearnedModel, ensemble_model, gaussian_member
from mbrl_jax.buffers.uniform import Ring
from mbrl_jax.core import tree
from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Action, Agent, Array, Key, Metrics, Obs, Replay, Spec, Tree, WorldModel
from mbrl_jax.models.dynamics.ensemble import Revise, revised
from mbrl_jax.models.dynamics.fit import FitState, Trainer, trainer

AT_ONCE = 1024  # rows of the data that a study looks at side by side


@config
class ImaginedConfig:
    """Which rows are imagined, and how many of them a batch holds."""

    real_ratio: float = setting(default=0.05, low=0, high=1, help="share of the data's transitions in each batch")
    rollouts: int = setting(default=1_000, low=1, help="rollouts per refresh; a multiple of fit.elites")
    horizon: int = setting(default=5, low=1, help="length of a rollout in steps")
    retain: int = setting(default=5, low=1, help="number of latest refreshes whose imagined transitions are kept")


class Learner(NamedTuple):
    """What has been learned so far."""

    policy: sac.Learner
    model: FitState
    own: Tree  # what the agent keeps besides: what `study` found on the data, () if nothing
    of_fit: Metrics  # of the one fit
    imagined: Ring
    refreshes: Array  # [] int32, so far


def no_fit() -> Metrics:
    """The metrics of a fit that has not been made."""
    zero = jnp.zeros((), jnp.float32)
    return {"epochs": jnp.int32(0), "train_loss": zero, "holdout_error": zero, "elite_error": zero}


def fit_once(
    key: Key, learner: Learner, replay: Replay, *, model: Trainer, study: Callable[[FitState, Replay], Tree]
) -> Learner:
    """The learner with its ensemble fitted and studied in its first refresh; unchanged, and without cost, in others.

    Args:
      key: used once.
      learner: before.
      replay: the data.
      model: how the ensemble is fitted.
      study: (ensemble, data) -> what the agent needs to know of both.
    """

    def fit(i: Array, at: tuple[FitState, Tree, Metrics]) -> tuple[FitState, Tree, Metrics]:
        fitted, metrics = model.fit(jax.random.fold_in(key, i), at[0], replay)
        return fitted, study(fitted, replay), metrics

    once = (learner.refreshes == 0).astype(jnp.int32)
    at = (learner.model, learner.own, learner.of_fit)
    fitted, own, metrics = jax.lax.fori_loop(jnp.int32(0), once, fit, at)
    return learner._replace(model=fitted, own=own, of_fit=metrics)


def moments_of(member: WorldModel) -> Callable[..., tuple[Array, Array]]:
    """A member's mean and deviation of a step.

    Args:
      member: the ensemble's member.
    Raises:
      ValueError: it has no `moments`.
    """
    if member.moments is None:
        raise ValueError(
            "known.member must be a WorldModel with moments, mean and deviation of a step, got one without"
        )
    return member.moments


def elite_moments(member: WorldModel, fitted: FitState) -> Callable[[Obs, Action], tuple[Array, Array]]:
    """(observation, action) -> mean and standard deviation of [o', r] in each elite, [K, |o| + 1] both, in their units.

    Args:
      member: with `moments`.
      fitted: the ensemble.
    Raises:
      ValueError: the member has no `moments`.
    """
    moments = moments_of(member)
    elites = tree.take(fitted.params, fitted.elites)
    return lambda obs, action: jax.vmap(moments, (0, None, None))(elites, obs, action)


def over_data(fn: Callable[[Any], Array], replay: Replay) -> Array:
    """A function of each row of the data, [C]; rows beyond those stored repeat the last one.

    Args:
      fn: (row) -> [].
      replay: the data.
    """

    def some(index: Array) -> Array:
        return fn(jax.tree.map(lambda leaf: leaf[0], replay.take(index[None])))

    index = jnp.minimum(jnp.arange(replay.capacity), replay.size - 1)
    return jax.lax.map(some, index, batch_size=min(AT_ONCE, replay.capacity))


def no_study(fitted: FitState, replay: Replay) -> Tree:
    """The study of agents that need to know nothing."""
    del fitted, replay
    return ()


def refresh(
    key: Key,
    learner: Learner,
    replay: Replay,
    *,
    cfg: ImaginedConfig,
    model: Trainer,
    member: WorldModel,
    policy: Agent,
    study: Callable[[FitState, Replay], Tree] = no_study,
    revise: Callable[[FitState, Tree], Revise] | None = None,
    after: Callable[[Key, Learner, Replay], tuple[Learner, Metrics]] | None = None,
) -> tuple[Learner, Metrics]:
    """Fits the ensemble if it has not been, and adds rollouts of the policy in its elites to the imagined rows.

    Args:
      key: used once.
      learner: what has been learned so far.
      replay: the data, at least one row.
      cfg: settings of the rollouts.
      model: how the ensemble is fitted.
      member: the ensemble's member.
      policy: SAC.
      study: as in `fit_once`.
      revise: (ensemble, what `study` found) -> what is believed of a step; None to believe it all.
      after: (key, learner, data) -> learner, metrics: what follows the rollouts; None for nothing.
    Returns:
      the learner, and the fit's metrics with `rows`, the imagined rows now kept, `imagined_reward`, the mean reward
      of those rows, and `ended`, the share of them that ends a rollout, all under `model/`.
    """
    key_fit, key_start, key_branch = jax.random.split(key, 3)
    learner = fit_once(key_fit, learner, replay, model=model, study=study)
    elites = imagined_replay.elites_of(member, learner.model)
    if revise is not None:
        elites = revised(elites, revise(learner.model, learner.own))

    def explore(key: Key, obs: Obs) -> Array:
        return policy.act(key, learner.policy, policy.carry(), obs, True)[0]

    starts = jnp.asarray(replay.sample(key_start, cfg.rollouts).obs, jnp.float32)
    imagined = imagined_replay.add_rollouts(
        key_branch, learner.imagined, starts, elites=elites, policy=explore, horizon=cfg.horizon
    )
    kept = jnp.arange(cfg.retain * cfg.horizon * cfg.rollouts) < imagined.size
    mean = lambda values: jnp.sum(jnp.where(kept, values, 0.0)) / imagined.size  # noqa: E731
    metrics = learner.of_fit | {
        "rows": imagined.size.astype(jnp.float32),
        "imagined_reward": mean(imagined.rows.reward),
        "ended": mean(imagined.rows.last.astype(jnp.float32)),
    }
    learner = learner._replace(imagined=imagined, refreshes=learner.refreshes + 1)
    if after is not None:
        learner, more = after(jax.random.fold_in(key_branch, cfg.horizon), learner, replay)
        metrics |= more
    return learner, {f"model/{name}": value for name, value in metrics.items()}


def make(
    cfg: Any,
    spec: Spec,
    *,
    policy: Agent,
    member: WorldModel,
    own: Tree = (),
    study: Callable[[FitState, Replay], Tree] = no_study,
    revise: Callable[[FitState, Tree], Revise] | None = None,
    after: Callable[[Key, Learner, Replay], tuple[Learner, Metrics]] | None = None,
) -> Agent:
    """An agent of these parts.

    Args:
      cfg: settings, checked, with the fields `policy`, `fit` and `imagined`.
      spec: of the environment.
      policy: SAC, with whatever is added to its losses.
      member: the ensemble's member.
      own: what `study` finds, as arrays of zeros; or what `after` keeps.
      study, revise, after: as in `refresh`.
    Returns:
      the agent; its `refresh` must be called before its first `update`.
    Raises:
      ValueError: rollouts that do not divide among the elites.
    """
    imagined_replay.check_rollouts(cfg.imagined.rollouts, cfg.fit.elites)
    model, size = trainer(member, cfg.fit), cfg.imagined.retain * cfg.imagined.horizon * cfg.imagined.rollouts

    def init(key: Key) -> Learner:
        key_policy, key_model = jax.random.split(key)
        ring = imagined_replay.empty_ring(spec, size)
        return Learner(policy.init(key_policy), model.init(key_model), own, no_fit(), ring, jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return policy.act(key, learner.policy, carry, obs, explore)

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        mixed = imagined_replay.mixed_batches(replay, learner.imagined, real_ratio=cfg.imagined.real_ratio)
        new, metrics, feedback = policy.update(key, learner.policy, mixed)
        return learner._replace(policy=new), metrics, feedback

    def refreshed(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        return refresh(
            key, learner, replay, cfg=cfg.imagined, model=model, member=member, policy=policy, study=study,
            revise=revise, after=after,
        )  # fmt: skip

    return Agent(init, policy.carry, act, update, refreshed, policy.follow)


def learned_model(cfg: Any, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over observations; nothing of it is doubted.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    return ensemble_model(gaussian_member(cfg, spec), learner.model, cfg.fit.members)
