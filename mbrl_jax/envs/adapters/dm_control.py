"""Tasks of the DeepMind Control Suite as a `HostEnv`; the only file that imports dm_control.

The observation is a vector: all entries of the task's dictionary, in its order. An episode ends with the discount that
`dm_env` gives: 0 where the task terminates, 1 at its time limit.
"""

from __future__ import annotations

import importlib
import math
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl_jax.envs.cameras import View, check_drawn, space_of, through
from mbrl_jax.envs.host import One, host_env, scaled
from mbrl_jax.envs.offscreen import offscreen

if TYPE_CHECKING:
    from mbrl_jax.core.types import HostEnv

INSTALL = "pip install 'mbrl_jax[dm-control]'"


def make(name: str, repeat: int = 1, view: View | None = None, camera: int = 0, **kwargs: Any) -> HostEnv:
    """A task of the suite.

    Args:
      name: "cartpole-swingup", domain and task.
      repeat: steps for which every action is repeated.
      view: pictures in place of the observation; None for the vector.
      camera: which of the task's cameras draws it.
      kwargs: of the task: `time_limit` in seconds and its own.
    Returns:
      the environment, with actions in [-1, 1].
    Raises:
      ValueError: dm_control is not installed or does not work with the mujoco there is, has no such task, or the task's
        actions are unbounded.
    """
    from mbrl_jax.core.types import Box, Spec

    env = _load(name, kwargs)
    try:
        action, entries = env.action_spec(), env.observation_spec()
        low, high = np.asarray(action.minimum), np.asarray(action.maximum)
        if not np.all(np.isfinite([low, high])):
            raise ValueError(f"env must have actions with finite bounds, those of {name} are in [{low}, {high}]")
        size = sum(int(np.prod(entry.shape)) for entry in entries.values())
        limit = env._step_limit  # steps; infinite where there is none
        suffix = ("" if view is None else view.suffix) + (f"-x{repeat}" if repeat > 1 else "")
        spec = Spec(
            obs=Box((size,)) if view is None else space_of(view),
            action=Box((int(np.prod(action.shape)),), -1.0, 1.0),
            time_limit=math.ceil(limit) if math.isfinite(limit) else None,
            terminates=_terminates(env.task),
            name=f"dm_control:{name}{suffix}",
        )
    finally:
        env.close()
    one = partial(make_one, name, kwargs, camera)
    if view is not None:
        one = partial(through, partial(make_one, name, kwargs, camera, (view.size, view.size)), view, False)
        check_drawn(one, spec.name)
    return host_env(spec, one, repeat, one)


def names() -> list[str]:
    """The names of the suite's tasks.

    Raises:
      ValueError: dm_control is not installed, or does not work with the mujoco there is.
    """
    return sorted(f"{domain}-{task}" for domain, task in _suite().ALL_TASKS)


def make_one(name: str, kwargs: dict[str, Any], camera: int = 0, size: tuple[int, int] = (240, 320)) -> One:
    """A task as a `One`.

    Args:
      name: domain and task, as for `make`.
      kwargs: of the task.
      camera: that draws it.
      size: height and width of its pictures.
    """
    env = _load(name, kwargs)
    action, names = env.action_spec(), list(env.observation_spec())

    def vector(timestep: Any) -> np.ndarray:
        return np.concatenate([np.ravel(timestep.observation[name]) for name in names])

    def reset(seed: int) -> np.ndarray:
        env.task.random.seed([seed >> 32, seed & 0xFFFFFFFF])
        return vector(env.reset())

    def step(action: Any) -> tuple[np.ndarray, float, float, bool]:
        timestep = env.step(action)
        return vector(timestep), timestep.reward, timestep.discount, timestep.last()

    def render() -> Any:
        return env.physics.render(*size, camera_id=camera)

    return One(reset, scaled(step, action.minimum, action.maximum, action.shape, action.dtype), env.close, render)


def _load(name: str, kwargs: dict[str, Any]) -> Any:
    suite = _suite()
    domain, _, task = name.partition("-")
    if (domain, task) not in suite.ALL_TASKS:
        known = sorted(f"{first}-{second}" for first, second in suite.ALL_TASKS)
        near = [entry for entry in known if entry.startswith(f"{domain}-")] or known
        raise ValueError(f"env must be a task of dm_control, one of {', '.join(near)}; got {name!r}")
    try:
        return suite.load(domain, task, task_kwargs=dict(kwargs))
    except TypeError as error:
        given = ", ".join(f"{key}={value}" for key, value in kwargs.items())
        raise ValueError(f"env {name} cannot be made with {given or 'no arguments'}: {error}") from error


def _suite() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where there is no display it tries the next way to draw
            offscreen()  # how to draw is settled at import
            return importlib.import_module("dm_control.suite")  # optional
    except ImportError as error:
        raise ValueError(f"dm_control's tasks need the dm_control package: {INSTALL}") from error
    except AttributeError as error:  # MuJoCo's structures are read by their names at import
        raise ValueError(
            f"dm_control does not work with this version of mujoco ({error}): {INSTALL} brings one that does"
        ) from error


def _terminates(task: Any) -> bool:
    """Whether a task has an end of its own, next to its time limit."""
    base = importlib.import_module("dm_control.rl.control").Task
    return type(task).get_termination is not base.get_termination
