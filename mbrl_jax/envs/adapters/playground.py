"""MuJoCo Playground (0.2 and later) as an `Env`; the only file that imports it (`pip install 'mbrl_jax[playground]'`).

The environment under Playground's wrappers is adapted: it has no time limit and never resets, so `done` is a
termination. Time limit and action repeat are those of the environment's own config. Physics run in MJX's JAX
implementation, on any device; Playground's default, Warp, needs CUDA. Actions are in [-1, 1], as Playground trains.

Robots need models that Playground downloads when one of them is first made; the control suite is there as it is.
"""

from __future__ import annotations

import importlib
import subprocess
from typing import Any

from mbrl_jax.core import Env
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.adapters.brax import adapt


def make(name: str, impl: str = "jax", **changes: Any) -> Env:
    """An environment of Playground by name.

    Args:
      name: "CartpoleSwingup", "CheetahRun" and so on.
      impl: of MJX: "jax" or "warp".
      changes: to the environment's config, by name.
    Returns:
      the environment, its state that of Playground.
    Raises:
      ValueError: playground is not installed, has no such environment, or has to download models and cannot.
    """
    registry = _registry()
    if name not in registry.ALL_ENVS:
        raise ValueError(f"env must be playground: and one of {', '.join(names())}, got {name!r}")
    try:
        inner = registry.load(name, config_overrides={"impl": impl, **changes})
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"env: playground:{name} needs models that cannot be downloaded: {error}") from error
    config = inner._config  # Playground offers no other way to it
    suite = name in registry.dm_control_suite.ALL_ENVS  # terminates where the physics have failed alone
    env = wrappers.time_limit(adapt(inner, f"playground:{name}", terminates=not suite), int(config.episode_length))
    repeat = int(config.action_repeat)
    return wrappers.repeat_action(env, repeat) if repeat > 1 else env


def names() -> list[str]:
    """The names of Playground's environments.

    Raises:
      ValueError: playground is not installed.
    """
    return sorted(_registry().ALL_ENVS)


def _registry() -> Any:
    """Playground's registry."""
    try:
        return importlib.import_module("mujoco_playground").registry
    except ImportError as error:
        raise ValueError("env: playground: needs the playground package, pip install 'mbrl_jax[playground]'") from error
