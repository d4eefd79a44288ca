"""Evaluation: complete episodes with keys of their own, of the deterministic policy where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.precision import narrow_env
from mbrl_jax.core.types import Agent, Array, Env, Key, Tree


def evaluate(
    agent: Agent, env: Env, key: Key, learner: Tree, episodes: int, explore: bool = False
) -> tuple[Array, Array]:
    """Plays complete episodes in parallel; each counts up to its own end.

    Args:
      agent: acts.
      env: with a time limit, so that every episode ends.
      key: used once.
      learner: what the agent has learned.
      episodes: number of episodes, at least 0.
      explore: whether actions are drawn as in training.
    Returns:
      returns [episodes], undiscounted; lengths [episodes] int32.
    Raises:
      ValueError: the environment has no time limit, and `episodes` is above 0.
    """
    if episodes == 0:
        return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.int32)
    env = narrow_env(env)
    limit = _limit(env)
    start, one = _episodes(agent, env, key, learner, episodes, explore)

    def go_on(at: tuple) -> Array:
        i, (_, _, _, done, _, _) = at
        return (i < limit) & ~jnp.all(done)

    _, end = jax.lax.while_loop(go_on, lambda at: (at[0] + 1, one(at[0], at[1])), (jnp.int32(0), start))
    return end[4], end[5]


def film(
    agent: Agent, env: Env, key: Key, learner: Tree, episodes: int, shown: int, steps: int, explore: bool = False
) -> tuple[Array, Array]:
    """Pictures of the first of the episodes that `evaluate` plays with the same key.

    Args:
      agent, env, key, learner, episodes: as for `evaluate`; the environment has a `render`.
      shown: number of the episodes that are drawn, from 1 to `episodes`.
      steps: of each episode that are drawn, at most.
      explore: as for `evaluate`.
    Returns:
      frames [1 + steps, shown, H, W, 3] uint8, the first ones of the reset; lengths [shown] int32: frames of an episode
      after that of its last step mean nothing.
    Raises:
      ValueError: the environment has no time limit, or cannot be drawn.
    """
    env = narrow_env(env)
    if env.render is None:
        raise ValueError(f"{env.spec.name} cannot be drawn: its Env has no render")
    start, one = _episodes(agent, env, key, learner, episodes, explore)
    draw = jax.vmap(env.render)

    def first(state: Tree) -> Array:
        return draw(jax.tree.map(lambda leaf: leaf[:shown], state))

    def step(at: tuple, i: Array) -> tuple:
        at = one(i, at)
        return at, first(at[0])

    end, frames = jax.lax.scan(step, start, jnp.arange(min(steps, _limit(env)), dtype=jnp.int32))
    return jnp.concatenate([first(start[0])[None], frames]), end[5][:shown]


def _limit(env: Env) -> int:
    if env.spec.time_limit is None:
        raise ValueError(f"{env.spec.name} has no time limit: evaluation needs one (wrappers.time_limit adds it)")
    return env.spec.time_limit


def _episodes(agent: Agent, env: Env, key: Key, learner: Tree, episodes: int, explore: bool) -> tuple[tuple, Callable]:
    """The start of all episodes, and one step of all: (number of the step, before) -> after."""
    key_reset, key_steps = jax.random.split(key)
    state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, episodes))

    def one(i: Array, at: tuple) -> tuple:
        state, obs, carry, done, total, length = at
        keys = jax.random.split(jax.random.fold_in(key_steps, i), (episodes, 2))
        act = jax.vmap(lambda key, carry, obs: agent.act(key, learner, carry, obs, explore))
        action, carry, _ = act(keys[:, 0], carry, obs)
        state, obs, reward, _, last = jax.vmap(env.step)(keys[:, 1], state, action)
        total = total + jnp.where(done, 0.0, reward)
        return state, obs, carry, done | last, total, length + (~done).astype(jnp.int32)

    carry = tree.tile(agent.carry(), episodes)
    going, zero, none = jnp.zeros(episodes, bool), jnp.zeros(episodes, jnp.float32), jnp.zeros(episodes, jnp.int32)
    return (state, obs, carry, going, zero, none), one
