"""Evaluation in environments whose steps are Python: the same episodes, returns and films as `train.evaluate` gives.

Acting is one compiled program; between its calls the environments step, side by side. An episode ends in its last
observation: no next one is begun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Agent, Array, HostEnv, HostEnvs, Key, Obs, Tree


class Recorded(NamedTuple):
    """An episode from its start, as NumPy arrays."""

    obs: Obs  # [T, ...]; after the episode's end the last observation repeats
    action: Action  # [T, ...]
    length: int  # observations until the episode ended, at most T


def episode_seeds(keys: Key) -> Array:
    """Keys [...] as seeds of episodes, [..., 2] uint32."""
    return jax.random.key_data(keys)[..., :2]


def actors(agent: Agent, episodes: int, explore: bool = False) -> tuple[Callable, Callable]:
    """The compiled parts of an evaluation, of one learner.

    Args:
      agent: acts.
      episodes: E, number of episodes side by side.
      explore: whether actions are drawn as in training.
    Returns:
      (key) -> key of the steps, seeds [E, 2] of the episodes, carry [E, ...];
      (learner, carry, obs [E, ...], key of the steps, number of the step) -> action [E, ...], carry.
    """

    def begin(key: Key) -> tuple:
        key_reset, key_steps = jax.random.split(key)
        return key_steps, episode_seeds(jax.random.split(key_reset, episodes)), tree.tile(agent.carry(), episodes)

    def act(learner: Tree, carry: Tree, obs: Obs, key: Key, i: Array) -> tuple:
        keys = jax.random.split(jax.random.fold_in(key, i), (episodes, 2))
        one = jax.vmap(lambda key, carry, obs: agent.act(key, learner, carry, obs, explore))
        action, carry, _ = one(keys[:, 0], carry, obs)
        return action, carry

    return begin, act


def play(
    act: Callable, learner: Tree, begun: tuple, envs: HostEnvs, limit: int, watch: Callable[[Any], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Complete episodes, each counted up to its own end.

    Args:
      act: the second of `actors`; all arguments but the number of the step may have a leading axis of seeds.
      learner: what the agent has learned.
      begun: what the first of `actors` gave.
      envs: as many as there are episodes, those of all seeds one after the other.
      limit: steps after which every episode has ended.
      watch: is called after the reset and after every step, with the episodes that go on, bool, as `seeds` is shaped.
    Returns:
      returns, undiscounted, and lengths in steps, int32, both in the shape of the episodes: [E], or [seeds, E].
    """
    key_steps, seeds, carry = begun
    shape, flat_seeds = np.shape(seeds)[:-1], np.asarray(seeds).reshape(-1, 2)

    def shaped(leaves: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), leaves)

    total, length, done = np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    obs = shaped(envs.reset(flat_seeds))
    if watch is not None:
        watch(~done)
    for i in range(limit):
        action, carry = act(learner, carry, obs, key_steps, np.int32(i))
        flat = np.nan_to_num(np.asarray(action)).reshape(-1, *action.shape[len(shape) :])
        step = shaped(envs.step(flat, None, ~done.reshape(-1)))
        total += np.where(done, np.float32(0), step.reward)
        length += ~done
        if watch is not None:
            watch(~done)
        done, obs = done | step.last, step.obs
        if done.all():
            break
    return total, length


def evaluate_host(
    agent: Agent,
    env: HostEnv,
    key: Key,
    learner: Tree,
    episodes: int,
    *,
    workers: int = 0,
    shown: int = 0,
    steps: int = 0,
    compiled: tuple[Callable, Callable] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[list[Any]]]:
    """Plays complete episodes side by side, and draws some of them.

    Args:
      agent: acts.
      env: with a time limit, so that every episode ends.
      key: used once.
      learner: what the agent has learned.
      episodes: number of episodes, at least 0.
      workers: processes that share the environments; 0 steps them in this one.
      shown: number of the episodes, from the first on, that are drawn.
      steps: of each episode that are drawn, at most.
      compiled: what `actors` gives, each part under `jit`; those of the deterministic policy if None.
    Returns:
      returns [episodes], undiscounted; lengths [episodes] int32; of each episode shown its frames, uint8 [H, W, 3],
      the first one of the reset.
    Raises:
      ValueError: the environment has no time limit and `episodes` is above 0, or it cannot be drawn.
      EnvironmentFailed: the environment cannot go on.
    """
    films: list[list[Any]] = [[] for _ in range(shown)]
    if episodes == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int32), films
    if env.spec.time_limit is None:
        raise ValueError(f"{env.spec.name} has no time limit: evaluation needs one")
    if shown and not env.drawable:
        raise ValueError(f"{env.spec.name} cannot be drawn: one of Gymnasium needs the render mode rgb_array")
    begin, act = compiled or (jax.jit(part) for part in actors(agent, episodes))
    envs = env.make(episodes, workers, shown > 0)

    def watch(going: np.ndarray) -> None:
        for i, frames in enumerate(films):
            if going[i] and len(frames) <= steps:
                frames.append(picture(envs, env.spec.name, i))

    try:
        return *play(act, learner, begin(key), envs, env.spec.time_limit, watch if shown else None), films
    finally:
        envs.close()


def picture(envs: HostEnvs, name: str, i: int) -> np.ndarray:
    """A picture of one of several environments.

    Args:
      envs: made to be drawn.
      name: of the environment, for messages.
      i: which of them.
    Returns:
      uint8 [H, W, 3].
    Raises:
      ValueError: it has no picture.
    """
    drawn: Any = None if envs.render is None else envs.render(i)
    if np.ndim(drawn) != 3 or np.shape(drawn)[2] != 3 or np.asarray(drawn).dtype != np.uint8:
        got = "nothing" if drawn is None else f"a {type(drawn).__name__} of shape {list(np.shape(drawn))}"
        raise ValueError(f"{name} cannot be drawn: its render must give uint8 [H, W, 3], got {got}")
    return np.array(drawn)


def record(agent: Agent, env: HostEnv, key: Key, learner: Tree, steps: int) -> Recorded:
    """Plays one episode of the deterministic policy.

    Args:
      agent: acts with `explore=False`.
      env: any host environment.
      key: used once.
      learner: what the agent has learned.
      steps: T, observations and actions to record, at least 1.
    Returns:
      the first `steps` observations, and the actions taken there.
    Raises:
      EnvironmentFailed: the environment cannot go on.
    """
    begin, act = (jax.jit(part) for part in actors(agent, 1))
    key_steps, seeds, carry = begin(key)
    envs, seen, taken, length, done = env.make(1, 0), [], [], 1, False
    try:
        obs = envs.reset(np.asarray(seeds))
        for i in range(steps):
            action, carry = act(learner, carry, obs, key_steps, np.int32(i))
            seen.append(jax.tree.map(lambda leaf: np.array(leaf[0]), obs))
            taken.append(jax.tree.map(lambda leaf: np.array(leaf[0]), action))
            if not done and i + 1 < steps:
                out = envs.step(np.nan_to_num(np.asarray(action)), None, None)
                obs, done, length = out.next_obs, bool(out.last[0]), length + 1
    finally:
        envs.close()
    rows = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *zip(seen, taken, strict=True))
    return Recorded(rows[0], rows[1], length)
