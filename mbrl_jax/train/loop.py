"""The compiled loop with two clocks: a slow one (`refresh`) around a fast one (collect, store, `update`).

A chunk is `cycles` turns of the slow clock; one turn is a `refresh` and then `inner` turns of the fast clock; one turn
of the fast clock takes `unroll` steps in each of `num_envs` environments, stores them, and calls `update` `updates`
times. All of it is nested scans: nothing is gated by a step counter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Buffer, Env, Key, Metrics, Transition, Tree
from mbrl_jax.train.evaluate import evaluate


@config
class LoopConfig:
    """The clocks, and what is stored."""

    num_envs: int = setting(default=1, low=1, help="environments side by side")
    unroll: int = setting(default=1, low=1, help="steps in each environment per turn of the fast clock")
    updates: int = setting(default=1, low=1, help="gradient updates per turn of the fast clock")
    inner: int = setting(default=50, low=1, help="turns of the fast clock per refresh")
    cycles: int = setting(default=5, low=1, help="refreshes per chunk; logs and checkpoints lie between chunks")
    warmup: int = setting(default=200, low=0, help="turns of uniformly random actions before learning starts")
    hold: int = setting(default=1, low=1, help="turns that each of those random actions is kept; more travels farther")
    eval_episodes: int = setting(default=10, low=0, help="deterministic evaluation episodes after every chunk")
    capacity: int = setting(default=10_000, low=1, help="transitions the buffer keeps")


class Actors(NamedTuple):
    """The environments, and where each one's episode stands."""

    env: Tree  # [N, ...]
    obs: Tree  # [N, ...]
    carry: Tree  # [N, ...]
    episode_return: Array  # [N]


class LoopState(NamedTuple):
    """All that continuing needs."""

    key: Key
    learner: Tree
    buffer: Tree
    actors: Actors


class Report(NamedTuple):
    """What a chunk tells: scalars averaged over it, and one deterministic evaluation at its end."""

    metrics: Metrics  # "return": mean of the training episodes that ended (NaN if none did); "episodes": how many
    returns: Array  # [eval_episodes]
    lengths: Array  # [eval_episodes] int32


class Loop(NamedTuple):
    """A training run as pure functions."""

    init: Callable[[Key], LoopState]  # warm-up included
    chunk: Callable[[LoopState], tuple[LoopState, Report]]
    train: Callable[[Key, int], tuple[LoopState, Report]]  # Report of [chunks, ...]; equals `init` and then `chunk`s


def env_steps(cfg: LoopConfig, chunks: int) -> int:
    """Real environment steps of one seed after the warm-up and `chunks` chunks; random steps count."""
    return (cfg.warmup + chunks * cfg.cycles * cfg.inner) * cfg.unroll * cfg.num_envs


def updates(cfg: LoopConfig, chunks: int) -> int:
    """Calls of `update` in one seed's first `chunks` chunks."""
    return chunks * cfg.cycles * cfg.inner * cfg.updates


def chunks_for(cfg: LoopConfig, steps: int) -> int:
    """The fewest chunks, at least 1, after which a seed has made `steps` real steps."""
    per_chunk = env_steps(cfg, 1) - env_steps(cfg, 0)
    return max(1, -(-(steps - env_steps(cfg, 0)) // per_chunk))


def make_loop(agent: Agent, env: Env, buffer: Buffer, cfg: LoopConfig, eval_env: Env | None = None) -> Loop:
    """Binds an agent, an environment and a buffer to one compiled loop over one seed; `vmap` it for more.

    Args:
      agent, env, buffer: what learns, where, and what keeps the experience.
      cfg: the clocks.
      eval_env: what evaluation episodes are played in, with the same observations and actions; `env` if None.
    Raises:
      ValueError: a setting out of its range, or evaluation in an environment without a time limit.
    """
    check(cfg, "loop.")
    played = env if eval_env is None else eval_env
    if cfg.eval_episodes and played.spec.time_limit is None:
        raise ValueError(f"loop.eval_episodes must be 0: {played.spec.name} has no time limit to end an episode")

    def collect(
        key: Key, learner: Tree, actors: Actors, random: bool, held: Key | None = None
    ) -> tuple[Actors, Transition, Metrics]:
        """One step in every environment, reset where an episode ended; a `held` key draws the random actions."""

        def one(key: Key, held: Key | None, env_state: Tree, obs: Tree, carry: Tree, so_far: Array) -> tuple:
            key_act, key_random, key_step, key_reset = jax.random.split(key, 4)
            action, new_carry, extras = agent.act(key_act, learner, carry, obs, True)
            if random:
                action = env.spec.action.sample(key_random if held is None else held)
            new_state, new_obs, reward, discount, last = env.step(key_step, env_state, action)
            row = Transition(obs, action, reward, discount, new_obs, last, extras)
            total = so_far + reward
            fresh = (*env.reset(key_reset), agent.carry(), jnp.zeros_like(total))
            going = (new_state, new_obs, new_carry, total)
            return Actors(*tree.where(last, fresh, going)), row, total

        keys = jax.random.split(key, cfg.num_envs)
        keys_held = None if held is None else jax.random.split(held, cfg.num_envs)
        actors, rows, totals = jax.vmap(one)(keys, keys_held, *actors)
        ended = rows.last.astype(jnp.float32)
        return actors, rows, {"ended": jnp.sum(ended), "ended_return": jnp.sum(ended * totals)}

    def gather(key: Key, state: LoopState, random: bool, held: Key | None = None) -> tuple[LoopState, Metrics]:
        """`unroll` steps in every environment, stored."""

        def one(actors: Actors, key: Key) -> tuple[Actors, tuple[Transition, Metrics]]:
            actors, rows, counts = collect(key, state.learner, actors, random, held)
            return actors, (rows, counts)

        actors, (trajectory, counts) = jax.lax.scan(one, state.actors, jax.random.split(key, cfg.unroll))
        state = state._replace(actors=actors, buffer=buffer.add(state.buffer, trajectory))
        return state, jax.tree.map(jnp.sum, counts)

    def learn(key: Key, state: LoopState) -> tuple[LoopState, Metrics]:
        """`updates` calls of the agent's `update`, their feedback written into the buffer."""

        def one(at: tuple[Tree, Tree], key: Key) -> tuple[tuple[Tree, Tree], Metrics]:
            learner, changing = at
            data = state.buffer if buffer.revise is None else changing
            learner, metrics, feedback = agent.update(key, learner, buffer.replay(data))
            if buffer.revise is not None:
                changing = buffer.revise(data, feedback)
            elif jax.tree.leaves(feedback):
                raise ValueError("the agent gives feedback for its buffer, but this buffer cannot be revised")
            return (learner, changing), metrics

        # A buffer that no one revises stays outside the scan's carry: it is read in place.
        start = (state.learner, () if buffer.revise is None else state.buffer)
        (learner, changing), metrics = jax.lax.scan(one, start, jax.random.split(key, cfg.updates))
        state = state._replace(learner=learner, buffer=state.buffer if buffer.revise is None else changing)
        return state, jax.tree.map(jnp.mean, metrics)

    def fast(state: LoopState, key: Key) -> tuple[LoopState, Metrics]:
        key_collect, key_learn = jax.random.split(key)
        state, counts = gather(key_collect, state, random=False)
        state, metrics = learn(key_learn, state)
        return state, {**metrics, **counts}

    def slow(state: LoopState, key: Key) -> tuple[LoopState, tuple[Metrics, Metrics]]:
        key_refresh, key_fast = jax.random.split(key)
        learner, refreshed = agent.refresh(key_refresh, state.learner, buffer.replay(state.buffer))
        state, metrics = jax.lax.scan(fast, state._replace(learner=learner), jax.random.split(key_fast, cfg.inner))
        return state, (metrics, refreshed)

    def init(key: Key) -> LoopState:
        key_learner, key_reset, key_warmup, key_run = jax.random.split(key, 4)
        learner = agent.init(key_learner)
        env_state, obs = jax.vmap(env.reset)(jax.random.split(key_reset, cfg.num_envs))
        carry = tree.tile(agent.carry(), cfg.num_envs)
        actors = tree.strip_weak_types(Actors(env_state, obs, carry, jnp.zeros(cfg.num_envs)))
        item = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], collect(key_run, learner, actors, True)[1]))
        state = LoopState(key_run, tree.strip_weak_types(learner), buffer.init(item), actors)

        key_turns, key_held = (key_warmup, None) if cfg.hold == 1 else jax.random.split(key_warmup)

        def one(state: LoopState, at: tuple[Array, Key]) -> tuple[LoopState, None]:
            turn, key = at
            held = None if key_held is None else jax.random.fold_in(key_held, turn // cfg.hold)
            return gather(key, state, True, held)[0], None

        return jax.lax.scan(one, state, (jnp.arange(cfg.warmup), jax.random.split(key_turns, cfg.warmup)))[0]

    def chunk(state: LoopState) -> tuple[LoopState, Report]:
        key, key_cycles, key_evaluate = jax.random.split(state.key, 3)
        state, (metrics, refreshed) = jax.lax.scan(slow, state, jax.random.split(key_cycles, cfg.cycles))
        ended, total = jnp.sum(metrics.pop("ended")), jnp.sum(metrics.pop("ended_return"))
        mean_return = jnp.where(ended > 0, total / jnp.maximum(ended, 1), jnp.nan)
        means = jax.tree.map(jnp.mean, {**metrics, **refreshed})
        returns, lengths = evaluate(agent, played, key_evaluate, state.learner, cfg.eval_episodes)
        report = Report({"return": mean_return, "episodes": ended, **means}, returns, lengths)
        return state._replace(key=key), report

    def train(key: Key, chunks: int) -> tuple[LoopState, Report]:
        return jax.lax.scan(lambda state, _: chunk(state), init(key), None, length=chunks)

    return Loop(init, chunk, train)
