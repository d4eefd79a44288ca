"""Environment wrappers: pure functions from one environment to another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Box, DictSpace, Discrete, Env, Key, MultiDiscrete, Space, images, tree
from mbrl_jax.core.types import Action, Obs, ObsSpace, State


def flatten(env: Env) -> Env:
    """Observations as float32 vectors, in row-major order.

    Args:
      env: an environment with `Box` observations.
    Returns:
      The same environment with observations [size].
    Raises:
      ValueError: the observations are discrete; `one_hot` is for those.
    """
    space = env.spec.obs
    if not isinstance(space, Box):
        hint = "; use one_hot" if isinstance(space, Discrete) else ""
        raise ValueError(f"flatten needs a Box of observations, {env.spec.name} has {space}{hint}")

    def bound(value: Any) -> Any:
        return value if np.ndim(value) == 0 else np.broadcast_to(np.asarray(value), space.shape).reshape(-1)

    flat = Box((space.size,), bound(space.low), bound(space.high), jnp.float32)
    return _map_obs(env, "flatten", flat, lambda obs: jnp.reshape(obs, -1).astype(jnp.float32))


def one_hot(env: Env) -> Env:
    """Discrete observations as one-hot float32 vectors.

    Args:
      env: an environment with `Discrete` or `MultiDiscrete` observations.
    Returns:
      The same environment with observations [n], of all entries one after the other.
    Raises:
      ValueError: the observations are not discrete.
    """
    space = env.spec.obs
    if isinstance(space, MultiDiscrete):
        return _map_obs(env, "one_hot", Box((space.size,), 0.0, 1.0), space.one_hot)
    if not isinstance(space, Discrete):
        raise ValueError(f"one_hot needs discrete observations, {env.spec.name} has {space}")
    return _map_obs(
        env, "one_hot", Box((space.n,), 0.0, 1.0), lambda obs: jax.nn.one_hot(obs, space.n, dtype=jnp.float32)
    )


def scale_action(env: Env) -> Env:
    """Continuous actions in [-1, 1], scaled to the environment's bounds.

        a = (high + low) / 2 + (high - low) / 2 · clip(u, -1, 1)

    Args:
      env: an environment with bounded `Box` actions.
    Returns:
      The same environment with actions u in [-1, 1].
    Raises:
      ValueError: the actions are discrete, or unbounded.
    """
    space, centre, half = _bounded(env, env.spec.action, "scale_action", "actions")

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        return env.step(key, state, (centre + half * jnp.clip(action, -1.0, 1.0)).astype(space.dtype))

    return env._replace(spec=env.spec._replace(action=Box(space.shape, -1.0, 1.0)), step=step)


def scale_obs(env: Env) -> Env:
    """Observations scaled to [-1, 1], each entry by its own bounds.

        o' = (o - (high + low) / 2) / ((high - low) / 2)

    Next to a position of ±1 a network hardly sees a velocity of ±0.07; scaled, it sees both.

    Args:
      env: an environment with bounded `Box` observations.
    Returns:
      The same environment with scaled observations.
    Raises:
      ValueError: the observations are not a Box, or unbounded, or an entry's bounds are equal.
    """
    space, centre, half = _bounded(env, env.spec.obs, "scale_obs", "observations")
    if not np.all(half > 0):
        raise ValueError(f"scale_obs needs bounds that differ, those of {env.spec.name}'s observations do not: {space}")
    return _map_obs(env, "scale_obs", Box(space.shape, -1.0, 1.0), lambda obs: (obs - centre) / half)


def repeat_action(env: Env, times: int) -> Env:
    """Repeats every action: fewer decisions, each with a longer effect.

        r = Σ_i r_i,   d = Π_i d_i,   up to the end of the episode

    A step of the result is one decision, up to `times` steps of `env`.

    Args:
      env: any environment.
      times: repetitions of each action, at least 1.
    Returns:
      The wrapped environment; its time limit is divided by `times`, rounded up.
    Raises:
      ValueError: `times` is below 1.
    """
    if times < 1:
        raise ValueError(f"repeat_action must be given at least 1, got {times}")

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        first = env.step(jax.random.fold_in(key, 0), state, action)

        def repeat(i: Array, sofar: tuple) -> tuple:
            state, _, reward, discount, last = sofar
            new_state, obs, new_reward, new_discount, ended = env.step(jax.random.fold_in(key, i), state, action)
            return tree.where(last, sofar, (new_state, obs, reward + new_reward, discount * new_discount, ended))

        return jax.lax.fori_loop(1, times, repeat, first)

    limit = env.spec.time_limit
    return env._replace(spec=env.spec._replace(time_limit=None if limit is None else -(-limit // times)), step=step)


class Timed(NamedTuple):
    """The state of an environment, and the steps taken in this episode."""

    inner: State
    time: Array  # [] int32


def time_limit(env: Env, steps: int) -> Env:
    """Truncates every episode after a number of steps: `last` is True from then on, `discount` is unchanged.

    Args:
      env: any environment.
      steps: the time limit, at least 1.
    Returns:
      The same environment with its state in a `Timed`; its time limit is the shorter of the two.
    Raises:
      ValueError: `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"time_limit must be at least 1 step, got {steps}")

    def reset(key: Key) -> tuple[Timed, Obs]:
        state, obs = env.reset(key)
        return Timed(state, jnp.zeros((), jnp.int32)), obs

    def step(key: Key, state: Timed, action: Action) -> tuple[Timed, Obs, Array, Array, Array]:
        inner, obs, reward, discount, last = env.step(key, state.inner, action)
        time = state.time + 1
        return Timed(inner, time), obs, reward, discount, last | (time >= steps)

    observe, inner_limit = env.observe, env.spec.time_limit
    render = env.render
    return Env(
        spec=env.spec._replace(time_limit=steps if inner_limit is None else min(steps, inner_limit)),
        reset=reset,
        step=step,
        observe=None if observe is None else lambda state: observe(state.inner),
        render=None if render is None else lambda state: render(state.inner),
    )


def grey(env: Env) -> Env:
    """Pictures in shades of grey: one channel in place of three (`core.images.grey`).

    Args:
      env: an environment observed as images [height, width, 3] of bytes.
    Returns:
      The same environment with observations [height, width, 1].
    Raises:
      ValueError: other observations.
    """
    space = _image(env, "grey")
    if space.shape[2] != 3:
        raise ValueError(f"grey needs images of 3 channels, {env.spec.name} has {space.shape[2]}")
    return _map_obs(env, "grey", Box((*space.shape[:2], 1), 0, 255, jnp.uint8), images.grey)


def resize(env: Env, height: int, width: int | None = None) -> Env:
    """Pictures of another size, each new pixel the mean of the area that it covers (`core.images.resize`).

    Args:
      env: an environment observed as images of bytes.
      height: of the new pictures, in pixels.
      width: likewise; the height if None.
    Returns:
      The same environment with observations [height, width, channels].
    Raises:
      ValueError: other observations, or a size below 1.
    """
    space = _image(env, "resize")
    width = height if width is None else width
    if min(height, width) < 1:
        raise ValueError(f"resize must be given sizes of at least 1, got {height} and {width}")
    new = Box((height, width, space.shape[2]), 0, 255, jnp.uint8)
    return _map_obs(env, "resize", new, lambda obs: images.resize(obs, height, width))


def by_leaf(env: Env, planes: bool = False) -> Env:
    """Observations that are a dict, each of its arrays in the form that networks take.

    Discrete ones become one-hot vectors; images stay, and planes where asked for; all others become float32 vectors.

    Args:
      env: an environment with `DictSpace` observations.
      planes: keep planes [height, width, channels] as they are.
    Raises:
      ValueError: other observations, or a dict within the dict.
    """
    space = env.spec.obs
    if not isinstance(space, DictSpace) or not space.spaces:
        raise ValueError(f"by_leaf needs observations that are a dict of arrays, {env.spec.name} has {space}")
    leaves = {name: _leaf(env, name, leaf, planes) for name, leaf in space.spaces.items()}

    def change(obs: Obs) -> Obs:
        if not isinstance(obs, dict) or set(obs) != set(leaves):
            got = sorted(obs) if isinstance(obs, dict) else f"a {type(obs).__name__}"
            raise ValueError(f"{env.spec.name}: observations must be a dict of {sorted(leaves)}, got {got}")
        return {name: function(obs[name]) for name, (_, function) in leaves.items()}

    new = DictSpace({name: leaf for name, (leaf, _) in leaves.items()})
    return _changed(env, new, change)


def _leaf(env: Env, name: str, space: Space, planes: bool) -> tuple[Box, Callable[[Array], Array]]:
    """The space of one array of a dict for a network, and the function into it."""
    if isinstance(space, Discrete):
        return Box((space.n,), 0.0, 1.0), lambda obs: jax.nn.one_hot(obs, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        return Box((space.size,), 0.0, 1.0), space.one_hot
    if not isinstance(space, Box):
        raise ValueError(f"{env.spec.name}: observation {name!r} must be an array, got {space}")
    if len(space.shape) == 1 or images.is_image(space) or (planes and len(space.shape) == 3):
        return space, lambda obs: obs
    return Box((space.size,)), lambda obs: jnp.reshape(obs, -1).astype(jnp.float32)


class Stacked(NamedTuple):
    """The state of an environment, and the newest frames of this episode."""

    inner: State
    frames: Array  # [k, height, width, channels], the oldest first


def frame_stack(env: Env, count: int) -> Env:
    """The last frames as one image, so that velocities show: channels of the oldest first.

    An episode starts with copies of its first frame.

    Args:
      env: an environment observed as images or planes [height, width, channels].
      count: k, number of frames, at least 1.
    Returns:
      The same environment with observations [height, width, k channels], its state in a `Stacked`.
    Raises:
      ValueError: other observations, or a count below 1.
    """
    space = env.spec.obs
    if not isinstance(space, Box) or len(space.shape) != 3:
        raise ValueError(f"frame_stack needs images [height, width, channels], {env.spec.name} has {space}")
    if count < 1:
        raise ValueError(f"frame_stack must be given at least 1 frame, got {count}")

    def bound(value: Any) -> Any:
        return value if np.ndim(value) == 0 else np.tile(np.broadcast_to(np.asarray(value), space.shape), count)

    def reset(key: Key) -> tuple[Stacked, Obs]:
        state, obs = env.reset(key)
        state = Stacked(state, jnp.stack([obs] * count))
        return state, images.stack(state.frames)

    def step(key: Key, state: Stacked, action: Action) -> tuple[Stacked, Obs, Array, Array, Array]:
        inner, obs, reward, discount, last = env.step(key, state.inner, action)
        state = Stacked(inner, jnp.concatenate([state.frames[1:], obs[None]]))
        return state, images.stack(state.frames), reward, discount, last

    shape = (*space.shape[:2], count * space.shape[2])
    spec = env.spec._replace(obs=Box(shape, bound(space.low), bound(space.high), space.dtype))
    render = env.render
    return Env(
        spec,
        reset,
        step,
        observe=lambda state: images.stack(state.frames),
        render=None if render is None else lambda state: render(state.inner),
    )


def reset_pool(env: Env, count: int, seed: int = 0) -> Env:
    """Episodes that start in one of `count` states, drawn once: for environments whose reset is dearer than a step.

    A compiled loop computes a reset in every step, as it cannot know before which episodes end. Craftax generates a map
    in 9 ms and takes a step in 2 ms: drawn from a pool, resets cost next to nothing.

    Args:
      env: any environment.
      count: initial states, at least 1; few of them make another task of one with many maps.
      seed: of the pool.
    Returns:
      The same environment; its pool is made when `reset` is first called, and a constant of the compiled program.
    Raises:
      ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"reset_pool needs at least 1 state, got {count}")

    @cache
    def pool() -> tuple[State, Obs]:
        with jax.ensure_compile_time_eval():
            keys = jax.random.split(jax.random.key(seed), count)
        # Compiled outside of that context, in which every constant of a reset would be a program of its own.
        return jax.jit(jax.vmap(env.reset)).lower(keys).compile()(keys)

    def reset(key: Key) -> tuple[State, Obs]:
        return tree.take(pool(), jax.random.randint(key, (), 0, count, jnp.int32))

    return env._replace(reset=reset)


def reveal_state(env: Env) -> Env:
    """An environment whose observation is its state, for planners that search the true dynamics.

    The spec keeps the environment's observation space, because no space describes a pytree.

    Args:
      env: any environment.
    """

    def reset(key: Key) -> tuple[State, Obs]:
        state, _ = env.reset(key)
        return state, state

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, _, reward, discount, last = env.step(key, state, action)
        return state, state, reward, discount, last

    return Env(env.spec, reset, step, lambda state: state, env.render)


def _image(env: Env, wrapper: str) -> Box:
    """The space of an environment's images; ValueError in the wrapper's name for any other observations."""
    space = env.spec.obs
    if not isinstance(space, Box) or not images.is_image(space):
        raise ValueError(f"{wrapper} needs images [height, width, channels] of bytes, {env.spec.name} has {space}")
    return space


def _bounded(env: Env, space: ObsSpace, wrapper: str, what: str) -> tuple[Box, np.ndarray, np.ndarray]:
    """A bounded box with its centre and half range; ValueError in the wrapper's name for any other space."""
    if not isinstance(space, Box):
        raise ValueError(f"{wrapper} needs a Box of {what}, {env.spec.name} has {space}")
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError(f"{wrapper} needs finite bounds, the {what} of {env.spec.name} are in [{low}, {high}]")
    return space, (high + low) / 2, (high - low) / 2


def _map_obs(env: Env, wrapper: str, space: Space, function: Callable[[Obs], Array]) -> Env:
    """The same environment with every observation changed; `space` describes the new ones.

    An observation that is no array of the shape that the environment's spec says is a ValueError in the wrapper's name.
    """
    if isinstance(env.spec.obs, DictSpace):
        raise ValueError(f"{wrapper} needs observations that are one array, {env.spec.name} has {env.spec.obs}")
    shape = env.spec.obs.shape

    def change(obs: Obs) -> Array:
        leaves = jax.tree.leaves(obs)
        if len(leaves) != 1 or leaves[0] is not obs:
            raise ValueError(
                f"{wrapper} needs observations that are one array, {env.spec.name} gave a {type(obs).__name__} of "
                f"{len(leaves)} arrays"
            )
        if jnp.shape(obs) != shape:
            raise ValueError(
                f"{wrapper} needs observations of shape {shape}, as the spec of {env.spec.name} says, "
                f"got {jnp.shape(obs)}"
            )
        return function(obs)

    return _changed(env, space, change)


def _changed(env: Env, space: ObsSpace, change: Callable[[Obs], Obs]) -> Env:
    """The same environment with every observation changed by a function into a space."""

    def reset(key: Key) -> tuple[State, Obs]:
        state, obs = env.reset(key)
        return state, change(obs)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, obs, reward, discount, last = env.step(key, state, action)
        return state, change(obs), reward, discount, last

    observe = env.observe
    return Env(
        spec=env.spec._replace(obs=space),
        reset=reset,
        step=step,
        observe=None if observe is None else lambda state: change(observe(state)),
        render=env.render,
    )
