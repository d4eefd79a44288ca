"""PETS: planning with an ensemble of probabilistic models.

Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models" (arXiv
1805.12114). The slow clock fits a bootstrap ensemble to all real transitions; acting is planning anew in every step,
by default with the cross-entropy method, over particles that the ensemble carries along each candidate:

    a* = first action of the best a_{0..H-1} by  1/P Σ_p Σ_t γ^t r(s_t^p, a_t),  s_{t+1}^p ~ f_w(s_t^p, a_t), w = w(p,t)

    propagation "ts_inf": w(p, t) = w(p), every particle stays in one member;  "ts1": a candidate's particles are dealt
    out anew among the members in each step;  "mean": the average over members of one draw of each, which costs a
    member's step as often as there are members, so that one particle stands against `members` of the others

Differs from the paper in: rewards and terminations are learned with the dynamics unless a reward function is given
(there: known); targets are scaled; a fit stops early by a hold-out error, where the paper makes five epochs.
"""

from __future__ import annotations

from collections.abc import Callable

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import (
    Action,
    Agent,
    Array,
    Key,
    Metrics,
    Model,
    Obs,
    Params,
    Replay,
    Spec,
    StepOut,
    Tree,
    WorldModel,
    no_update,
)
from mbrl_jax.models.dynamics.ensemble import bind, ensemble
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.planners.mpc.choice import PlannerConfig, make_planner

RewardFn = Callable[[Obs, Action], Array]  # (next observation, action) -> []


@config
class PETSConfig:
    """Settings of PETS."""

    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig(members=5, elites=5)
    planner: PlannerConfig = PlannerConfig()
    propagation: str = setting(
        default="ts_inf", choices=("ts_inf", "ts1", "mean"), help="which member carries a particle in each step"
    )
    known_reward: bool = setting(default=False, help="compute rewards by the environment's own function, if it has one")


def known_reward(member: WorldModel, reward: RewardFn) -> WorldModel:
    """A model over observations whose rewards are computed from what it predicts, by a known function."""

    def step(params: Params, key: Key, state: Obs, action: Action) -> StepOut:
        out = member.step(params, key, state, action)
        return out._replace(reward=reward(out.state, action))

    return member._replace(step=step)


def bound(cfg: PETSConfig, member: WorldModel, params: Params) -> Model:
    """The ensemble as the planner sees it, by the propagation chosen.

    Args:
      cfg: settings.
      member: one member.
      params: of all, [E, ...].
    """
    if cfg.propagation == "mean":
        return bind(ensemble(member, cfg.fit.members, "mean"), params)
    return bind(member, params, members=cfg.fit.members, resample_member=cfg.propagation == "ts1")


def make(cfg: PETSConfig, spec: Spec, reward: RewardFn | None = None) -> Agent:
    """PETS for one environment. What it has learned is the ensemble's `FitState`; an actor's memory is its plan.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector; actions discrete or a bounded vector.
      reward: the known reward of a step, which then is not learned; None to learn it.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    chosen = getattr(cfg.planner, cfg.planner.kind)
    if cfg.propagation == "ts1" and cfg.planner.kind == "gradient":
        raise ValueError("propagation must be ts_inf or mean for the gradient planner, got ts1")
    if cfg.propagation != "mean" and cfg.planner.kind != "gradient" and chosen.particles % cfg.fit.members:
        raise ValueError(
            f"planner.{cfg.planner.kind}.particles must be a multiple of fit.members ({cfg.fit.members}), "
            f"got {chosen.particles}"
        )
    if cfg.known_reward and reward is None:
        raise ValueError(f"known_reward must be False: no reward function of {spec.name} is known")
    planner = make_planner(cfg.planner, spec)
    member = gaussian(cfg.model, spec)
    fitting = trainer(member, cfg.fit)
    carrying = member if reward is None else known_reward(member, reward)

    def act(key: Key, learner: FitState, carry: Tree, obs: Obs, explore: bool) -> tuple[Action, Tree, Tree]:
        del explore  # it explores by planning anew, and by what its particles disagree on
        action, carry, _ = planner.plan(key, bound(cfg, carrying, learner.params), obs, carry)
        return action, carry, ()

    def refresh(key: Key, learner: FitState, replay: Replay) -> tuple[FitState, Metrics]:
        fitted, metrics = fitting.fit(key, learner, replay)
        return fitted, {f"model/{name}": value for name, value in metrics.items()}

    return Agent(fitting.init, planner.init, act, no_update, refresh)
