"""Model-based policy optimisation: SAC given another `sample`.

Janner et al. 2019, "When to Trust Your Model" (arXiv 1906.08253). The slow clock fits an ensemble of probabilistic
models to all real transitions and branches short rollouts of the current policy from replayed states, each step of
each rollout in a uniformly drawn elite (`refresh`). The fast clock is SAC's update on batches of mostly imagined rows
(`imagined_replay.mixed_batch`):

    k(i) = clip( k0 + (i - i0) / (i1 - i0) (k1 - k0), k0, k1 )     rollout length at refresh i, rounded down
    batch = floor(real_ratio · B) real rows and B - floor(real_ratio · B) imagined ones
    capacity of the imagined rows = retain · k(i) · rollouts

With `cut` a rollout ends before the first step, but for its first, that is not to be trusted: by `cut_by`, the elites
disagree about it more than they do on all but a few real rows (`imagined_replay.disagreement_cut`), or too much of what
would have happened is lost in it or up to it (`imagined_replay.information_cut`, Frauenknecht et al. 2025, arXiv
2501.16918). The value of the last state that it keeps is bootstrapped as ever. Rows are then as many as the rollouts
give, and those of the latest `retain` refreshes are kept.

With the explorer "disagreement" the rewards of imagined rows have a bonus (Pathak et al. 2019, arXiv 1906.04161),

    r + w u(s, a),   u = 1/D Σ_d Var_i[ m_i,d(s, a) ] / s_d²

where the means m_i of the elites differ, in spreads s of the real rows' changes and rewards; real rows have none. The
policy that is evaluated has learned with it.

Differs from the paper in: terminations are predicted by a learned classifier unless their function is given, and the
probability of going on is the imagined discount; targets of the model are normalised; each member owns its
log-variance bounds; elites are drawn by shuffling the rollouts and splitting them evenly, so that every elite carries
the same number of them; the schedule counts refreshes instead of epochs; the number of epochs of a fit has a cap.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents import imagined_replay, sac
from mbrl_jax.agents.learned_model import LearnedModel, ensemble_model, gaussian_member
from mbrl_jax.buffers.uniform import Ring
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Tree, WorldModel
from mbrl_jax.models.dynamics.disagreement import need_moments
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn


@config
class MBPOConfig:
    """Settings of MBPO."""

    policy: sac.SACConfig = sac.SACConfig()
    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig()
    real_ratio: float = setting(default=0.05, low=0, high=1, help="share of real transitions in each batch")
    rollouts: int = setting(default=10_000, low=1, help="branched rollouts per refresh; a multiple of fit.elites")
    first_horizon: int = setting(default=1, low=1, help="rollout length in steps before it starts to grow")
    last_horizon: int = setting(
        default=1, low=1, help="rollout length in steps at the end of its growth; at least first_horizon"
    )
    grow_from: int = setting(default=0, low=0, help="number of the refresh at which the rollout length starts to grow")
    grow_until: int = setting(
        default=1, low=1, help="number of the refresh from which the rollout length is last_horizon; above grow_from"
    )
    cut: bool = setting(default=False, help="whether rollouts end where the elites disagree")
    cut_by: str = setting(
        default="disagreement", choices=("disagreement", "information"),
        help="what ends rollouts with cut: the elites' disagreement about a step, or the bits that are lost in it",
    )  # fmt: skip
    cut_quantile: float = setting(
        default=0.9, low=0, high=1,
        help="quantile on real rows of the disagreement, or of the bits of a step, above which rollouts end",
    )  # fmt: skip
    cut_budget: float = setting(
        default=100.0, above=0,
        help="information: bits of each entry that all steps of a rollout may lose; a well-known step loses one",
    )  # fmt: skip
    retain: int = setting(default=1, low=1, help="number of latest refreshes whose imagined transitions are kept")
    explorer: str = setting(
        default="none", choices=("none", "disagreement"), help="what imagined rewards have a bonus for"
    )
    bonus: float = setting(
        default=1.0, low=0, help="weight of the elites' disagreement in imagined rewards, in units of reward"
    )
    known: KnownConfig = KnownConfig()


class Learner(NamedTuple):
    """What MBPO has learned so far."""

    policy: sac.Learner
    model: FitState
    imagined: Ring
    refreshes: Array  # [] int32, so far
    written: Tree = ()  # with `cut`: [retain - 1] int32 imagined rows of the latest refreshes, the newest last


def rollout_length(
    refreshes: Array, *, first_horizon: int, last_horizon: int, grow_from: int, grow_until: int
) -> Array:
    """Rollout length at a refresh, k(i) = clip( k0 + (i - i0) / (i1 - i0) (k1 - k0), k0, k1 ), rounded down.

    Args:
      refreshes: [] int32 i, refreshes made before this one.
      first_horizon: k0, at least 1.
      last_horizon: k1, at least k0.
      grow_from: i0, at least 0.
      grow_until: i1, above i0.
    Returns:
      [] int32 k(i), steps.
    """
    span = grow_until - grow_from
    growth = (jnp.maximum(refreshes - grow_from, 0) * (last_horizon - first_horizon)) // span
    return jnp.clip(first_horizon + growth, first_horizon, last_horizon).astype(jnp.int32)


def rollout_cut(cfg: MBPOConfig) -> imagined_replay.MakeCut:
    """What ends rollouts early, by the settings.

    Args:
      cfg: with `cut`.
    """
    if cfg.cut_by == "information":
        return partial(imagined_replay.information_cut, quantile=cfg.cut_quantile, budget=cfg.cut_budget)
    return partial(imagined_replay.disagreement_cut, quantile=cfg.cut_quantile)


def refresh(
    key: Key, learner: Learner, replay: Replay, *, cfg: MBPOConfig, policy: Agent, member: WorldModel
) -> tuple[Learner, Metrics]:
    """Fits the ensemble and adds rollouts of the policy to the imagined rows (Janner et al. 2019, algorithm 2).

    Args:
      key: used once.
      learner: what has been learned so far.
      replay: the real rows, at least one.
      cfg: settings of fit, rollouts and their schedule.
      policy: SAC, from `sac.make(cfg.policy, spec)`.
      member: the ensemble's member, over observations, with `errors`.
    Returns:
      the learner, and the fit's metrics with `horizon`, this refresh's rollout length, and `rows`, the imagined rows
      now kept, all under `model/`; with `cut`, `steps` too, the rows of a new rollout.
    """
    length = rollout_length(
        learner.refreshes,
        first_horizon=cfg.first_horizon,
        last_horizon=cfg.last_horizon,
        grow_from=cfg.grow_from,
        grow_until=cfg.grow_until,
    )

    def explore(key: Key, obs: Obs) -> Array:
        return policy.act(key, learner.policy, policy.carry(), obs, True)[0]

    kept = jnp.sum(learner.written, dtype=jnp.int32) if cfg.cut else jnp.int32(0)
    fitted, imagined, metrics = imagined_replay.refresh(
        key,
        learner.model,
        imagined_replay.newest(learner.imagined, kept) if cfg.cut else learner.imagined,
        replay,
        model=trainer(member, cfg.fit),
        member=member,
        policy=explore,
        rollouts=cfg.rollouts,
        horizon=length,
        capacity=None if cfg.cut else cfg.retain * length * cfg.rollouts,
        cut=rollout_cut(cfg) if cfg.cut else None,
        bonus=cfg.bonus if cfg.explorer == "disagreement" else None,
    )
    metrics |= {"horizon": length.astype(jnp.float32), "rows": imagined.size.astype(jnp.float32)}
    learner = learner._replace(model=fitted, imagined=imagined, refreshes=learner.refreshes + 1)
    if cfg.cut:
        new = imagined.size - kept
        metrics["steps"] = new / cfg.rollouts
        learner = learner._replace(written=jnp.append(learner.written, new)[1:])
    return learner, {f"model/{name}": value for name, value in metrics.items()}


def make(
    cfg: MBPOConfig,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """MBPO for one environment, with continuous or discrete actions as its SAC.

    Args:
      cfg: settings; floats may be traced.
      spec: as for `sac.make`.
      member: a model of your own to make the ensemble of, over observations, with `errors`; `cfg.model` then has no
        effect. None for `gaussian(cfg.model, spec)`.
      reward: (next observation, action) -> [], the known reward of a step, used instead of the learned one; None to
        learn it.
      termination: (next observation, action) -> [] bool, whether a step ends the episode, likewise. What is not given
        here may be named in `cfg.known`.
    Returns:
      the agent; its `refresh` must be called before its first `update`.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    _check_together(cfg)
    policy = sac.make(cfg.policy, spec)
    member = gaussian_member(cfg, spec, member, reward, termination)
    if cfg.cut and member.moments is None:
        raise ValueError("cut must be False for a member without moments, mean and deviation of a step, got True")
    if cfg.explorer == "disagreement":
        need_moments(member, cfg.fit.elites, "fit.elites")
    model = trainer(member, cfg.fit)

    def init(key: Key) -> Learner:
        key_policy, key_model = jax.random.split(key)
        imagined = imagined_replay.empty_ring(spec, cfg.retain * cfg.last_horizon * cfg.rollouts)
        written = jnp.zeros(cfg.retain - 1, jnp.int32) if cfg.cut else ()
        return Learner(policy.init(key_policy), model.init(key_model), imagined, jnp.int32(0), written)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return policy.act(key, learner.policy, carry, obs, explore)

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        mixed = imagined_replay.mixed_batches(replay, learner.imagined, real_ratio=cfg.real_ratio)
        new, metrics, feedback = policy.update(key, learner.policy, mixed)
        return learner._replace(policy=new), metrics, feedback

    def refreshed(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        return refresh(key, learner, replay, cfg=cfg, policy=policy, member=member)

    return Agent(init, policy.carry, act, update, refreshed, policy.follow)


def _check_together(cfg: MBPOConfig) -> None:
    imagined_replay.check_rollouts(cfg.rollouts, cfg.fit.elites)
    if cfg.last_horizon < cfg.first_horizon:
        raise ValueError(f"last_horizon must be at least first_horizon ({cfg.first_horizon}), got {cfg.last_horizon}")
    if cfg.grow_until <= cfg.grow_from:
        raise ValueError(f"grow_until must be above grow_from ({cfg.grow_from}), got {cfg.grow_until}")


def learned_model(cfg: MBPOConfig, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over observations.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    return ensemble_model(gaussian_member(cfg, spec), learner.model, cfg.fit.members)
