"""Deep Dyna: DQN given another `sample`.

Sutton 1990, "Integrated Architectures for Learning, Planning, and Reacting", with networks in place of the tables. The
slow clock fits a bootstrap ensemble of dynamics models on all real transitions and branches k-step rollouts of the
greedy policy, with random actions in between, from replayed states into a ring. The fast clock is one DQN update on
real rows, then `planning` DQN updates on rows of the ring:

    y = r + γ d Q'(s', argmax_a Q(s', a)),      (s, a) -> r, s', d  real, or imagined with d = P(going on | s, a)

Without planning it is DQN itself. Rollouts start from states in which an action was taken, so never from a terminal
one, and a lane ends where the model rather ends than goes on. The target network moves in all 1 + `planning` updates:
with more of them a `tau` that suits DQN can let values run away.

Differs from Dyna-Q in: networks instead of tables; the model is fitted now and then instead of after every step, so
imagined rows are kept and drawn again; rollouts go on for k steps, with actions the policy would take, instead of one
step from a visited pair.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents import dqn
from mbrl_jax.buffers.uniform import Ring, append, empty
from mbrl_jax.buffers.uniform import sample as sample_ring
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.rollout import branch
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Transition, Tree
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic
from mbrl_jax.models.dynamics.ensemble import bind
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, trainer


@config
class DynaDQNConfig:
    """Settings of deep Dyna."""

    policy: dqn.DQNConfig = dqn.DQNConfig()
    model: DeterministicConfig = DeterministicConfig(hidden=(128, 128))
    fit: FitConfig = FitConfig(members=5, elites=4, batch=64)
    planning: int = setting(default=10, low=0, help="imagined updates per real update; 0 is DQN")
    rollouts: int = setting(default=512, low=1, help="branched rollouts per refresh; a multiple of fit.elites")
    horizon: int = setting(default=8, low=1, help="steps of a rollout")
    explore: float = setting(default=0.1, low=0, high=1, help="chance of a uniformly random action in a rollout")
    retain: int = setting(default=2, low=1, help="refreshes whose imagined rows are kept")


class Learner(NamedTuple):
    """What deep Dyna has learned so far."""

    policy: dqn.Learner
    model: FitState
    imagined: Ring


def make(cfg: DynaDQNConfig, spec: Spec) -> Agent:
    """Deep Dyna for one environment; with `planning` 0 it is `dqn.make(cfg.policy, spec)`, and there is no model.

    The policy's `updates`, and with them the chance of random actions, count updates on real rows alone.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, actions discrete.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    if cfg.rollouts % cfg.fit.elites:
        raise ValueError(f"rollouts must be a multiple of fit.elites ({cfg.fit.elites}), got {cfg.rollouts}")
    policy = dqn.make(cfg.policy, spec)
    member = deterministic(cfg.model, spec)
    model = trainer(member, cfg.fit)
    if cfg.planning == 0:
        return policy

    def init(key: Key) -> Learner:
        key_policy, key_model = jax.random.split(key)
        scalar = jnp.zeros((), jnp.float32)
        obs = jnp.zeros(spec.obs.shape, jnp.float32)
        action = jnp.zeros(spec.action.shape, spec.action.dtype)
        row = Transition(obs, action, scalar, scalar, obs, jnp.zeros((), bool))
        imagined = empty(row, cfg.retain * cfg.horizon * cfg.rollouts)
        return Learner(policy.init(key_policy), model.init(key_model), imagined)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return policy.act(key, learner.policy, carry, obs, explore)

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_real, key_imagined = jax.random.split(key)
        real, metrics, _ = policy.update(key_real, learner.policy, replay)
        dream = replay._replace(sample=lambda key, n: sample_ring(key, learner.imagined, n))

        def plan(at: dqn.Learner, key: Key) -> tuple[dqn.Learner, Metrics]:
            at, metrics, _ = policy.update(key, at, dream)
            return at, metrics

        planned, imagined = jax.lax.scan(plan, real, jax.random.split(key_imagined, cfg.planning))
        metrics |= {f"imagined/{name}": jnp.mean(imagined[name]) for name in ("loss", "q")}
        return learner._replace(policy=planned._replace(updates=real.updates)), metrics, ()

    def refresh(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        key_fit, key_start, key_branch = jax.random.split(key, 3)
        fitted, metrics = model.fit(key_fit, learner.model, replay)
        elites = bind(member, tree.take(fitted.params, fitted.elites), members=cfg.fit.elites)
        starts = replay.sample(key_start, cfg.rollouts).obs

        def follow(key: Key, obs: Obs) -> Array:
            key_greedy, key_whether, key_which = jax.random.split(key, 3)
            greedy, _, _ = policy.act(key_greedy, learner.policy, policy.carry(), obs, False)
            random = jax.random.uniform(key_whether) < cfg.explore
            return jnp.where(random, spec.action.sample(key_which), greedy)

        def store(ring: Ring, rows: Transition, alive: Array) -> Ring:
            return append(ring, rows, alive)

        imagined = branch(elites, follow, key_branch, starts, cfg.horizon, store, learner.imagined)
        metrics = {f"model/{name}": value for name, value in metrics.items()}
        metrics |= {"model/rows": imagined.size.astype(jnp.float32)}
        return learner._replace(model=fitted, imagined=imagined), metrics

    return Agent(init, policy.carry, act, update, refresh)
