"""Open-loop predictions of a world model beside a real episode, and its reconstruction of what it observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Agent, Array, Env, Key, Obs, State, Tree


class OpenLoopModel(NamedTuple):
    """A latent world model with its parameters inside, for looking at its predictions."""

    track: Callable[
        [Key, Obs, Action], State
    ]  # (key, observations [T, ...], actions [T, ...] taken there) -> states [T, ...]
    step: Callable[[Key, State, Action], State]  # (key, state, action) -> the next state, predicted
    decode: Callable[[State], Array]  # (state) -> an observation in its own units, or what `show` gives of one
    show: Callable[[Obs], Array] | None = None  # (observation) -> what to draw; None for the observation itself
    labels: tuple[str, ...] = ()  # names of the entries that `show` gives


class Imagination(NamedTuple):
    """A real episode from its start, with the model's reconstruction and predictions of it."""

    real: Array  # [T, ...] observations, or what `OpenLoopModel.show` gives of them
    rebuilt: Array  # [T, ...] decoded from the states that track them
    imagined: Array  # [N, T - context, ...] decoded from open-loop rollouts after the first `context`
    action: Action  # [T]
    length: Array  # [] int32: observations until the episode ended, at most T; ignore what follows


def imagine_episode(
    key: Key, agent: Agent, learner: Tree, env: Env, model: OpenLoopModel, context: int, horizon: int, samples: int
) -> Imagination:
    """Plays an episode, tracks it, and from step `context` on predicts it open loop from the actions taken.

    Args:
      key: used once.
      agent, learner: the policy, acting without exploration.
      env: the environment.
      model: the world model.
      context: observations that the model tracks first, at least 1.
      horizon: steps it then predicts, at least 1.
      samples: N sampled rollouts, at least 1.
    Returns:
      the T = context + horizon observations and actions of the episode, their reconstructions, and the N rollouts of
      the last `horizon` steps. After the episode's end the last observation repeats.
    Raises:
      ValueError: a number below 1.
    """
    _check(context, horizon, samples)
    key_reset, key_play, key_track, key_rollouts = jax.random.split(key, 4)
    state, obs = env.reset(key_reset)

    def play(at: tuple, i: Array) -> tuple[tuple, tuple[Obs, Action]]:
        state, obs, carry, ended, length = at
        key_act, key_step = jax.random.split(jax.random.fold_in(key_play, i))
        action, carry, _ = agent.act(key_act, learner, carry, obs, False)
        new_state, new_obs, _, _, last = env.step(key_step, state, action)
        state, next_obs = tree.where(ended, (state, obs), (new_state, new_obs))
        return (state, next_obs, carry, ended | last, length + ~ended), (obs, action)

    start = tree.strip_weak_types((state, obs, agent.carry(), jnp.zeros((), bool), jnp.int32(1)))
    (*_, length), (real, action) = jax.lax.scan(play, start, jnp.arange(context + horizon))
    return _imagined(key_track, key_rollouts, model, real, action, length, context, horizon, samples)


def imagine_recorded(
    key: Key, model: OpenLoopModel, real: Obs, action: Action, length: Array, context: int, horizon: int, samples: int
) -> Imagination:
    """The same of an episode that was played before, in an environment whose steps are Python say.

    Args:
      key: used once.
      model: the world model.
      real: [T, ...] observations, T = context + horizon; after the episode's end they mean nothing.
      action: [T, ...] taken there.
      length: [] observations until the episode ended, at most T.
      context, horizon, samples: as for `imagine_episode`.
    Raises:
      ValueError: a number below 1.
    """
    _check(context, horizon, samples)
    key_track, key_rollouts = jax.random.split(key)
    return _imagined(key_track, key_rollouts, model, real, action, length, context, horizon, samples)


def _check(context: int, horizon: int, samples: int) -> None:
    if min(context, horizon, samples) < 1:
        raise ValueError(f"context, horizon and samples must be at least 1, got {context}, {horizon} and {samples}")


def _imagined(
    key_track: Key, key_rollouts: Key, model: OpenLoopModel, real: Obs, action: Action, length: Array,
    context: int, horizon: int, samples: int,
) -> Imagination:  # fmt: skip
    """What a model makes of an episode."""
    states = model.track(key_track, real, action)

    def rollout(key: Key) -> Array:
        def step(state: State, at: tuple[Array, Action]) -> tuple[State, Array]:
            i, action = at
            state = model.step(jax.random.fold_in(key, i), state, action)
            return state, model.decode(state)

        actions = jax.tree.map(lambda leaf: leaf[context - 1 : -1], action)
        return jax.lax.scan(step, tree.take(states, context - 1), (jnp.arange(horizon), actions))[1]

    imagined = jax.vmap(rollout)(jax.random.split(key_rollouts, samples))
    rebuilt = jax.vmap(model.decode)(states)
    real = real if model.show is None else jax.vmap(model.show)(real)
    return Imagination(real, rebuilt, imagined, action, jnp.minimum(length, context + horizon))
