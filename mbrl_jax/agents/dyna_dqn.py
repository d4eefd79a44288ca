"""Deep Dyna: DQN given another `sample`.

Sutton 1990, "Integrated Architectures for Learning, Planning, and Reacting", with networks in place of the tables. The
slow clock fits a bootstrap ensemble of dynamics models to all real transitions and branches k-step rollouts of the
greedy policy, with random actions in between, from replayed states into a ring (`refresh`). The fast clock is one DQN
update on real rows, then `planning` DQN updates on rows of the ring:

    y = r + γ d Q'(s', argmax_a Q(s', a)),      (s, a) -> r, s', d  real, or imagined with d = P(going on | s, a)

Without planning it is DQN itself. Rollouts start from states in which an action was taken, so never from a terminal
one, and end where the model predicts termination with probability above one half. The target network moves in all
1 + `planning` updates: with more of them a `tau` that suits DQN can let values diverge.

Differs from Dyna-Q in: networks instead of tables; the model is fitted now and then instead of after every step, so
that imagined rows are kept and drawn repeatedly; rollouts go on for k steps, with actions of the current policy,
instead of one step from a visited state and action.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents import dqn, imagined_replay
from mbrl_jax.agents.learned_model import LearnedModel, ensemble_model
from mbrl_jax.agents.standardized import inner_of, with_inner
from mbrl_jax.buffers.uniform import Ring
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Tree, WorldModel
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, trainer
from mbrl_jax.models.dynamics.known import KnownConfig, RewardFn, TerminationFn, member_of


@config
class DynaDQNConfig:
    """Settings of deep Dyna."""

    policy: dqn.DQNConfig = dqn.DQNConfig()
    model: DeterministicConfig = DeterministicConfig(hidden=(128, 128))
    fit: FitConfig = FitConfig(members=5, elites=4, batch=64)
    planning: int = setting(
        default=10, low=0, help="updates on imagined transitions per update on real ones; 0 for DQN without a model"
    )
    rollouts: int = setting(default=512, low=1, help="branched rollouts per refresh; a multiple of fit.elites")
    horizon: int = setting(default=8, low=1, help="length of a rollout in steps")
    explore: float = setting(
        default=0.1, low=0, high=1, help="probability of a uniformly random action in each step of a rollout"
    )
    retain: int = setting(default=2, low=1, help="number of latest refreshes whose imagined transitions are kept")
    known: KnownConfig = KnownConfig()


class Learner(NamedTuple):
    """What deep Dyna has learned so far."""

    policy: dqn.Learner
    model: FitState
    imagined: Ring


def refresh(
    key: Key, learner: Learner, replay: Replay, *, cfg: DynaDQNConfig, spec: Spec, policy: Agent, member: WorldModel
) -> tuple[Learner, Metrics]:
    """Fits the ensemble and adds rollouts of the greedy policy, with random actions in between, to the imagined rows.

    Args:
      key: used once.
      learner: what has been learned so far.
      replay: the real rows, at least one.
      cfg: settings of fit and rollouts.
      spec: the environment's, for its random actions.
      policy: DQN, from `dqn.make(cfg.policy, spec)`.
      member: the ensemble's member, over observations, with `errors`.
    Returns:
      the learner, and the fit's metrics with `rows`, the imagined rows now kept, all under `model/`.
    """

    def explore(key: Key, obs: Obs) -> Array:
        key_greedy, key_whether, key_which = jax.random.split(key, 3)
        greedy, _, _ = policy.act(key_greedy, learner.policy, policy.carry(), obs, False)
        random = jax.random.uniform(key_whether, dtype=jnp.float32) < cfg.explore
        return jnp.where(random, spec.action.sample(key_which), greedy)

    fitted, imagined, metrics = imagined_replay.refresh(
        key,
        learner.model,
        learner.imagined,
        replay,
        model=trainer(member, cfg.fit),
        member=member,
        policy=explore,
        rollouts=cfg.rollouts,
        horizon=cfg.horizon,
    )
    metrics |= {"rows": imagined.size.astype(jnp.float32)}
    learner = learner._replace(model=fitted, imagined=imagined)
    return learner, {f"model/{name}": value for name, value in metrics.items()}


def update(
    key: Key, learner: Learner, replay: Replay, *, policy: Agent, planning: int
) -> tuple[Learner, Metrics, Tree]:
    """One DQN update on real rows, then `planning` of them on imagined rows.

    Exploration decays with the updates on real rows alone.

    Args:
      key: used once.
      learner: what has been learned so far; it holds at least one imagined row.
      replay: the real rows, at least one.
      policy: DQN, from `dqn.make`.
      planning: number of updates on imagined rows, at least 1.
    Returns:
      the learner; the metrics of the update on real rows, and the means of those on imagined ones under `imagined/`;
      no feedback.
    """
    key_real, key_imagined = jax.random.split(key)
    real, metrics, _ = policy.update(key_real, learner.policy, replay)
    imagined_rows = imagined_replay.imagined_batches(replay, learner.imagined)

    def plan(at: dqn.Learner, key: Key) -> tuple[dqn.Learner, Metrics]:
        at, metrics, _ = policy.update(key, at, imagined_rows)
        return at, metrics

    planned, imagined = jax.lax.scan(plan, real, jax.random.split(key_imagined, planning))
    metrics |= {f"imagined/{name}": jnp.mean(imagined[name]) for name in ("loss", "q")}
    counted = inner_of(planned)._replace(updates=inner_of(real).updates)
    return learner._replace(policy=with_inner(planned, counted)), metrics, ()


def make(
    cfg: DynaDQNConfig,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> Agent:
    """Deep Dyna for one environment; with `planning` 0 it is `dqn.make(cfg.policy, spec)`, and there is no model.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, actions discrete.
      member: a model of your own to make the ensemble of, over observations, with `errors`; `cfg.model` then has no
        effect. None for `deterministic(cfg.model, spec)`.
      reward: (next observation, action) -> [], the known reward of a step, used instead of the learned one; None to
        learn it.
      termination: (next observation, action) -> [] bool, whether a step ends the episode, likewise. What is not given
        here may be named in `cfg.known`.
    Returns:
      the agent; with planning, its `refresh` must be called before its first `update`.
    Raises:
      ValueError: a setting out of range or at odds with another, or an environment that needs a wrapper first.
    """
    check(cfg)
    imagined_replay.check_rollouts(cfg.rollouts, cfg.fit.elites)
    policy = dqn.make(cfg.policy, spec)
    member = member_of(cfg.known, lambda: deterministic(cfg.model, spec), spec, member, reward, termination)
    model = trainer(member, cfg.fit)
    if cfg.planning == 0:
        return policy

    def init(key: Key) -> Learner:
        key_policy, key_model = jax.random.split(key)
        imagined = imagined_replay.empty_ring(spec, cfg.retain * cfg.horizon * cfg.rollouts)
        return Learner(policy.init(key_policy), model.init(key_model), imagined)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return policy.act(key, learner.policy, carry, obs, explore)

    def updated(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        return update(key, learner, replay, policy=policy, planning=cfg.planning)

    def refreshed(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics]:
        return refresh(key, learner, replay, cfg=cfg, spec=spec, policy=policy, member=member)

    return Agent(init, policy.carry, act, updated, refreshed, policy.follow)


def learned_model(cfg: DynaDQNConfig, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model over observations.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    Raises:
      ValueError: there is no model, as `planning` is 0.
    """
    if cfg.planning == 0:
        raise ValueError("planning must be above 0 for a model to be learned, got 0")
    member = member_of(cfg.known, lambda: deterministic(cfg.model, spec), spec)
    return ensemble_model(member, learner.model, cfg.fit.members)
