"""Observations as an environment gives them, in the form that an agent takes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Box, DictSpace, Discrete, MultiDiscrete, Obs, ObsSpace


def as_seen(obs: Obs, raw: ObsSpace, space: ObsSpace) -> Obs:
    """An observation in the form that an agent takes.

    Args:
      obs: as the environment gives it, or in that form already.
      raw: the environment's space.
      space: the agent's.
    Raises:
      ValueError: it is of neither shape.
    """
    if hasattr(obs, "legal"):  # a game's, with its mask
        return obs
    if isinstance(space, DictSpace):
        if not isinstance(obs, dict) or not isinstance(raw, DictSpace) or set(obs) != set(space.spaces):
            raise ValueError(f"obs must be a dict of {', '.join(sorted(space.spaces))}, got {_form(obs)}")
        return {name: as_seen(obs[name], raw.spaces[name], part) for name, part in space.spaces.items()}
    array = jnp.asarray(obs)
    if array.shape == space.shape and not (isinstance(raw, Discrete) and isinstance(space, Box) and space.shape == ()):
        return array.astype(space.dtype)
    if array.shape == raw.shape:
        if isinstance(raw, Discrete):
            return jax.nn.one_hot(array, raw.n, dtype=jnp.float32)
        if isinstance(raw, MultiDiscrete):
            return raw.one_hot(array)
        if isinstance(space, Box) and array.size == space.size:
            return array.reshape(space.shape).astype(space.dtype)
    forms = " or ".join(dict.fromkeys(str(list(part.shape)) for part in (raw, space)))
    raise ValueError(f"obs must be one observation of shape {forms}, got {_form(obs)}")


def _form(obs: Any) -> str:
    if isinstance(obs, dict):
        return f"a dict of {', '.join(map(str, sorted(obs)))}"
    return str(list(np.shape(obs))) if np.shape(obs) or np.isscalar(obs) else f"a {type(obs).__name__}"
