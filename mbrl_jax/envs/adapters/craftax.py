"""Craftax (1.6 and later) as an `Env`; the only file that imports craftax (`pip install 'mbrl_jax[craftax]'`).

The environments without auto-reset are adapted. In Craftax `done` includes the time limit; here the discount is 0 where
the game is over without it. Pictures are bytes, symbolic observations floats.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Box, Discrete, Env, Key, Spec, tree
from mbrl_jax.core.types import Action, Obs, State

NAMES = ("Craftax-Classic-Symbolic-v1", "Craftax-Classic-Pixels-v1", "Craftax-Symbolic-v1", "Craftax-Pixels-v1")


def make(name: str, **settings: Any) -> Env:
    """An environment of Craftax by name.

    Args:
      name: one of `NAMES`; "-v1" may be left out.
      settings: fields of its `EnvParams`: `max_timesteps` (10,000; 100,000 without Classic), `god_mode`, ...
    Returns:
      the environment, its state that of Craftax; its pictures are those of the version in pixels.
    Raises:
      ValueError: craftax is not installed, has no such environment, or no such setting.
    """
    full = name if name.endswith("-v1") else f"{name}-v1"
    if full not in NAMES:
        raise ValueError(f"env must be craftax: and one of {', '.join(NAMES)}, got {name!r}")
    craftax = _craftax("craftax.craftax_env")
    inner = craftax.make_craftax_env_from_name(full, auto_reset=False)
    params = inner.default_params
    for setting in settings:
        if not hasattr(params, setting):
            raise ValueError(f"{setting} is not a setting of {name}; known are {', '.join(vars(params))}")
    return adapt(inner, params.replace(**settings), f"craftax:{full}")


def names() -> list[str]:
    """The names of Craftax's environments."""
    return list(NAMES)


def adapt(inner: Any, params: Any, name: str) -> Env:
    """A Craftax environment without auto-reset as an `Env`; see `make`.

    Args:
      inner: the environment.
      params: its `EnvParams`.
      name: of it.
    """
    endless = params.replace(max_timesteps=np.iinfo(np.int32).max)
    pixels = "Pixels" in name

    def seen(obs: Array) -> Array:
        return jnp.round(255.0 * obs).astype(jnp.uint8) if pixels else obs.astype(jnp.float32)

    def observe(state: State) -> Obs:
        return seen(inner.get_obs(state))

    def reset(key: Key) -> tuple[State, Obs]:
        obs, state = inner.reset_env(key, params)
        state = tree.strip_weak_types(state)
        return state, seen(obs)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        obs, after, reward, done, _ = inner.step_env(key, state, action, params)
        after = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.asarray(old).dtype), after, state)
        over = inner.is_terminal(after, endless)
        return after, seen(obs), jnp.asarray(reward, jnp.float32), 1.0 - over.astype(jnp.float32), done

    shape = tuple(inner.observation_space(params).shape)
    obs = Box(shape, 0, 255, jnp.uint8) if pixels else Box(shape)
    spec = Spec(obs, Discrete(int(inner.num_actions)), int(params.max_timesteps), name=name)
    return Env(spec, reset, step, observe, _renderer("Classic" in name))


def _renderer(classic: bool) -> Any:
    """A function that draws a state, imported when it is first called."""
    home = "craftax.craftax_classic" if classic else "craftax.craftax"

    def render(state: State) -> Array:
        with jax.ensure_compile_time_eval():
            draw = _craftax(f"{home}.renderer").make_craftax_pixel_renderer(
                _craftax(f"{home}.constants").BLOCK_PIXEL_SIZE_IMG
            )
        return jnp.clip(jnp.round(draw(state)), 0, 255).astype(jnp.uint8)

    return render


def _craftax(module: str) -> Any:
    try:
        return importlib.import_module(module)  # optional; this module has the same name, hence no statement
    except ImportError as error:
        raise ValueError("env: craftax: needs the craftax package, pip install 'mbrl_jax[craftax]'") from error
