"""gymnax (1.0 and later) environments as an `Env`; the only file that imports gymnax.

gymnax's `step` resets by itself and returns the next episode's first observation. This adapter uses `step_env` and
`is_truncated` below it, so that the next observation is the true successor and the caller resets. In gymnax
`terminated` never includes the time limit, so `discount` is 0 at termination alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Box, Discrete, Env, Key, Space, Spec, tree
from mbrl_jax.core.types import Action, Obs, State

# Episodes of these end at the time limit alone.
NEVER_TERMINATES = frozenset(
    {
        "Pendulum-v1",
        "DiscountingChain-bsuite",
        "Freeway-MinAtar",
        "BernoulliBandit-misc",
        "GaussianBandit-misc",
        "PointRobot-misc",
        "Reacher-misc",
        "Swimmer-misc",
    }
)

# Observations of these are random, belong to the state before, or are not part of the state.
NOT_OBSERVABLE = frozenset({"UmbrellaChain-bsuite", "MemoryChain-bsuite", "MNISTBandit-bsuite"})

# gymnax declares 0 to 2 here; the bit to recall is -1 or 1.
OTHER_BOUNDS = {"MemoryChain-bsuite": (-1.0, 2.0)}


def make(name: str, **params: Any) -> Env:
    """A gymnax environment by its registered name.

    Gradients pass through the dynamics where gymnax supports it. The state is gymnax's own.

    Args:
      name: e.g. "Pendulum-v1".
      **params: settings of the environment by name: fields of its gymnax parameters (`max_steps_in_episode`) or
        arguments of its constructor (`is_slippery`).
    Returns:
      The environment, with the actual shape and dtype of its observations, and its time limit.
    Raises:
      ValueError: no environment of this name, no setting of that name, or a time limit below 1.
    """
    # gymnax mixes default and fixed dtypes, in constants of its modules too
    with jax.enable_x64(False), _imported_on_use("seaborn", "matplotlib", "matplotlib.colors", "matplotlib.pyplot"):
        import gymnax  # slow to import

    known = list(gymnax.registered_envs)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        raise ValueError(f"env must be one of {', '.join(known)}; got {name!r}{hint}")

    with jax.enable_x64(False), jax.ensure_compile_time_eval():  # bounds must be numbers, also inside a trace
        return _adapt(name, params)


class _OnUse(ModuleType):
    """A module that is imported when something is first read from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of it
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _imported_on_use(*names: str) -> Iterator[None]:
    """A context in which imports of these modules wait for their first use: gymnax's pictures need them, nothing else.

    They take longer to import than gymnax, and afterwards all is as if nobody had asked for them. A package comes
    before its modules.
    """
    absent = {name: _OnUse(name) for name in names if name not in sys.modules}
    for name, stand_in in absent.items():
        package, _, module = name.rpartition(".")
        if package in absent:
            setattr(absent[package], module, stand_in)
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name, stand_in in absent.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _adapt(name: str, settings: dict[str, Any]) -> Env:
    inner, params = _build(name, settings)
    if inner.supports_transition_gradients:
        inner = inner.with_transition_gradients()

    def reset(key: Key) -> tuple[State, Obs]:
        with jax.enable_x64(False):
            obs, state = inner.reset_env(key, params)
            return tree.strip_weak_types((state, obs))

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        with jax.enable_x64(False):
            obs, state, reward, terminated, _ = inner.step_env(key, state, action, params)
            state, obs = tree.strip_weak_types((state, obs))
            discount = 1.0 - jnp.asarray(terminated, jnp.float32)
            last = jnp.logical_or(terminated, inner.is_truncated(state, params))
            return state, obs, jnp.asarray(reward, jnp.float32), discount, last

    def observe(state: State) -> Obs:
        with jax.enable_x64(False):
            obs = inner.observe(jax.random.key(0), state, None, params)  # none of those allowed here uses the key
            return tree.strip_weak_types(obs)

    limit = int(params.max_steps_in_episode)
    if limit < 1:
        raise ValueError(f"max_steps_in_episode must be at least 1, got {limit}")
    obs = _space(inner.observation_space(params), jax.eval_shape(reset, jax.random.key(0))[1].dtype)
    if isinstance(obs, Box) and name in OTHER_BOUNDS:
        obs = obs._replace(low=OTHER_BOUNDS[name][0], high=OTHER_BOUNDS[name][1])
    spec = Spec(
        obs=obs,
        action=_space(inner.action_space(params)),
        time_limit=limit,
        terminates=name not in NEVER_TERMINATES,
        name=name,
    )
    return Env(spec, reset, step, None if name in NOT_OBSERVABLE else observe)


def _build(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """gymnax's environment and parameters with the settings in them."""
    import gymnax

    inner, params = gymnax.make(name)
    made = inspect.signature(type(inner)).parameters
    fields = [field.name for field in dataclasses.fields(params)]
    for setting in settings:
        if setting not in (*made, *fields):
            raise ValueError(f"{setting} is not a setting of {name}; known are {', '.join((*made, *fields))}")
    arguments = {k: v for k, v in settings.items() if k in made}
    if arguments:  # a new one, since its default parameters may depend on them
        inner, params = gymnax.make(name, **arguments)
    return inner, params.replace(**{k: v for k, v in settings.items() if k not in made})


def _space(space: Any, dtype: Any = None) -> Space:
    """A gymnax space as a `Space`; `dtype` is that of the actual arrays, where gymnax declares another."""
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return Box(tuple(space.shape), _bound(space.low), _bound(space.high), jnp.dtype(dtype or space.dtype))


def _bound(bound: Any) -> Any:
    """One float where all entries are equal, else an array; gymnax writes the largest float32 for no bound."""
    bound = np.asarray(bound, np.float32)
    largest = np.finfo(np.float32).max
    bound = np.where(bound >= largest, np.inf, np.where(bound <= -largest, -np.inf, bound))
    return float(bound.flat[0]) if np.all(bound == bound.flat[0]) else bound
