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

import jax.numpy as jnp
import numpy as np

from mbrl_jax.agents.learned_model import LearnedModel
from mbrl_jax.agents.open_loop import OpenLoopModel
from mbrl_jax.agents.rnd import Distilled
from mbrl_jax.buffers.sequence import Window
from mbrl_jax.core.types import (
    Action,
    Agent,
    Array,
    Box,
    Key,
    Metrics,
    Obs,
    Replay,
    Spec,
    State,
    StepOut,
    Transition,
    Tree,
)
from mbrl_jax.ops.returns import discounted_sums
from mbrl_jax.ops.running import Running, deviation, include, no_rows, root_mean_square, standardize


class Standardized(NamedTuple):
    """What an agent has learned, and the statistics that it sees the world through."""

    inner: Tree
    obs: Running | tuple[()]  # [D]; () where observations stay as they are
    reward: Running | tuple[()]  # []; () likewise


def inner_of(learner: Any) -> Any:
    """What the agent itself has learned, without statistics and without what makes a bonus."""
    return inner_of(learner.inner) if isinstance(learner, Standardized | Distilled) else learner


def with_inner(learner: Any, inner: Any) -> Any:
    """The learner with `inner` for what the agent itself has learned."""
    if not isinstance(learner, Standardized | Distilled):
        return inner
    return learner._replace(inner=with_inner(learner.inner, inner))


def has_units(spec: Spec) -> bool:
    """Whether observations are vectors that may leave [-1, 1]; images, planes and codes need no scaling."""
    space = spec.obs
    if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        return False
    return bool(np.any(np.asarray(space.low) < -1.0) or np.any(np.asarray(space.high) > 1.0))


def seen(learner: Any, obs: Obs) -> Obs:
    """An observation as the agent sees it: scaled where its learner keeps statistics of observations.

    Args:
      learner: `Standardized` or not.
      obs: in the environment's units, [..., D] where it is scaled.
    """
    if not isinstance(learner, Standardized) or not isinstance(learner.obs, Running):
        return obs
    return standardize(learner.obs, obs)


def model_in_units(learned: LearnedModel, learner: Any, factor: Array | float = 1.0) -> LearnedModel:
    """An agent's model over its own states, as one of the environment: rewards and values in the environment's units.

    Args:
      learned: what the agent has learned; its states are no observations.
      learner: holds the statistics, if there are any: rewards of size "rms".
      factor: the agent's own, above 0, that rewards were multiplied by.
    """
    of = learner.reward if isinstance(learner, Standardized) else ()
    size = (root_mean_square(of) if isinstance(of, Running) else 1.0) / factor
    step, value = learned.model.step, learned.model.value

    def in_units(key: Key, state: State, action: Action) -> StepOut:
        out = step(key, state, action)
        return out._replace(reward=out.reward * size)

    scaled = None if value is None else (lambda key, state: size * value(key, state))
    model = learned.model._replace(step=in_units, value=scaled)
    return LearnedModel(model, lambda key, obs: learned.encode(key, seen(learner, obs)))


def open_loop_in_units(model: OpenLoopModel, learner: Any, *, decodes: bool = True) -> OpenLoopModel:
    """A model to look into that takes observations in the environment's units, and gives such.

    Args:
      model: of the agent behind the statistics.
      learner: that holds them; without any the model stays as it is.
      decodes: whether `decode` gives observations, and not what `show` gives of them.
    """
    if not isinstance(learner, Standardized) or not isinstance(learner.obs, Running):
        return model
    of = learner.obs

    def show(obs: Obs) -> Array:
        assert model.show is not None
        return model.show(seen(learner, obs))

    def decode(state: State) -> Array:
        out = model.decode(state)
        return out * deviation(of) + of.mean if decodes else out

    return model._replace(
        track=lambda key, obs, action: model.track(key, seen(learner, obs), action),
        decode=decode,
        show=None if model.show is None else show,
    )


def _scaled(
    rows: Any, of_obs: Running | tuple[()], of_reward: Running | tuple[()], size: Any, sizes: Any
) -> tuple[Any, Any, Any]:
    """Rows as the agent sees them, and the statistics with them.

    Args:
      rows: `Transition`s or `Step`s, with leading axes.
      of_obs, of_reward: statistics so far.
      size: (statistics of rewards) -> s.
      sizes: (rows) -> what `of_reward` is of.
    """
    if isinstance(of_reward, Running):
        of_reward = include(of_reward, jnp.reshape(sizes(rows), -1))
        rows = rows._replace(reward=rows.reward / size(of_reward))
    if isinstance(of_obs, Running):
        before = of_obs
        of_obs = include(of_obs, jnp.reshape(rows.obs, (-1, *before.mean.shape)))
        names = [name for name in ("obs", "next_obs") if name in rows._fields]
        rows = rows._replace(**{name: standardize(before, getattr(rows, name)) for name in names})
    return rows, of_obs, of_reward


def standardized(agent: Agent, spec: Spec, *, obs: bool, rewards: bool, returns: Array | float | None = None) -> Agent:
    """An agent that sees scaled observations and rewards; the agent itself where neither is asked for.

    Args:
      agent: its `update` samples `Transition`s or `Window`s.
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

    def sizes(rows: Any) -> Array:
        return rows.reward if returns is None else discounted_sums(rows.reward.astype(jnp.float32), rows.last, returns)

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

        def sample(key: Key, n: int) -> Transition | Window:
            batch: Transition | Window = replay.sample(key, n)
            rows: Any = batch.steps if isinstance(batch, Window) else batch
            rows, of_obs, of_reward = _scaled(rows, learner.obs, learner.reward, size, sizes)
            drawn.append((of_obs, of_reward))
            return batch._replace(steps=rows) if isinstance(batch, Window) else rows

        inner, metrics, feedback = agent.update(key, learner.inner, replay._replace(sample=sample))
        (of_obs, of_reward), *_ = drawn
        if isinstance(of_reward, Running):
            metrics = metrics | {"reward_scale": size(of_reward)}
        return Standardized(inner, of_obs, of_reward), metrics, feedback

    return Agent(init, agent.carry, act, update, agent.refresh, None if agent.follow is None else follow)
