"""Model-based policy optimisation: SAC given another `sample`.

Janner et al. 2019, "When to Trust Your Model" (arXiv 1906.08253). The slow clock fits an ensemble of probabilistic
models on all real transitions and branches short rollouts of the current policy from replayed states, each step of
each rollout under a uniformly drawn elite. The fast clock is SAC's update on batches of mostly imagined rows:

    k(i) = clip( k0 + (i - i0) / (i1 - i0) (k1 - k0), k0, k1 )     rollout length at the i-th refresh, rounded down
    batch = floor(real_ratio · B) real rows and B - floor(real_ratio · B) imagined ones, mixed within each batch
    capacity of the imagined rows = retain · k(i) · rollouts

Differs from the paper in: terminations are predicted by a learned classifier instead of known functions, and the
probability to go on is the imagined discount; targets of the model are normalised; each member owns its log-variance
bounds; elites are drawn by shuffling the rollouts and splitting them evenly, so that every elite carries the same
number of them; the schedule counts refreshes instead of epochs; the largest number of epochs of a fit is bounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents import sac
from mbrl_jax.buffers.uniform import Ring, append, empty
from mbrl_jax.buffers.uniform import sample as sample_ring
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.rollout import branch
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Transition, Tree
from mbrl_jax.models.dynamics.ensemble import bind
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian


@config
class MBPOConfig:
    """Settings of MBPO."""

    policy: sac.SACConfig = sac.SACConfig()
    model: GaussianConfig = GaussianConfig()
    fit: FitConfig = FitConfig()
    real_ratio: float = setting(default=0.05, low=0, high=1, help="share of real rows in each batch")
    rollouts: int = setting(default=10_000, low=1, help="branched rollouts per refresh; a multiple of fit.elites")
    first_horizon: int = setting(default=1, low=1, help="k0, rollout length at the start")
    last_horizon: int = setting(default=1, low=1, help="k1, rollout length at the end, at least k0")
    grow_from: int = setting(default=0, low=0, help="i0, the refresh at which the length starts to grow")
    grow_until: int = setting(default=1, low=1, help="i1, the refresh from which it is k1, above i0")
    retain: int = setting(default=1, low=1, help="refreshes whose imagined rows are kept")


class Learner(NamedTuple):
    """What MBPO has learned so far."""

    policy: sac.Learner
    model: FitState
    imagined: Ring
    refreshes: Array  # [] int32


def horizon(cfg: MBPOConfig, refreshes: Array) -> Array:
    """Rollout length k [] int32 at a given refresh (counted from 0)."""
    span = cfg.grow_until - cfg.grow_from
    grown = (jnp.maximum(refreshes - cfg.grow_from, 0) * (cfg.last_horizon - cfg.first_horizon)) // span
    return jnp.clip(cfg.first_horizon + grown, cfg.first_horizon, cfg.last_horizon).astype(jnp.int32)


def mixed(cfg: MBPOConfig, replay: Replay, imagined: Ring) -> Any:
    """A `sample` whose batches hold floor(real_ratio · n) real rows, then imagined ones."""

    def sample(key: Key, n: int) -> Transition:
        key_real, key_imagined = jax.random.split(key)
        rows = replay.sample(key_real, n)._replace(extras=()), sample_ring(key_imagined, imagined, n)
        # The small addend keeps a ratio such as 0.29 · 100, just below 29 in binary, from losing a row.
        real = jnp.arange(n) < jnp.floor(cfg.real_ratio * n + 1e-4)
        return tree.where(real, *rows)

    return sample


def make(cfg: MBPOConfig, spec: Spec) -> Agent:
    """MBPO for one environment, with continuous or discrete actions as its SAC.

    Args:
      cfg: settings; floats may be traced.
      spec: as for `sac.make`.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    _check_together(cfg)
    policy = sac.make(cfg.policy, spec)
    member = gaussian(cfg.model, spec)
    model = trainer(member, cfg.fit)

    def init(key: Key) -> Learner:
        key_policy, key_model = jax.random.split(key)
        scalar = jnp.zeros((), jnp.float32)
        obs = jnp.zeros(spec.obs.shape, jnp.float32)
        action = jnp.zeros(spec.action.shape, spec.action.dtype)
        row = Transition(obs, action, scalar, scalar, obs, jnp.zeros((), bool))
        imagined = empty(row, cfg.retain * cfg.last_horizon * cfg.rollouts)
        return Learner(policy.init(key_policy), model.init(key_model), imagined, jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return policy.act(key, learner.policy, carry, obs, explore)

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        sample = mixed(cfg, replay, learner.imagined)
        new, metrics, feedback = policy.update(key, learner.policy, replay._replace(sample=sample))
        return learner._replace(policy=new), metrics, feedback

    def refresh(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        key_fit, key_start, key_branch = jax.random.split(key, 3)
        fitted, metrics = model.fit(key_fit, learner.model, replay)
        elites = bind(member, tree.take(fitted.params, fitted.elites), members=cfg.fit.elites)
        starts = replay.sample(key_start, cfg.rollouts).obs
        length = horizon(cfg, learner.refreshes)
        wrap = cfg.retain * length * cfg.rollouts

        def follow(key: Key, obs: Obs) -> Array:
            return policy.act(key, learner.policy, policy.carry(), obs, True)[0]

        def store(ring: Ring, rows: Transition, alive: Array) -> Ring:
            return append(ring, rows, alive, wrap)

        imagined = branch(elites, follow, key_branch, starts, length, store, learner.imagined)
        metrics = {f"model/{name}": value for name, value in metrics.items()}
        metrics |= {"model/horizon": length.astype(jnp.float32), "model/rows": imagined.size.astype(jnp.float32)}
        return learner._replace(model=fitted, imagined=imagined, refreshes=learner.refreshes + 1), metrics

    return Agent(init, policy.carry, act, update, refresh)


def _check_together(cfg: MBPOConfig) -> None:
    if cfg.rollouts % cfg.fit.elites:
        raise ValueError(f"rollouts must be a multiple of fit.elites ({cfg.fit.elites}), got {cfg.rollouts}")
    if cfg.last_horizon < cfg.first_horizon:
        raise ValueError(f"last_horizon must be at least first_horizon ({cfg.first_horizon}), got {cfg.last_horizon}")
    if cfg.grow_until <= cfg.grow_from:
        raise ValueError(f"grow_until must be above grow_from ({cfg.grow_from}), got {cfg.grow_until}")
