"""Gymnasium (1.0 and later) environments as a `HostEnv`; the only file that imports gymnasium.

`terminated` gives a discount of 0, `truncated` alone one of 1. An environment that is made here never resets by itself:
the next episode starts with a `reset` of its own, and `next_obs` is the true successor. A vector environment of the
user's must be in the mode SAME_STEP or DISABLED: in NEXT_STEP the step after an end is no transition.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrl_jax.envs.cameras import View, check_drawn, space_of, through
from mbrl_jax.envs.host import Leaf, One, host_env, layout, scaled, whole
from mbrl_jax.envs.offscreen import offscreen

if TYPE_CHECKING:
    from mbrl_jax.core.types import HostEnv, HostEnvs, HostStep, ObsSpace, Space, Spec

INSTALL, ATARI = "pip install 'mbrl_jax[gymnasium]'", "pip install 'mbrl_jax[atari]'"

# Episodes of Gymnasium's own environments with these names end at the time limit alone, in every version.
NEVER_TERMINATES = frozenset({"Pendulum", "HalfCheetah", "Swimmer", "Reacher", "Pusher", "HumanoidStandup"})


def make(name: str, repeat: int = 1, view: View | None = None, **kwargs: Any) -> HostEnv:
    """An environment of Gymnasium's registry.

    Args:
      name: "Hopper-v5", or "my_package.my_module:MyEnv-v0", whose module is imported first.
      repeat: steps for which every action is repeated.
      view: pictures in place of the observation, from its `render` or of the pictures that it gives; None for the
        observation.
      kwargs: of `gymnasium.make`: `max_episode_steps`, `render_mode` and the environment's own.
    Returns:
      the environment, with actions in [-1, 1].
    Raises:
      ValueError: gymnasium is not installed, has no such environment, or its spaces cannot be handled.
    """
    from mbrl_jax.core.images import is_image

    gym = _gymnasium()
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the reader's modules lie there; a program's own folder comes first
    inner = _first(gym, name, kwargs)
    own = str(getattr(inner.spec, "entry_point", "")).startswith("gymnasium.envs.")
    ends = not (own and name.partition("-v")[0] in NEVER_TERMINATES)
    suffix = ("" if view is None else view.suffix) + (f"-x{repeat}" if repeat > 1 else "")
    modes, mujoco = _modes(inner), hasattr(inner.unwrapped, "mujoco_renderer")
    spec = _spec_and_close(inner, f"gymnasium:{name}{suffix}", ends)
    one = partial(make_one, partial(_make, name, kwargs))
    drawn = partial(make_one, partial(_make_drawn, name, kwargs)) if "rgb_array" in modes else None
    if view is None:
        return host_env(spec, one, repeat, drawn)
    pictures = is_image(spec.obs)
    if not pictures and drawn is None:
        raise ValueError(
            f"env {name} cannot be seen in pictures: its render modes are {modes}, rgb_array is none of them"
        )
    if mujoco:  # drawn in the size that is seen
        drawn = partial(make_one, partial(_make_drawn, name, {"width": view.size, "height": view.size, **kwargs}))
    seen = None if drawn is None else partial(through, drawn, view, pictures)
    one = partial(through, one, view, True) if pictures or seen is None else seen
    check_drawn(one, spec.name)
    return host_env(spec._replace(obs=space_of(view)), one, repeat, seen)


def _first(gym: Any, name: str, kwargs: dict[str, Any]) -> Any:
    """An environment as `gymnasium.make` gives it; what it raises in words."""
    try:
        return _make(name, kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"env {name} needs another package: {_line(error)} ({INSTALL} brings MuJoCo)") from error
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"env must be an environment of Gymnasium, got {name!r}: {_line(error)}") from error
    except NoAtari as error:
        raise ValueError(f"env {name} needs the ale-py package: {ATARI}") from error
    except Exception as error:
        given = ", ".join(f"{key}={value}" for key, value in kwargs.items())
        text = f"{type(error).__name__}: {_line(error)}"
        raise ValueError(f"env {name} cannot be made with {given or 'no arguments'}: {text}") from error


def names() -> list[str]:
    """The names of Gymnasium's registry in their newest versions, Atari's among them where ale-py is installed.

    Raises:
      ValueError: gymnasium is not installed.
    """
    gym, newest = _gymnasium(), {}
    if importlib.util.find_spec("ale_py") is not None:
        importlib.import_module("ale_py")
    for spec in gym.registry.values():
        if spec.entry_point is not None and (spec.namespace or not str(spec.entry_point).startswith("ale_py")):
            known = newest.get((spec.namespace, spec.name))
            if known is None or (spec.version or 0) > (known.version or 0):
                newest[spec.namespace, spec.name] = spec
    return sorted(spec.id for spec in newest.values())


def from_env(factory: Callable[[], Any], name: str, repeat: int = 1) -> HostEnv:
    """A Gymnasium environment that a function makes.

    Args:
      factory: () -> gymnasium.Env, called for each copy. Processes need a function of a module.
      name: of the environment.
      repeat: steps for which every action is repeated.
    Raises:
      ValueError: its spaces cannot be handled.
    """
    first, one = factory(), partial(make_one, factory)
    drawn = one if getattr(first, "render_mode", None) == "rgb_array" else None
    return host_env(_spec_and_close(first, name, True), one, repeat, drawn)


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
    return HostEnv(spec, lambda count, workers=0, drawn=False: _vector(factory(count), spec, count))


def make_one(factory: Callable[[], Any]) -> One:
    """A Gymnasium environment as a `One`.

    Args:
      factory: () -> gymnasium.Env.
    """
    env = factory()
    read = _reader(env.observation_space)

    def reset(seed: int) -> Any:
        return read(env.reset(seed=seed)[0])

    def step(action: Any) -> tuple[Any, float, float, bool]:
        obs, reward, terminated, truncated, _ = env.step(action)
        return read(obs), reward, 0.0 if terminated else 1.0, bool(terminated or truncated)

    def render() -> Any:
        return None if getattr(env, "render_mode", None) is None else env.render()

    return One(reset, _actions(step, env.action_space), env.close, render)


def _gymnasium() -> Any:
    try:
        return importlib.import_module("gymnasium")  # optional
    except ImportError as error:
        raise ValueError(f"gymnasium environments need the gymnasium package: {INSTALL}") from error


class NoAtari(ImportError):
    """ale-py, which brings Atari's games, is not installed."""


def _make(name: str, kwargs: dict[str, Any]) -> Any:
    if name.startswith("ALE/"):
        try:
            atari = importlib.import_module("ale_py")  # optional; it registers its games
        except ImportError as error:
            raise NoAtari from error
        atari.ALEInterface.setLoggerMode(atari.LoggerMode.Error)
    return _gymnasium().make(name, disable_env_checker=True, **kwargs)


def _make_drawn(name: str, kwargs: dict[str, Any]) -> Any:
    """The same, whose `render` gives a picture."""
    offscreen()
    return _make(name, {**kwargs, "render_mode": "rgb_array"})


def _modes(env: Any) -> list[str]:
    return list(getattr(env, "metadata", {}).get("render_modes") or [])


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
    from mbrl_jax.core.types import Box, Discrete, MultiDiscrete, Spec, multi_binary

    kind = type(actions).__name__
    if kind == "Discrete":
        action: Space = Discrete(int(actions.n))
    elif kind == "MultiDiscrete":
        action = MultiDiscrete(tuple(int(n) for n in actions.nvec.flat))
    elif kind == "MultiBinary":
        action = multi_binary(int(np.prod(actions.shape)))
    elif kind == "Box":
        if not np.all(np.isfinite(actions.low)) or not np.all(np.isfinite(actions.high)):
            raise ValueError(
                f"env must have actions with finite bounds, those of {name} are in [{actions.low}, {actions.high}]; "
                "give its action space bounds, or wrap it in one that clips (gymnasium.wrappers.TransformAction)"
            )
        action = Box((int(np.prod(actions.shape)),), -1.0, 1.0)
    else:
        raise ValueError(f"env must have Box, Discrete, MultiDiscrete or MultiBinary actions, {name} has {kind}")
    limit = _limit(env)
    return Spec(_observations(observations, name), action, None if limit is None else int(limit), terminates, name)


def _limit(env: Any) -> int | None:
    """Steps after which an episode is truncated: of the registered environment, or of a `TimeLimit` around it."""
    spec = getattr(env, "spec", None)
    limit, arguments = getattr(spec, "max_episode_steps", None), getattr(spec, "kwargs", {})
    frames, skip = arguments.get("max_num_frames_per_episode"), arguments.get("frameskip")
    if limit is None and isinstance(frames, int) and isinstance(skip, int):  # Atari counts frames
        return -(-frames // skip)
    while limit is None and env is not None:
        fields = getattr(env, "__dict__", {})  # wrappers pass on what they do not have themselves
        limit, env = fields.get("_max_episode_steps"), fields.get("env")
    return limit


def _observations(space: Any, name: str) -> ObsSpace:
    from mbrl_jax.core.types import DictSpace

    parts = _parts(space)
    if parts is None:
        return _leaf(space, name)
    leaves = {path: _leaf(leaf, f"{name}, {path}") for path, (leaf, _) in parts.items()}
    if not leaves:
        raise ValueError(f"env must have an observation, that of {name} is an empty {type(space).__name__}")
    return DictSpace(leaves)


def _parts(space: Any) -> dict[str, tuple[Any, tuple]] | None:
    """The arrays of a Dict or Tuple, whatever it holds, by name: "pose/position" or "0"; the space and the path to it.

    None for a space that is one array.
    """
    kind = type(space).__name__
    if kind not in ("Dict", "Tuple"):
        return None
    found = {}
    for key, inner in space.spaces.items() if kind == "Dict" else enumerate(space.spaces):
        deeper = _parts(inner)
        found |= (
            {str(key): (inner, (key,))}
            if deeper is None
            else {f"{key}/{name}": (leaf, (key, *path)) for name, (leaf, path) in deeper.items()}
        )
    return found


def _leaf(space: Any, name: str) -> Space:
    """The space of one array."""
    from mbrl_jax.core.types import Box, Discrete, MultiDiscrete

    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "MultiDiscrete":
        return MultiDiscrete(tuple(int(n) for n in space.nvec.flat))
    if kind == "MultiBinary":
        return Box(tuple(space.shape), 0.0, 1.0)
    if kind != "Box":
        raise ValueError(
            "env must have observations of Box, Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of them, "
            f"{name} has {kind}"
        )
    dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
    return Box(tuple(space.shape), _bound(space.low), _bound(space.high), dtype)


def _bound(bound: Any) -> Any:
    """One float where all entries are equal, else an array."""
    bound = np.asarray(bound, np.float32)
    return float(bound.flat[0]) if bound.size and np.all(bound == bound.flat[0]) else bound


def _reader(space: Any) -> Callable[[Any], Any]:
    """Observations, of one environment or of several side by side, in the structure that `_observations` gives them."""
    parts = _parts(space)
    if parts is None:
        return _from_zero(space)
    readers = {name: (_from_zero(leaf), path) for name, (leaf, path) in parts.items()}

    def read(obs: Any) -> dict[str, Any]:
        return {name: from_zero(_at(obs, path, name)) for name, (from_zero, path) in readers.items()}

    return read


def _at(obs: Any, path: tuple, name: str) -> Any:
    for key in path:
        try:
            obs = obs[key]
        except (KeyError, IndexError, TypeError):
            has = f"the entries {', '.join(map(str, obs))}" if isinstance(obs, dict) else f"a {type(obs).__name__}"
            raise ValueError(f"the observation must have {name}, as the space says, got {has}") from None
    return obs


def _from_zero(space: Any) -> Callable[[Any], Any]:
    """Numbers from 0 on; several of them as a vector."""
    kind = type(space).__name__
    if kind == "Discrete":
        start = int(space.start)
        return (lambda obs: obs - start) if start else lambda obs: obs
    if kind != "MultiDiscrete":
        return lambda obs: obs
    start, shape = np.asarray(space.start), tuple(space.shape)

    def vector(obs: Any) -> Any:
        obs = np.asarray(obs)
        lead = obs.shape[: max(0, obs.ndim - len(shape))]
        return (obs - start).reshape(*lead, -1) if obs.shape == (*lead, *shape) else obs  # which is named as it is

    return vector


def _to_own(space: Any, lead: tuple[int, ...] = ()) -> Callable[[Any], Any] | None:
    """Agents' numbers, of one environment or of as many as `lead` says, in a space's form; None for a Box."""
    kind = type(space).__name__
    if kind == "Discrete" and not lead:
        return lambda action: int(action) + int(space.start)
    if kind in ("Discrete", "MultiDiscrete", "MultiBinary"):
        start = getattr(space, "start", 0)
        return lambda action: np.asarray(np.asarray(action).reshape(*lead, *space.shape) + start, space.dtype)
    return None


def _actions(step: Callable[[Any], Any], space: Any) -> Callable[[Any], Any]:
    """A `step` that takes the actions of agents: numbers from 0 on, vectors of them, or vectors in [-1, 1]."""
    own = _to_own(space)
    if own is not None:
        return lambda action: step(own(action))
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

    form, read, mode = layout(spec.obs), _reader(env.single_observation_space), _mode(env, spec.name)
    if env.num_envs != count:
        env.close()
        raise ValueError(f"env {spec.name} must have as many environments as asked for, {count}, got {env.num_envs}")
    steps = 0

    def take(obs: Any) -> Any:  # copies: vector environments reuse their arrays
        obs = read(obs)
        if isinstance(form, Leaf):
            return np.array(obs, form.dtype)
        return {name: np.array(obs[name], leaf.dtype) for name, leaf in form.items()}

    def checked(obs: Any) -> Any:
        return _checked(obs, form, spec.name, count, steps)

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
            following = checked(_final(take, obs, out[4]["final_obs"], last))
        elif last.any():
            obs = checked(take(guarded("reset", lambda: env.reset(options={"reset_mask": last})[0])))
        return HostStep(obs, reward, np.where(terminated, 0, 1).astype(np.float32), last, following)

    turned = _vector_actions(advance, env.single_action_space, count)

    def step(actions: Any, seeds: Any, active: Any = None) -> HostStep:
        nonlocal steps
        del seeds, active
        steps += 1
        return turned(actions)

    return HostEnvs(reset, step, env.close, None, checked=True)


def _checked(obs: Any, form: Any, name: str, count: int, steps: int) -> Any:
    """Observations [N, ...] of the form that the space says; `EnvironmentFailed` where they are not."""
    from mbrl_jax.core.types import EnvironmentFailed

    for part, leaf in {"": form}.items() if isinstance(form, Leaf) else form.items():
        array, field = (obs[part], f"the observation, {part},") if part else (obs, "the observation")
        if array.shape != (count, *leaf.shape):
            what = f"{field} must have shape {leaf.shape}, as the space says, got {array.shape[1:]}"
            raise EnvironmentFailed(name, 0, steps, what)
        if array.dtype.kind == "f" and np.isnan(array).any():
            bad = np.isnan(array.reshape(count, -1)).any(axis=1)
            raise EnvironmentFailed(name, int(bad.argmax()), steps, f"{field} is NaN")
    return obs


def _final(take: Callable[[Any], Any], obs: Any, finals: Any, last: Any) -> Any:
    """Observations [N, ...] with the last ones of the episodes that have ended."""
    following = {name: leaf.copy() for name, leaf in obs.items()} if isinstance(obs, dict) else obs.copy()
    for i in np.flatnonzero(last):
        final = take(finals[i])
        if isinstance(following, dict):
            for name, leaf in following.items():
                leaf[i] = final[name]
        else:
            following[i] = final
    return following


def _vector_actions(step: Callable[[Any], Any], space: Any, count: int) -> Callable[[Any], Any]:
    own = _to_own(space, (count,))
    if own is not None:
        return lambda actions: step(own(actions))
    return scaled(step, space.low, space.high, (count, *space.shape), space.dtype)
