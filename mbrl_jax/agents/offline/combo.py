"""COMBO: SAC in a learned model, its critics lowered at the policy's actions and raised at the data's.

Yu et al. 2021, "COMBO: Conservative Offline Model-Based Policy Optimization" (arXiv 2102.08363), with the
maximising distribution of actions as in CQL(H) (Kumar et al. 2020, arXiv 2006.04779, eq. 4):

    L_Q += β Σ_i { mean_{s in batch} log ∫ exp Q_i(s, a) da - mean_{(s, a) in data} Q_i(s, a) }   `conservative_loss`

where the batch holds rows of the data and imagined ones. For continuous actions the integral is estimated by importance
sampling: M uniform actions, M of π(·|s) and M of π(·|s'), each divided by the density that it was drawn with; over
discrete ones it is the exact sum. Rewards are not lowered.

Differs from the paper in: actions of π(·|s') count as drawn from π(·|s), with the density that they had at s', as in
CQL's code; the rest as in MOPO here.
"""

from __future__ import annotations

import math
from typing import cast

import jax
import jax.numpy as jnp

from mbrl_jax.agents import sac
from mbrl_jax.agents.imagined_replay import is_real
from mbrl_jax.agents.learned_model import gaussian_member
from mbrl_jax.agents.offline import model_based
from mbrl_jax.agents.offline.model_based import ImaginedConfig, Learner, learned_model
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Box, Discrete, Key, Metrics, Params, Spec, Transition, WorldModel
from mbrl_jax.models.dynamics.fit import FitConfig
from mbrl_jax.models.dynamics.gaussian import GaussianConfig
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn

__all__ = ["COMBOConfig", "Learner", "conservative_loss", "learned_model", "make", "proposals"]


@config
class COMBOConfig:
    """Settings of COMBO."""

    policy: sac.SACConfig = sac.SACConfig()
    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig()
    imagined: ImaginedConfig = ImaginedConfig(real_ratio=0.5)
    beta: float = setting(default=1.0, low=0, help="weight of the critics' conservative loss")
    actions: int = setting(
        default=5, low=1, help="actions of each kind that the integral is estimated with, where they are continuous"
    )
    known: KnownConfig = KnownConfig()


def proposals(key: Key, row: Transition, *, nets: sac.Networks, policy: Params, actions: int, space: Box) -> tuple:
    """Actions to estimate the integral with, and the logarithms of the densities that they were drawn with.

    Args:
      key: used once.
      row: a transition, of whose observations the policy's actions are.
      nets: of SAC, with continuous actions.
      policy: its parameters.
      actions: M, of each of the three kinds.
      space: of the actions, [-1, 1]^A.
    Returns:
      [3 M, A] actions: uniform, of π(·|s), of π(·|s'); [3 M] log densities in nats.
    """
    key_uniform, key_here, key_next = jax.random.split(key, 3)
    uniform = jax.random.uniform(key_uniform, (actions, *space.shape), jnp.float32, -1.0, 1.0)
    draw = jax.vmap(nets.draw, (None, 0, None))
    here = draw(policy, jax.random.split(key_here, actions), row.obs)
    following = draw(policy, jax.random.split(key_next, actions), row.next_obs)
    flat = jnp.full(actions, -space.size * math.log(2.0), jnp.float32)
    return jnp.concatenate([uniform, here[0], following[0]]), jnp.concatenate([flat, here[1], following[1]])


def conservative_loss(
    critic: Params,
    key: Key,
    batch: Transition,
    policy: Params,
    *,
    nets: sac.Networks,
    action: Box | Discrete,
    actions: int,
    real: Array,
) -> tuple[Array, Metrics]:
    """What lowers the critics where the data has no action (Yu et al. 2021; Kumar et al. 2020, eq. 4).

        L = Σ_i { mean_batch log ∫ exp Q_i(s, a) da - mean_data Q_i(s, a) }

    Args:
      critic: [N, ...] parameters of the critics, which the loss is differentiated by.
      key: used once, to draw actions where they are continuous.
      batch: [B, ...] transitions, of the data and imagined ones.
      policy: parameters of the policy.
      nets: of SAC.
      action: the action space.
      actions: M, of each kind of `proposals`.
      real: [B] bool, which rows are of the data.
    Returns:
      loss [] and the metrics `conservative_loss` and `gap`, the mean over critics of what L sums.
    """

    def one(key: Key, row: Transition) -> tuple[Array, Array]:
        at = lambda a: nets.q(critic, row.obs, a)  # noqa: E731
        if isinstance(action, Discrete):
            q, shift = jax.vmap(at)(jnp.arange(action.n)), jnp.zeros((), jnp.float32)
        else:
            tried, density = proposals(key, row, nets=nets, policy=policy, actions=actions, space=action)
            q, shift = jax.vmap(at)(tried) - density[:, None], jnp.float32(math.log(3.0 * actions))
        return jax.nn.logsumexp(q, axis=0) - shift, at(row.action)

    keys = jax.random.split(key, batch.reward.shape[0])
    soft, taken = jax.vmap(one)(keys, batch)
    of_data = jnp.sum(jnp.where(real[:, None], taken, 0.0), 0) / jnp.maximum(jnp.sum(real), 1)
    gaps = jnp.mean(soft, 0) - of_data
    loss = jnp.sum(gaps)
    return loss, {"conservative_loss": loss, "gap": jnp.mean(gaps)}


def make(
    cfg: COMBOConfig,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """COMBO for one environment, with continuous or discrete actions as its SAC.

    Args:
      cfg: settings; floats may be traced.
      spec: as for `sac.make`.
      member, reward, termination: as for `mbpo.make`.
    Returns:
      the agent; its `refresh` must be called before its first `update`.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    member = gaussian_member(cfg, spec, member, reward, termination)
    real, action = is_real(cfg.policy.batch, cfg.imagined.real_ratio), cast("Box | Discrete", spec.action)
    nets = sac.networks(cfg.policy, spec)

    def term(critic: Params, key: Key, batch: Transition, policy: Params) -> tuple[Array, Metrics]:
        loss, metrics = conservative_loss(
            critic, key, batch, policy, nets=nets, action=action, actions=cfg.actions, real=real
        )
        return cfg.beta * loss, metrics

    return model_based.make(cfg, spec, policy=sac.make(cfg.policy, spec, term), member=member)
