"""Which environments there are by name: a table that is read at run time and imports nothing until it is asked for."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from mbrl_jax.core.types import Env, HostEnv


class Entry(NamedTuple):
    """How an environment is made: a function as "module:name", and what it is called with."""

    factory: str | Callable[..., Env]
    kwargs: dict[str, Any] = {}  # noqa: RUF012, never written to


HOME = "mbrl_jax.envs"
GYMNAX = f"{HOME}.registry:from_gymnax"

ENVS: dict[str, Entry] = {
    "Pendulum-v1": Entry(GYMNAX, {"name": "Pendulum-v1"}),
    "CartPole-v1": Entry(GYMNAX, {"name": "CartPole-v1"}),
    "CartPole-hidden": Entry(f"{HOME}.registry:hidden_cartpole"),
    "ContinuousCartPole": Entry(f"{HOME}.cartpole:continuous_cartpole"),
    "CartPoleSwingUp": Entry(f"{HOME}.cartpole:cartpole_swingup"),
    "Catch-bsuite": Entry(GYMNAX, {"name": "Catch-bsuite"}),
    "MountainCarContinuous-v0": Entry(GYMNAX, {"name": "MountainCarContinuous-v0", "scaled": True}),
    "MemoryChain-bsuite": Entry(GYMNAX, {"name": "MemoryChain-bsuite"}),
    "Breakout-MinAtar": Entry(GYMNAX, {"name": "Breakout-MinAtar"}),
    "DynaMaze": Entry(f"{HOME}.maze:dyna_maze", {"time_limit": 2_000}),
    "BlockingMaze": Entry(f"{HOME}.maze:blocking_maze", {"time_limit": 3_000}),
    "ShortcutMaze": Entry(f"{HOME}.maze:shortcut_maze", {"time_limit": 6_000}),
    "FrozenLake": Entry(f"{HOME}.discrete:frozen_lake"),
    "FrozenLake-deterministic": Entry(f"{HOME}.discrete:frozen_lake", {"slippery": False}),
    "FourRooms": Entry(f"{HOME}.discrete:four_rooms"),
    "DeepSea": Entry(f"{HOME}.discrete:deep_sea"),
    "Catch": Entry(f"{HOME}.discrete:catch"),
    "TicTacToe": Entry(f"{HOME}.tictactoe:tictactoe", {"openings": 4}),
}
"""Every environment with settings of its own, by its name on the command line."""

PREFIXES: dict[str, str] = {
    "gymnasium": f"{HOME}.adapters.gymnasium:make",
    "dm_control": f"{HOME}.adapters.dm_control:make",
}
"""What makes the host environments of a library, by what their names begin with: "gymnasium:Hopper-v5". Each is a
function (name, repeat, **kwargs) -> HostEnv, as "module:name"."""

EVAL_ENVS: dict[str, Callable[[], Env]] = {"TicTacToe": lambda: perfect_opponent()}
"""What evaluation episodes are played in, where that is not the environment of the training, by its spec's name."""


LONGEST_NAME, MOST_REPEATS = 200, 10_000
"""Characters of an environment's name, and repetitions of an action where no time limit ends an episode, at most."""


def register_env(name: str, factory: str | Callable[..., Env], **kwargs: Any) -> None:
    """Adds a user's environment to `ENVS`.

    Args:
      name: on the command line; letters, digits, `_`, `-`, `.` and `:`.
      factory: (**kwargs) -> Env, or "module:name" of it.
      kwargs: what it is called with.
    Raises:
      ValueError: the name is taken, or has other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        raise ValueError(f"name must be letters, digits and _ - . :, got {name!r}")
    if name in ENVS:
        raise ValueError(f"name must be new, got {name!r}, which is an environment already")
    ENVS[name] = Entry(factory, kwargs)


def from_gymnax(name: str, scaled: bool = False, **params: Any) -> Env:
    """An environment of gymnax in the form that agents take: observations flat but for planes, actions in [-1, 1].

    Args:
      name: gymnax's.
      scaled: scale observations to [-1, 1] by their bounds.
      params: its settings, `max_steps_in_episode` for example.
    Raises:
      ValueError: gymnax has no environment of this name, or it has no such setting.
    """
    from mbrl_jax.core.types import Box, Discrete
    from mbrl_jax.envs import wrappers
    from mbrl_jax.envs.adapters import gymnax

    env = gymnax.make(name, **params)
    if isinstance(env.spec.obs, Box) and len(env.spec.obs.shape) != 3:
        env = wrappers.flatten(env)
    env = env if isinstance(env.spec.action, Discrete) else wrappers.scale_action(env)
    return wrappers.scale_obs(env) if scaled else env


def hidden_cartpole() -> Env:
    """CartPole-v1 without its velocities."""
    from mbrl_jax.envs.hidden import hide

    return hide(from_gymnax("CartPole-v1"), (1, 3), "CartPole-hidden")


def perfect_opponent() -> Env:
    """Tic-tac-toe against the perfect player."""
    from mbrl_jax.envs import games, tictactoe

    return games.versus(tictactoe.tictactoe(), tictactoe.perfect)


def repetition(name: str) -> tuple[str, int]:
    """What "NAME-x8" repeats, and how often: the environment's own name, and 1 where nothing is repeated."""
    repeated = re.fullmatch(r"(.+)-x([2-9]|[1-9]\d+)", name)
    return (repeated[1], int(repeated[2])) if repeated else (name, 1)


def is_host(name: str) -> bool:
    """Whether the steps of an environment are Python: its name begins with one of `PREFIXES`."""
    return name.partition(":")[0] in PREFIXES and ":" in name


def _host_env(name: str, kwargs: dict[str, Any]) -> HostEnv:
    """An environment of a library in `PREFIXES`."""
    base, times = repetition(name)
    prefix, _, inner = base.partition(":")
    module, _, function = PREFIXES[prefix].partition(":")
    env: HostEnv = getattr(importlib.import_module(module), function)(inner, times, **kwargs)
    if env.spec.time_limit == 1 or times > MOST_REPEATS:
        raise ValueError(f"env must repeat an action for less than an episode of {base}, got {name!r}")
    return env


def _with_arguments(name: str, kwargs: dict[str, Any]) -> Env:
    """An environment in JAX, made with arguments."""
    base, times = repetition(name)
    if name not in ENVS and times > 1:
        from mbrl_jax.envs import wrappers

        env = wrappers.repeat_action(_with_arguments(base, kwargs), times)
        return env._replace(spec=env.spec._replace(name=name))
    if name not in ENVS:
        return from_gymnax(name, **kwargs)
    factory, usual = ENVS[name]
    if isinstance(factory, str):
        module, _, function = factory.partition(":")
        factory = getattr(importlib.import_module(module), function)
    made: Callable[..., Env] = factory  # pyright: ignore[reportAssignmentType]
    try:
        inspect.signature(made).bind(**{**usual, **kwargs})
    except TypeError as error:
        known = ", ".join(inspect.signature(made).parameters) or "none"
        raise ValueError(f"env_arg: {name} takes the arguments {known}, got {', '.join(kwargs)}") from error
    return made(**{**usual, **kwargs})


def make_env(name: str, **kwargs: Any) -> Env:
    """An environment by name: one of `ENVS`, any of gymnax's with actions in [-1, 1], or a game of pgx as "NAME-pgx".

    "NAME-x8" is the same with each action repeated 8 times, by any number from 2 on: its steps are decisions.
    gymnax's observations are flattened, but for numbered states and for planes [height, width, channels].

    Args:
      name: of the environment. What begins with one of `PREFIXES` gives a `HostEnv`.
      kwargs: arguments of the environment: `max_steps_in_episode=100` for one of gymnax's.
    Raises:
      ValueError: no environment has this name, it takes no such argument, or it repeats an action for longer than an
        episode.
    """
    if is_host(name):
        return cast("Env", _host_env(name, kwargs))
    if kwargs:
        return _with_arguments(name, kwargs)
    if name in ENVS:
        factory, kwargs = ENVS[name]
        if isinstance(factory, str):
            module, _, function = factory.partition(":")
            factory = getattr(importlib.import_module(module), function)
        return factory(**kwargs)  # pyright: ignore[reportCallIssue]
    if len(name) > LONGEST_NAME:
        raise ValueError(f"env must be a name of at most {LONGEST_NAME} characters, got one of {len(name)}")
    base, times = repetition(name)
    if times > 1:
        from mbrl_jax.envs import wrappers

        env = make_env(base)
        most = env.spec.time_limit or MOST_REPEATS
        if times > most:
            raise ValueError(f"env must repeat an action at most {most} times, an episode of {base}, got {name!r}")
        env = wrappers.repeat_action(env, times)
        return env._replace(spec=env.spec._replace(name=name))
    if name.endswith("-pgx"):
        from mbrl_jax.envs.adapters import pgx

        return pgx.make(name.removesuffix("-pgx"))
    try:
        return from_gymnax(name)
    except ValueError as error:
        close = difflib.get_close_matches(name, ENVS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        allowed = f"env must be one of {', '.join(ENVS)}, {'NAME, '.join(f'{p}:' for p in PREFIXES)}NAME"
        allowed += " or a gymnax environment"
        raise ValueError(f"{allowed}, got {name!r}{hint}") from error
