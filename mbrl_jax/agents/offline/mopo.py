"""MOPO: SAC in a learned model whose rewards are lowered where the model is uncertain.

Yu et al. 2020, "MOPO: Model-based Offline Policy Optimization" (arXiv 2005.13239).

    r~(s, a) = r - λ u(s, a),   u(s, a) = max_i ‖σ_i(s, a)‖₂                          `penalty`

where σ_i are the standard deviations that elite i predicts of the next observation and the reward, in their own units.
The rest is MBPO with one fit (`model_based`).

Differs from the paper in: as MBPO here does from its own (normalised targets, a learned termination, own bounds of each
member's log-variance). As in its authors' code the maximum is over elites, and σ takes the place of the covariance.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mbrl_jax.agents import sac
from mbrl_jax.agents.learned_model import gaussian_member
from mbrl_jax.agents.offline import model_based
from mbrl_jax.agents.offline.model_based import ImaginedConfig, Learner, Revise, learned_model
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Agent, Array, Obs, Spec, StepOut, WorldModel
from mbrl_jax.models.dynamics.fit import FitConfig, FitState
from mbrl_jax.models.dynamics.gaussian import GaussianConfig
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn

__all__ = ["Learner", "MOPOConfig", "learned_model", "make", "penalty"]


@config
class MOPOConfig:
    """Settings of MOPO."""

    policy: sac.SACConfig = sac.SACConfig()
    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig()
    imagined: ImaginedConfig = ImaginedConfig()
    penalty: float = setting(
        default=1.0, low=0, help="weight of the model's uncertainty, in units of reward; 0 trusts the model"
    )
    known: KnownConfig = KnownConfig()


def penalty(stds: Array) -> Array:
    """u(s, a) = max_i ‖σ_i(s, a)‖₂, the model's uncertainty (Yu et al. 2020).

    Args:
      stds: [K, D] standard deviations that each elite predicts, from `model_based.elite_moments`.
    Returns:
      [] at least 0.
    """
    return jnp.max(jnp.sqrt(jnp.sum(jnp.square(stds), axis=-1)))


def make(
    cfg: MOPOConfig,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """MOPO for one environment, with continuous or discrete actions as its SAC.

    Args:
      cfg: settings; floats may be traced.
      spec: as for `sac.make`.
      member, reward, termination: as for `mbpo.make`; a member needs `moments`.
    Returns:
      the agent; its `refresh` must be called before its first `update`.
    Raises:
      ValueError: a setting out of range or at odds with another, a member without `moments`, or an environment that
        needs a wrapper first.
    """
    check(cfg)
    member = gaussian_member(cfg, spec, member, reward, termination)

    def revise(fitted: FitState, facts: Any) -> Revise:
        del facts
        moments = model_based.elite_moments(member, fitted)

        def penalised(obs: Obs, action: Action, out: StepOut) -> StepOut:
            return out._replace(reward=out.reward - cfg.penalty * penalty(moments(obs, action)[1]))

        return penalised

    return model_based.make(cfg, spec, policy=sac.make(cfg.policy, spec), member=member, revise=revise)
