"""What a learner's world model makes of a real episode: it rebuilds what it sees, and imagines what it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Agent, Array, Env, Key, Obs, State, Tree


class OpenLoopModel(NamedTuple):
    """A latent world model with its parameters inside, as one who wants to look at it needs it."""

    track: Callable[[Key, Obs, Action], State]  # (key, observations [T], actions [T] taken there) -> states [T]
    step: Callable[[Key, State, Action], State]
    decode: Callable[[State], Array]  # an observation in its own units, or of `show`
    show: Callable[[Obs], Array] | None = None  # what is drawn of an observation, where that is not the observation
    labels: tuple[str, ...] = ()  # of the entries drawn, where they are not those of an observation


class Imagination(NamedTuple):
    """A real episode from its start, and the same as the model has it."""

    real: Array  # [T, ...] observations, or what the model shows of them
    rebuilt: Array  # [T, ...] decoded from the states that they led to
    imagined: Array  # [N, T - context, ...] decoded from lives that saw the first `context` of them
    action: Action  # [T]
    length: Array  # [] int32: observations before the episode ended, T at most; what follows is of no account


def imagine_episode(
    key: Key, agent: Agent, learner: Tree, env: Env, model: OpenLoopModel, context: int, horizon: int, samples: int
) -> Imagination:
    """Plays an episode with the learned policy, tracks it, and imagines on from `context` with the actions taken there.

    Args:
      key: used once.
      agent, learner: who plays, without exploring.
      env: where.
      model: what imagines.
      context: observations that the model sees before it imagines, at least 1.
      horizon: steps it imagines, at least 1.
      samples: N lives.
    Raises:
      ValueError: a number below 1.
    """
    if min(context, horizon, samples) < 1:
        raise ValueError(f"context, horizon and samples must be at least 1, got {context}, {horizon} and {samples}")
    key_reset, key_play, key_track, key_lives = jax.random.split(key, 4)
    state, obs = env.reset(key_reset)

    def one(at: tuple, i: Array) -> tuple[tuple, tuple[Obs, Action]]:
        state, obs, carry, ended, length = at
        key_act, key_step = jax.random.split(jax.random.fold_in(key_play, i))
        action, carry, _ = agent.act(key_act, learner, carry, obs, False)
        new_state, new_obs, _, _, last = env.step(key_step, state, action)
        state, after = tree.where(ended, (state, obs), (new_state, new_obs))
        return (state, after, carry, ended | last, length + ~ended), (obs, action)

    start = tree.strip_weak_types((state, obs, agent.carry(), jnp.zeros((), bool), jnp.int32(1)))
    (*_, length), (real, action) = jax.lax.scan(one, start, jnp.arange(context + horizon))
    states = model.track(key_track, real, action)

    def life(key: Key) -> Array:
        def step(state: State, at: tuple[Array, Action]) -> tuple[State, Array]:
            i, action = at
            state = model.step(jax.random.fold_in(key, i), state, action)
            return state, model.decode(state)

        actions = jax.tree.map(lambda leaf: leaf[context - 1 : -1], action)
        return jax.lax.scan(step, tree.take(states, context - 1), (jnp.arange(horizon), actions))[1]

    imagined = jax.vmap(life)(jax.random.split(key_lives, samples))
    rebuilt = jax.vmap(model.decode)(states)
    real = real if model.show is None else jax.vmap(model.show)(real)
    return Imagination(real, rebuilt, imagined, action, jnp.minimum(length, context + horizon))
