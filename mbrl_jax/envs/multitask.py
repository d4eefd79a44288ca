"""Several environments as one, for a multi-task agent (Hansen et al. 2024, section 3.3).

Observations and actions are padded to the widest, and an observation ends with the one-hot code of its task:

    o = [o_k, 0, ..., 0, one-hot(k)],    the first entries of an action are those of task k
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Array, Box, Env, Key, Spec, State


class Tasks(NamedTuple):
    """What an agent must know of the tasks in an environment."""

    masks: np.ndarray  # [K, A] 1 for the action entries that a task uses
    limits: tuple[int | None, ...]  # [K] steps after which an episode is cut off


class MultitaskState(NamedTuple):
    """The states of all tasks, only one of which is played in an episode."""

    task: Array  # [] int32
    states: tuple[State, ...]


def multitask(envs: Sequence[Env], only: int | None = None) -> tuple[Env, Tasks]:
    """One environment that plays a randomly drawn task in each episode.

    All tasks are stepped and one is selected, which costs little compared with a network.

    Args:
      envs: tasks with vector observations, and vector actions in [-1, 1].
      only: number of the only task to play, in the same form, for evaluation; None for all.
    Returns:
      the environment, and what an agent must know of its tasks.
    Raises:
      ValueError: no tasks, `only` out of range, or a task with other observations or actions.
    """
    if not envs or (only is not None and not 0 <= only < len(envs)):
        raise ValueError(f"only must be one of {len(envs)} tasks, got {only}" if envs else "there must be a task")
    sizes, actions = map(list, zip(*map(_sizes, envs), strict=True))
    count = len(envs)
    width, num_actions = max(sizes), max(actions)
    limits = tuple(env.spec.time_limit for env in envs)
    spec = Spec(
        Box((width + count,)),
        Box((num_actions,), -1.0, 1.0),
        None if None in limits else max(limit for limit in limits if limit is not None),
        any(env.spec.terminates for env in envs),
        " + ".join(env.spec.name for env in envs),
    )

    def select(task: Array, every: Sequence[Array]) -> Array:
        return jnp.stack([jnp.asarray(one, jnp.float32) for one in every])[task]

    def padded(task: Array, every: Sequence[Array]) -> Array:
        wide = [jnp.pad(jnp.asarray(obs, jnp.float32), (0, width - obs.shape[0])) for obs in every]
        return jnp.concatenate([select(task, wide), jax.nn.one_hot(task, count, dtype=jnp.float32)])

    def reset(key: Key) -> tuple[MultitaskState, Array]:
        key_task, key_reset = jax.random.split(key)
        task = jax.random.randint(key_task, (), 0, count) if only is None else jnp.int32(only)
        keys = jax.random.split(key_reset, count)
        every = [env.reset(keys[k]) for k, env in enumerate(envs)]
        return MultitaskState(task, tuple(state for state, _ in every)), padded(task, [obs for _, obs in every])

    def step(key: Key, state: MultitaskState, action: Array) -> tuple[MultitaskState, Array, Array, Array, Array]:
        keys = jax.random.split(key, count)
        every = [
            env.step(keys[k], state.states[k], action[: actions[k]].astype(env.spec.action.dtype))
            for k, env in enumerate(envs)
        ]
        states, obs, rewards, discounts, lasts = zip(*every, strict=True)
        at = state.task
        last = jnp.stack([jnp.asarray(last, bool) for last in lasts])[at]
        return MultitaskState(at, states), padded(at, obs), select(at, rewards), select(at, discounts), last

    return Env(spec, reset, step), Tasks(_masks(actions, num_actions), limits)


def _sizes(env: Env) -> tuple[int, int]:
    """Dimensions of observation and action."""
    obs, action = env.spec.obs, env.spec.action
    if not isinstance(obs, Box) or not isinstance(action, Box) or not len(obs.shape) == len(action.shape) == 1:
        raise ValueError(f"{env.spec.name}: observations and actions must be vectors, got {obs} and {action}")
    if np.any(np.asarray(action.low) != -1) or np.any(np.asarray(action.high) != 1):
        raise ValueError(f"{env.spec.name}: actions must be a vector in [-1, 1] (wrappers.scale_action), got {action}")
    return obs.size, action.size


def _masks(actions: Sequence[int], width: int) -> np.ndarray:
    """[K, width] 1 for the first `actions[k]` entries of row k."""
    return (np.arange(width) < np.asarray(actions)[:, None]).astype(np.float32)
