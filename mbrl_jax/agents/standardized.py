"""Any agent on observations and rewards scaled by their running statistics, as tasks with units of their own need.

    o~ = clip((o - μ) / σ, -10, 10),    r~ = r / s

Statistics are of the rows that `update` samples. Two sizes s of a reward are known:

    "rms"      s = sqrt(E[r²])                  as in MR.Q (Fujimoto et al. 2025, arXiv 2501.16142), which takes E|r|
    "returns"  s = σ of Σ_k γ^k r_{t-k}         over a trajectory (Engstrom et al. 2020, arXiv 2005.12729)

A reward's sign stays. Rewards are scaled with statistics that hold the present batch; observations with those of before
it, so that what an agent has stored of its actions belongs to the observations it acted on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Action, Agent, Array, Box, Key, Metrics, Obs, Replay, Spec, Transition, Tree
from mbrl_jax.ops.running import Running, deviation, include, no_rows, root_mean_square, standardize


class Standardized(NamedTuple):
    """What an agent has learned, and the statistics that it sees the world through."""

    inner: Tree
    obs: Running | tuple[()]  # [D]; () where observations stay as they are
    reward: Running | tuple[()]  # []; () likewise


def inner_of(learner: Any) -> Any:
    """What the agent itself has learned, without statistics."""
    return learner.inner if isinstance(learner, Standardized) else learner


def with_inner(learner: Any, inner: Any) -> Any:
    """The learner with `inner` for what the agent itself has learned."""
    return learner._replace(inner=inner) if isinstance(learner, Standardized) else inner


def has_units(spec: Spec) -> bool:
    """Whether observations are vectors that may leave [-1, 1]; images, planes and codes need no scaling."""
    space = spec.obs
    if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        return False
    return bool(np.any(np.asarray(space.low) < -1.0) or np.any(np.asarray(space.high) > 1.0))


def discounted_sums(trajectory: Transition, gamma: Array | float) -> Array:
    """R_t = r_t + γ R_{t-1} within each episode, from 0 at the trajectory's first step.

    Args:
      trajectory: [T, N, ...].
      gamma: γ, in [0, 1].
    Returns:
      [T, N].
    """

    def one(before: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, last = row
        now = reward + gamma * before
        return jnp.where(last, 0.0, now), now

    start = jnp.zeros(trajectory.reward.shape[1:], jnp.float32)
    return jax.lax.scan(one, start, (trajectory.reward.astype(jnp.float32), trajectory.last))[1]


def standardized(agent: Agent, spec: Spec, *, obs: bool, rewards: bool, returns: Array | float | None = None) -> Agent:
    """An agent that sees scaled observations and rewards; the agent itself where neither is asked for.

    Args:
      agent: its `update` samples `Transition`s.
      spec: of the environment.
      obs: scale observations, where `has_units`.
      rewards: scale rewards.
      returns: γ for s of "returns", where `sample` gives a trajectory [T, N, ...]; None for "rms".
    Returns:
      the agent; its learner is `Standardized`, and its metrics have `reward_scale`, s.
    """
    obs = obs and has_units(spec)
    if not (obs or rewards):
        return agent
    size = root_mean_square if returns is None else deviation

    def seen(learner: Standardized, row: Obs) -> Obs:
        return standardize(learner.obs, row) if isinstance(learner.obs, Running) else row

    def init(key: Key) -> Standardized:
        shape = spec.obs.shape if isinstance(spec.obs, Box) else ()
        return Standardized(agent.init(key), no_rows(shape) if obs else (), no_rows(()) if rewards else ())

    def act(key: Key, learner: Standardized, carry: Tree, row: Obs, explore: bool) -> tuple[Action, Tree, Tree]:
        return agent.act(key, learner.inner, carry, seen(learner, row), explore)

    def follow(key: Key, learner: Standardized, carry: Tree, row: Obs, action: Action) -> tuple[Tree, Tree]:
        assert agent.follow is not None
        return agent.follow(key, learner.inner, carry, seen(learner, row), action)

    def update(key: Key, learner: Standardized, replay: Replay) -> tuple[Standardized, Metrics, Tree]:
        drawn: list[tuple[Any, Any]] = []

        def sample(key: Key, n: int) -> Transition:
            batch: Transition = replay.sample(key, n)
            now, later = learner.reward, learner.obs
            if isinstance(now, Running):
                sizes = batch.reward if returns is None else discounted_sums(batch, returns)
                now = include(now, jnp.reshape(sizes, -1))
                batch = batch._replace(reward=batch.reward / size(now))
            if isinstance(later, Running):
                before = later
                later = include(later, jnp.reshape(batch.obs, (-1, *before.mean.shape)))
                scaled = (standardize(before, x) for x in (batch.obs, batch.next_obs))
                batch = batch._replace(**dict(zip(("obs", "next_obs"), scaled, strict=True)))
            drawn.append((later, now))
            return batch

        inner, metrics, feedback = agent.update(key, learner.inner, replay._replace(sample=sample))
        (of_obs, of_reward), *_ = drawn
        if isinstance(of_reward, Running):
            metrics = metrics | {"reward_scale": size(of_reward)}
        return Standardized(inner, of_obs, of_reward), metrics, feedback

    return Agent(init, agent.carry, act, update, agent.refresh, None if agent.follow is None else follow)
