"""PETS: planning with an ensemble of probabilistic models.

Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models" (arXiv
1805.12114). The slow clock fits a bootstrap ensemble to all real transitions; acting replans in every step, by default
with the cross-entropy method, over particles that the ensemble propagates under each candidate plan:

    a* = first action of the best a_{0..H-1} by  1/P Σ_p Σ_t γ^t r(s_t^p, a_t),  s_{t+1}^p ~ f_w(s_t^p, a_t), w = w(p,t)

    propagation "ts_inf": w(p, t) = w(p), every particle stays in one member;  "ts1": each step divides a candidate's
    particles anew among the members;  "mean": each step averages one sample from every member, so that one particle
    costs as much as `members` particles of the others

With the explorer "disagreement" plans in training have a bonus (Pathak et al. 2019, arXiv 1906.04161) for steps that
the members' means m_i differ about, in spreads s of the changes and rewards of real transitions; evaluation has none:

    r + w u(s, a),   u = 1/D Σ_d Var_i[ m_i,d(s, a) ] / s_d²

Differs from the paper in: rewards and terminations are learned with the dynamics unless their functions are given
(the paper takes both as known); targets are scaled; a fit stops early by its hold-out error, where the paper makes
five epochs.
"""

from __future__ import annotations

import jax.numpy as jnp

from mbrl_jax.agents.learned_model import LearnedModel, ensemble_model, gaussian_member
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import (
    Action,
    Agent,
    Key,
    Metrics,
    Model,
    Obs,
    Params,
    Replay,
    Spec,
    Tree,
    WorldModel,
    no_update,
    plan_anew,
)
from mbrl_jax.models.dynamics.common import sizes
from mbrl_jax.models.dynamics.disagreement import need_moments, uncertainty, variance, with_bonus
from mbrl_jax.models.dynamics.ensemble import bind, ensemble
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn, chosen, with_known
from mbrl_jax.planners.mpc.choice import PlannerConfig, make_planner


@config
class PETSConfig:
    """Settings of PETS."""

    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig(members=5, elites=5)
    planner: PlannerConfig = PlannerConfig()
    propagation: str = setting(
        default="ts_inf",
        choices=("ts_inf", "ts1", "mean"),
        help="propagation of particles: each by one member, by a member drawn in each step, or by the members' mean",
    )
    known_reward: bool = setting(
        default=False, help="rewards by the environment's own reward function instead of the learned one"
    )
    explorer: str = setting(
        default="none", choices=("none", "disagreement"), help="what plans in training have a bonus for"
    )
    bonus: float = setting(
        default=1.0, low=0, help="weight of the members' disagreement in planned rewards, in units of reward"
    )
    known: KnownConfig = KnownConfig()


def bind_ensemble(params: Params, *, member: WorldModel, members: int, propagation: str) -> Model:
    """The ensemble as the planner sees it, by the chosen propagation of particles (Chua et al. 2018, section 5.1).

    Args:
      params: of all members, [E, ...].
      member: one member.
      members: E.
      propagation: "ts_inf", "ts1" or "mean", as in the module's docstring.
    """
    if propagation == "mean":
        return bind(ensemble(member, members, "mean"), params)
    return bind(member, params, members=members, resample_member=propagation == "ts1")


def make(
    cfg: PETSConfig,
    spec: Spec,
    reward: RewardFn | None = None,
    member: WorldModel | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """PETS for one environment. Its learner is the ensemble's `FitState`, its actor's carry the plan.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector; actions discrete or a bounded vector.
      reward: (next observation, action) -> [], the known reward of a step, used instead of the learned one; None to
        learn it.
      member: a model of your own to make the ensemble of, over observations, with `errors`; `cfg.model` then has no
        effect. None for `gaussian(cfg.model, spec)`.
      termination: (next observation, action) -> [] bool, whether a step ends the episode, used instead of the learned
        one; None to learn it. What is not given here may be named in `cfg.known`.
    Returns:
      the agent; it needs a `refresh` before its plans mean anything.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    _check_together(cfg)
    member, reward, termination = chosen(cfg.known, member, reward, termination, spec)
    if cfg.known_reward and reward is None:
        raise ValueError(f"known_reward must be False: no reward function of {spec.name} is known")
    planner = make_planner(cfg.planner, spec)
    member = gaussian(cfg.model, spec) if member is None else member
    model = trainer(member, cfg.fit)
    planned_with = with_known(member, reward, termination)
    curious = cfg.explorer == "disagreement"
    if curious:
        need_moments(member, cfg.fit.members, "fit.members")

    def init(key: Key) -> FitState:
        start = model.init(key)
        return start._replace(unit=jnp.ones(sizes(spec)[1], jnp.float32)) if curious else start

    def act(key: Key, learner: FitState, carry: Tree, obs: Obs, explore: bool) -> tuple[Action, Tree, Tree]:
        bound = bind_ensemble(learner.params, member=planned_with, members=cfg.fit.members, propagation=cfg.propagation)
        if curious and explore:
            bound = with_bonus(bound, uncertainty(member, learner.params, learner.unit), cfg.bonus)
        action, carry, _ = planner.plan(key, bound, jnp.asarray(obs, jnp.float32), carry)
        return action, carry, ()

    def refresh(key: Key, learner: FitState, replay: Replay) -> tuple[FitState, Metrics]:
        fitted, metrics = model.fit(key, learner, replay)
        if curious:
            fitted = fitted._replace(unit=variance(replay))
        return fitted, {f"model/{name}": value for name, value in metrics.items()}

    return Agent(init, planner.init, act, no_update, refresh, plan_anew(planner))


def _check_together(cfg: PETSConfig) -> None:
    kind = cfg.planner.kind
    if kind == "gradient":
        if cfg.propagation == "ts1":
            raise ValueError("propagation must be ts_inf or mean for the gradient planner, got ts1")
        return
    particles = getattr(cfg.planner, kind).particles
    if cfg.propagation != "mean" and particles % cfg.fit.members:
        raise ValueError(
            f"planner.{kind}.particles must be a multiple of fit.members ({cfg.fit.members}), got {particles}"
        )


def learned_model(cfg: PETSConfig, spec: Spec, learner: FitState) -> LearnedModel:
    """What was learned, as a planner's model over observations.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    return ensemble_model(gaussian_member(cfg, spec), learner, cfg.fit.members)
