"""MOReL: SAC in a learned model that ends, at a low reward, where its members disagree.

Kidambi et al. 2020, "MOReL: Model-Based Offline Reinforcement Learning" (arXiv 2005.05951).

    disc(s, a) = max_{i,j} ‖m_i(s, a) - m_j(s, a)‖₂                                   `discrepancy`
    known      = disc(s, a) <= c · max_{(s, a) in data} disc(s, a)                    `threshold`
    elsewhere the pessimistic model goes to HALT, where every reward is -κ for ever

m_i are the elites' means of the next observation and the reward, in their own units. -κ = r_min - h (r_max - r_min) of
the data's rewards, so that h needs no unit. HALT is one row: its reward is -κ / (1 - γ), the value of staying there,
and its discount 0.

Differs from the paper in: the policy is SAC's instead of natural policy gradient's; m_i are trained as Gaussians; the
rest as in MBPO here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mbrl_jax.agents import sac
from mbrl_jax.agents.learned_model import gaussian_member
from mbrl_jax.agents.offline import model_based
from mbrl_jax.agents.offline.model_based import ImaginedConfig, Learner, Revise, learned_model
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Agent, Array, Obs, Replay, Spec, StepOut, Transition, WorldModel
from mbrl_jax.models.dynamics.fit import FitConfig, FitState
from mbrl_jax.models.dynamics.gaussian import GaussianConfig
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn

__all__ = ["Facts", "Learner", "MOReLConfig", "discrepancy", "halt_reward", "learned_model", "make", "study"]


@config
class MOReLConfig:
    """Settings of MOReL."""

    policy: sac.SACConfig = sac.SACConfig()
    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig()
    imagined: ImaginedConfig = ImaginedConfig()
    threshold: float = setting(
        default=1.0, above=0, help="disagreement that counts as unknown, as a share of the largest on the data"
    )
    halt: float = setting(
        default=0.5, low=0, help="how far the reward of HALT lies below the data's lowest, as a share of their range"
    )
    known: KnownConfig = KnownConfig()


class Facts(NamedTuple):
    """What is measured on the data after the fit."""

    discrepancy: Array  # [] the largest
    low: Array  # [] lowest reward
    high: Array  # [] highest reward


def discrepancy(means: Array) -> Array:
    """disc(s, a) = max_{i,j} ‖m_i(s, a) - m_j(s, a)‖₂, the members' disagreement (Kidambi et al. 2020).

    Args:
      means: [K, D] what each elite predicts of one step, from `model_based.elite_moments`.
    Returns:
      [] at least 0.
    """
    apart = means[:, None] - means[None]
    return jnp.sqrt(jnp.max(jnp.sum(jnp.square(apart), axis=-1)))


def halt_reward(facts: Facts, *, halt: Array | float, gamma: Array | float) -> Array:
    """The reward of the step into HALT, -κ / (1 - γ) with -κ = r_min - h (r_max - r_min).

    Args:
      facts: from `study`.
      halt: h, at least 0.
      gamma: γ, below 1.
    """
    return (facts.low - halt * (facts.high - facts.low)) / (1 - gamma)


def study(fitted: FitState, replay: Replay, *, member: WorldModel) -> Facts:
    """The largest disagreement at any state and action of the data, and the range of its rewards.

    Args:
      fitted: the ensemble.
      replay: the data.
      member: the ensemble's member.
    """
    moments = model_based.elite_moments(member, fitted)

    def one(row: Transition) -> Array:
        return discrepancy(moments(jnp.asarray(row.obs, jnp.float32), row.action)[0])

    rewards = model_based.over_data(lambda row: jnp.asarray(row.reward, jnp.float32), replay)
    return Facts(jnp.max(model_based.over_data(one, replay)), jnp.min(rewards), jnp.max(rewards))


def make(
    cfg: MOReLConfig,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """MOReL for one environment, with continuous or discrete actions as its SAC.

    Args:
      cfg: settings; floats may be traced.
      spec: as for `sac.make`.
      member, reward, termination: as for `mbpo.make`; a member needs `moments`.
    Returns:
      the agent; its `refresh` must be called before its first `update`.
    Raises:
      ValueError: a setting out of range or at odds with another, a member without `moments`, a discount factor of 1,
        or an environment that needs a wrapper first.
    """
    check(cfg)
    if isinstance(cfg.policy.gamma, int | float) and cfg.policy.gamma >= 1:
        raise ValueError(f"policy.gamma must be below 1, as HALT has no other value, got {cfg.policy.gamma}")
    member = gaussian_member(cfg, spec, member, reward, termination)

    def revise(fitted: FitState, facts: Facts) -> Revise:
        moments = model_based.elite_moments(member, fitted)
        at_halt = halt_reward(facts, halt=cfg.halt, gamma=cfg.policy.gamma)

        def pessimistic(obs: Obs, action: Action, out: StepOut) -> StepOut:
            unknown = discrepancy(moments(obs, action)[0]) > cfg.threshold * facts.discrepancy
            ends = jnp.where(unknown, 0.0, out.discount)
            return StepOut(out.state, jnp.where(unknown, at_halt, out.reward), ends)

        return pessimistic

    zero = jnp.zeros((), jnp.float32)
    return model_based.make(
        cfg, spec, policy=sac.make(cfg.policy, spec), member=member, own=Facts(zero, zero, zero),
        study=lambda fitted, replay: study(fitted, replay, member=member), revise=revise,
    )  # fmt: skip
