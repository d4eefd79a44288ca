"""Brax (0.14 and later) environments as an `Env`; the only file that imports brax (`pip install 'mbrl_jax[brax]'`).

The environment under Brax's wrappers is adapted: it has no time limit and never resets, so `done` is a termination. The
limit of 1,000 steps that Brax trains with is added here, as a truncation. Actions are in [-1, 1], which Brax scales.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Box, Env, Key, Spec, tree
from mbrl_jax.core.types import Action, Obs, State
from mbrl_jax.envs import wrappers

STEPS = 1000
"""The time limit."""
NEVER_TERMINATES = frozenset({"fast", "halfcheetah", "humanoidstandup", "pusher", "reacher", "swimmer"})
"""Episodes of these end at the time limit alone."""


def make(name: str, backend: str | None = None, steps: int = STEPS, **settings: Any) -> Env:
    """A Brax environment by name.

    Args:
      name: "ant", "hopper" and so on.
      backend: "generalized", "spring", "positional" or "mjx"; the environment's own if None.
      steps: the time limit.
      settings: of the environment's constructor.
    Returns:
      the environment, its state that of Brax.
    Raises:
      ValueError: brax is not installed, or has no such environment.
    """
    envs = _envs()
    if name not in names():
        raise ValueError(f"env must be brax: and one of {', '.join(names())}, got {name!r}")
    inner = envs.get_environment(name, **settings, **({} if backend is None else {"backend": backend}))
    return wrappers.time_limit(adapt(inner, f"brax:{name}", name not in NEVER_TERMINATES), steps)


def names() -> list[str]:
    """The names of Brax's environments.

    Raises:
      ValueError: brax is not installed.
    """
    return sorted(_envs()._envs)


def adapt(inner: Any, name: str, terminates: bool) -> Env:
    """An environment with Brax's interface, `reset(rng)` and `step(state, action)`, as an `Env` without a time limit.

    Args:
      inner: the environment, without wrappers.
      name: of it.
      terminates: False where no state ends an episode.
    Returns:
      the environment. Of observations in a dict, those named "state" are taken, which are meant for the policy.
    """

    def observe(state: State) -> Obs:
        obs = state.obs["state"] if isinstance(state.obs, dict) else state.obs
        return jnp.asarray(obs, jnp.float32)

    def reset(key: Key) -> tuple[State, Obs]:
        state = _typed(inner.reset(key))
        return state, observe(state)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        del key
        old = jax.tree.map(lambda leaf: leaf.dtype, state)
        state = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), _typed(inner.step(state, action)), old)
        done = jnp.asarray(state.done, bool)
        return state, observe(state), jnp.asarray(state.reward, jnp.float32), 1.0 - done.astype(jnp.float32), done

    shape = jax.eval_shape(lambda: reset(jax.random.key(0)))[1].shape
    spec = Spec(Box(shape), Box((int(inner.action_size),), -1.0, 1.0), None, terminates, name)
    return Env(spec, reset, step, observe)


def _typed(state: State) -> State:
    """A state without weak types and numbers of Python."""
    return tree.strip_weak_types(jax.tree.map(jnp.asarray, state))


def _envs() -> Any:
    """Brax's module of environments."""
    try:
        return importlib.import_module("brax.envs")  # optional; this module has the same name, hence no statement
    except ImportError as error:
        raise ValueError("env: brax: needs the brax package, pip install 'mbrl_jax[brax]'") from error
