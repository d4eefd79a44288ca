"""Evaluation: complete episodes of the deterministic policy, with keys of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.precision import narrow_env
from mbrl_jax.core.types import Agent, Array, Env, Key, Tree


def evaluate(agent: Agent, env: Env, key: Key, learner: Tree, episodes: int) -> tuple[Array, Array]:
    """Plays complete episodes in parallel; each counts up to its own end.

    Args:
      agent: acts with `explore=False`.
      env: with a time limit, so that every episode ends.
      key: used once.
      learner: what the agent has learned.
      episodes: number of episodes, at least 0.
    Returns:
      returns [episodes], undiscounted; lengths [episodes] int32.
    Raises:
      ValueError: the environment has no time limit, and `episodes` is above 0.
    """
    if episodes == 0:
        return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.int32)
    env = narrow_env(env)
    limit = env.spec.time_limit
    if limit is None:
        raise ValueError(f"{env.spec.name} has no time limit: evaluation needs one (wrappers.time_limit adds it)")
    key_reset, key_steps = jax.random.split(key)
    state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, episodes))

    def one(i: Array, at: tuple) -> tuple:
        state, obs, carry, done, total, length = at
        keys = jax.random.split(jax.random.fold_in(key_steps, i), (episodes, 2))
        act = jax.vmap(lambda key, carry, obs: agent.act(key, learner, carry, obs, False))
        action, carry, _ = act(keys[:, 0], carry, obs)
        state, obs, reward, _, last = jax.vmap(env.step)(keys[:, 1], state, action)
        total = total + jnp.where(done, 0.0, reward)
        return state, obs, carry, done | last, total, length + (~done).astype(jnp.int32)

    def go_on(at: tuple) -> Array:
        i, (_, _, _, done, _, _) = at
        return (i < limit) & ~jnp.all(done)

    carry = tree.tile(agent.carry(), episodes)
    going, zero, none = jnp.zeros(episodes, bool), jnp.zeros(episodes, jnp.float32), jnp.zeros(episodes, jnp.int32)
    start = (state, obs, carry, going, zero, none)
    _, end = jax.lax.while_loop(go_on, lambda at: (at[0] + 1, one(at[0], at[1])), (jnp.int32(0), start))
    return end[4], end[5]
