"""Gymnasium (1.0 and later) environments as a `HostEnv`; the only file that imports gymnasium.

`terminated` gives a discount of 0, `truncated` alone one of 1. An environment that is made here never resets by itself:
the next episode starts with a `reset` of its own, and `next_obs` is the true successor. A vector environment of the
user's must be in the mode SAME_STEP or DISABLED: in NEXT_STEP the step after an end is no transition.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl_jax.envs.host import One, host_env, layout, scaled, whole

if TYPE_CHECKING:
    from mbrl_jax.core.types import HostEnv, HostEnvs, HostStep, Space, Spec

INSTALL = "pip install 'mbrl_jax[gymnasium]'"

# Episodes of Gymnasium's own environments with these names end at the time limit alone, in every version.
NEVER_TERMINATES = frozenset({"Pendulum", "HalfCheetah", "Swimmer", "Reacher", "Pusher", "HumanoidStandup"})


def make(name: str, repeat: int = 1, **kwargs: Any) -> HostEnv:
    """An environment of Gymnasium's registry.

    Args:
      name: "Hopper-v5", or "my_package.my_module:MyEnv-v0", whose module is imported first.
      repeat: steps for which every action is repeated.
      kwargs: of `gymnasium.make`: `max_episode_steps`, `render_mode` and the environment's own.
    Returns:
      the environment, with actions in [-1, 1].
    Raises:
      ValueError: gymnasium is not installed, has no such environment, or its spaces cannot be handled.
    """
    gym = _gymnasium()
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the reader's modules lie there; a program's own folder comes first
    try:
        inner = gym.make(name, disable_env_checker=True, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"env {name} needs another package: {_line(error)} ({INSTALL} brings MuJoCo)") from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"env must be an environment of Gymnasium, got {name!r}: {_line(error)}") from error
    except Exception as error:
        given = ", ".join(f"{key}={value}" for key, value in kwargs.items())
        text = f"{type(error).__name__}: {_line(error)}"
        raise ValueError(f"env {name} cannot be made with {given or 'no arguments'}: {text}") from error
    own = str(getattr(inner.spec, "entry_point", "")).startswith("gymnasium.envs.")
    ends = not (own and name.partition("-v")[0] in NEVER_TERMINATES)
    repeated = f"-x{repeat}" if repeat > 1 else ""
    spec = _spec_and_close(inner, f"gymnasium:{name}{repeated}", ends)
    return host_env(spec, partial(make_one, partial(_make, name, kwargs)), repeat)


def from_env(factory: Callable[[], Any], name: str, repeat: int = 1) -> HostEnv:
    """A Gymnasium environment that a function makes.

    Args:
      factory: () -> gymnasium.Env, called for each copy. Processes need a function of a module.
      name: of the environment.
      repeat: steps for which every action is repeated.
    Raises:
      ValueError: its spaces cannot be handled.
    """
    return host_env(_spec_and_close(factory(), name, True), partial(make_one, factory), repeat)


def from_vector(factory: Callable[[int], Any], name: str) -> HostEnv:
    """Vector environments of the user's, in the mode SAME_STEP or DISABLED.

    Their episodes begin with their own random numbers; the seeds of the loop set those of the first ones alone. In
    SAME_STEP Gymnasium hands on the last observation uncopied, so single environments must not reuse their arrays.

    Args:
      factory: (count) -> gymnasium.vector.VectorEnv of as many environments.
      name: of the environment.
    Raises:
      ValueError: the mode is NEXT_STEP, or the spaces cannot be handled.
    """
    from mbrl_jax.core.types import HostEnv

    first = factory(1)
    try:
        spec = _spec(first, first.single_observation_space, first.single_action_space, name, True)
        _mode(first, name)
    finally:
        first.close()
    return HostEnv(spec, lambda count, workers=0: _vector(factory(count), spec, count))


def make_one(factory: Callable[[], Any]) -> One:
    """A Gymnasium environment as a `One`.

    Args:
      factory: () -> gymnasium.Env.
    """
    env = factory()
    origin = _origin(env.observation_space)

    def reset(seed: int) -> Any:
        return origin(env.reset(seed=seed)[0])

    def step(action: Any) -> tuple[Any, float, float, bool]:
        obs, reward, terminated, truncated, _ = env.step(action)
        return origin(obs), reward, 0.0 if terminated else 1.0, bool(terminated or truncated)

    return One(reset, _actions(step, env.action_space), env.close, env.render)


def _gymnasium() -> Any:
    try:
        return importlib.import_module("gymnasium")  # optional
    except ImportError as error:
        raise ValueError(f"gymnasium environments need the gymnasium package: {INSTALL}") from error


def _make(name: str, kwargs: dict[str, Any]) -> Any:
    return _gymnasium().make(name, disable_env_checker=True, **kwargs)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _spec_and_close(env: Any, name: str, terminates: bool) -> Spec:
    try:
        return _spec(env, env.observation_space, env.action_space, name, terminates)
    finally:
        if hasattr(env, "close"):
            env.close()


def _spec(env: Any, observations: Any, actions: Any, name: str, terminates: bool) -> Spec:
    """What agents need to know; actions in [-1, 1]."""
    from mbrl_jax.core.types import Box, Discrete, Spec

    kind = type(actions).__name__
    if kind == "Discrete":
        action: Space = Discrete(int(actions.n))
    elif kind == "Box":
        if not np.all(np.isfinite(actions.low)) or not np.all(np.isfinite(actions.high)):
            raise ValueError(
                f"env must have actions with finite bounds, those of {name} are in [{actions.low}, {actions.high}]; "
                "give its action space bounds, or wrap it in one that clips (gymnasium.wrappers.TransformAction)"
            )
        action = Box((int(np.prod(actions.shape)),), -1.0, 1.0)
    else:
        raise ValueError(f"env must have Box or Discrete actions, {name} has {kind}")
    limit = _limit(env)
    return Spec(_observations(observations, name), action, None if limit is None else int(limit), terminates, name)


def _limit(env: Any) -> int | None:
    """Steps after which an episode is truncated: of the registered environment, or of a `TimeLimit` around it."""
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    while limit is None and env is not None:
        fields = getattr(env, "__dict__", {})  # wrappers pass on what they do not have themselves
        limit, env = fields.get("_max_episode_steps"), fields.get("env")
    return limit


def _observations(space: Any, name: str) -> Space:
    from mbrl_jax.core.types import Box, Discrete

    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "MultiBinary":
        return Box(tuple(space.shape), 0.0, 1.0)
    if kind != "Box":
        raise ValueError(
            f"env must have Box, Discrete or MultiBinary observations, {name} has {kind}; "
            "gymnasium.wrappers.FlattenObservation makes one array of them"
        )
    dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
    return Box(tuple(space.shape), _bound(space.low), _bound(space.high), dtype)


def _bound(bound: Any) -> Any:
    """One float where all entries are equal, else an array."""
    bound = np.asarray(bound, np.float32)
    return float(bound.flat[0]) if bound.size and np.all(bound == bound.flat[0]) else bound


def _origin(space: Any) -> Callable[[Any], Any]:
    """Numbers observations from 0 on."""
    start = int(getattr(space, "start", 0)) if type(space).__name__ == "Discrete" else 0
    return (lambda obs: obs - start) if start else lambda obs: obs


def _actions(step: Callable[[Any], Any], space: Any) -> Callable[[Any], Any]:
    """A `step` that takes the actions of agents: numbers from 0 on, or vectors in [-1, 1]."""
    if type(space).__name__ == "Discrete":
        start = int(space.start)
        return lambda action: step(int(action) + start)
    return scaled(step, space.low, space.high, space.shape, space.dtype)


def _mode(env: Any, name: str) -> str:
    """SAME_STEP or DISABLED, the autoreset mode of a vector environment."""
    mode = env.metadata.get("autoreset_mode")
    mode = getattr(mode, "name", None)
    if mode not in ("SAME_STEP", "DISABLED"):
        raise ValueError(
            f"env {name} must be made with autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP (or DISABLED), "
            f"got {mode}: after an end its next step would be no transition"
        )
    return mode


def _vector(env: Any, spec: Spec, count: int) -> HostEnvs:
    from mbrl_jax.core.types import EnvironmentFailed, HostEnvs, HostStep

    form, origin, mode = layout(spec.obs), _origin(env.single_observation_space), _mode(env, spec.name)
    if env.num_envs != count:
        env.close()
        raise ValueError(f"env {spec.name} must have as many environments as asked for, {count}, got {env.num_envs}")
    take = lambda obs: np.array(origin(obs), form.dtype)  # noqa: E731, a copy: vector environments reuse their arrays
    steps = 0

    def checked(obs: Any) -> Any:
        if obs.shape != (count, *form.shape):
            what = f"the observation must have shape {form.shape}, as the space says, got {obs.shape[1:]}"
            raise EnvironmentFailed(spec.name, 0, steps, what)
        bad = np.isnan(obs.reshape(count, -1)).any(axis=1) if obs.dtype.kind == "f" else np.zeros(count, bool)
        if bad.any():
            raise EnvironmentFailed(spec.name, int(bad.argmax()), steps, "the observation is NaN")
        return obs

    def guarded(what: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:
            raise EnvironmentFailed(
                spec.name, 0, steps, f"{what} raised {type(error).__name__}: {_line(error)}"
            ) from error

    def reset(seeds: Any) -> Any:
        return checked(take(guarded("reset", lambda: env.reset(seed=whole(seeds))[0])))

    def advance(actions: Any) -> HostStep:
        out = guarded("step", lambda: env.step(actions))
        obs, reward, terminated, truncated = checked(take(out[0])), *out[1:4]
        last, following = np.logical_or(terminated, truncated), obs
        reward = np.array(reward, np.float32)
        if np.isnan(reward).any():
            raise EnvironmentFailed(spec.name, int(np.isnan(reward).argmax()), steps, "reward is NaN")
        if last.any() and mode == "SAME_STEP":
            following = obs.copy()
            for i in np.flatnonzero(last):
                following[i] = take(out[4]["final_obs"][i])
            checked(following)
        elif last.any():
            obs = checked(take(guarded("reset", lambda: env.reset(options={"reset_mask": last})[0])))
        return HostStep(obs, reward, np.where(terminated, 0, 1).astype(np.float32), last, following)

    turned = _vector_actions(advance, env.single_action_space, count)

    def step(actions: Any, seeds: Any, active: Any = None) -> HostStep:
        nonlocal steps
        del seeds, active
        steps += 1
        return turned(actions)

    return HostEnvs(reset, step, env.close, None)


def _vector_actions(step: Callable[[Any], Any], space: Any, count: int) -> Callable[[Any], Any]:
    if type(space).__name__ == "Discrete":
        return lambda actions: step(np.asarray(actions, space.dtype) + space.start)
    return scaled(step, space.low, space.high, (count, *space.shape), space.dtype)
