"""Which environments there are by name: a table that is read at run time and imports nothing until it is asked for."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mbrl_jax.core.types import Env


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
    "Pendulum-pixels": Entry(f"{HOME}.pixels:pendulum"),
    "CartPole-pixels": Entry(f"{HOME}.pixels:cartpole"),
    "CartPoleSwingUp-pixels": Entry(f"{HOME}.pixels:swingup"),
    "Pendulum-pixels-64": Entry(f"{HOME}.pixels:pendulum", {"size": 64}),
    "CartPole-pixels-64": Entry(f"{HOME}.pixels:cartpole", {"size": 64}),
    "CartPoleSwingUp-pixels-64": Entry(f"{HOME}.pixels:swingup", {"size": 64}),
    "Reach": Entry(f"{HOME}.reach:reach"),
    "Reach-seen": Entry(f"{HOME}.reach:reach_seen"),
    "TicTacToe": Entry(f"{HOME}.tictactoe:tictactoe", {"openings": 4}),
}
"""Every environment with settings of its own, by its name on the command line."""

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


def from_gymnax(name: str, scaled: bool = False) -> Env:
    """An environment of gymnax in the form that agents take: observations flat but for planes, actions in [-1, 1].

    Args:
      name: gymnax's.
      scaled: scale observations to [-1, 1] by their bounds.
    Raises:
      ValueError: gymnax has no environment of this name.
    """
    from mbrl_jax.core.types import Box, Discrete
    from mbrl_jax.envs import wrappers
    from mbrl_jax.envs.adapters import gymnax

    env = gymnax.make(name)
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


def stacking(name: str) -> tuple[str, int]:
    """What "NAME-stack3" stacks the frames of, and how many: the environment's own name, and 1 for single frames."""
    stacked = re.fullmatch(r"(.+)-stack([2-9]|[1-9]\d+)", name)
    return (stacked[1], int(stacked[2])) if stacked else (name, 1)


def task_name(name: str) -> str:
    """The environment's own name, without what it repeats or stacks: "NAME" of "NAME-x2-stack3"."""
    return repetition(stacking(name)[0])[0]


def make_env(name: str) -> Env:
    """An environment by name: one of `ENVS`, any of gymnax's with actions in [-1, 1], or a game of pgx as "NAME-pgx".

    "NAME-x8" is the same with each action repeated 8 times, by any number from 2 on: its steps are decisions.
    "NAME-stack3", or "NAME-x8-stack3", shows the last 3 frames of an environment that is observed as images or planes.
    gymnax's observations are flattened, but for numbered states and for planes [height, width, channels].

    Raises:
      ValueError: no environment has this name, it repeats an action for longer than an episode, or it has no frames to
        stack, or more of them than an episode.
    """
    if name in ENVS:
        factory, kwargs = ENVS[name]
        if isinstance(factory, str):
            module, _, function = factory.partition(":")
            factory = getattr(importlib.import_module(module), function)
        return factory(**kwargs)  # pyright: ignore[reportCallIssue]
    if len(name) > LONGEST_NAME:
        raise ValueError(f"env must be a name of at most {LONGEST_NAME} characters, got one of {len(name)}")
    base, frames = stacking(name)
    if frames > 1:
        return _changed(name, base, frames, "stack at most {} frames", "frame_stack")
    base, times = repetition(name)
    if times > 1:
        return _changed(name, base, times, "repeat an action at most {} times", "repeat_action")
    if name.endswith("-pgx"):
        from mbrl_jax.envs.adapters import pgx

        return pgx.make(name.removesuffix("-pgx"))
    try:
        return from_gymnax(name)
    except ValueError as error:
        close = difflib.get_close_matches(name, ENVS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        allowed = f"env must be one of {', '.join(ENVS)} or a gymnax environment"
        raise ValueError(f"{allowed}, got {name!r}{hint}") from error


def _changed(name: str, base: str, count: int, what: str, wrapper: str) -> Env:
    """An environment in a wrapper that takes a count, at most an episode."""
    from mbrl_jax.envs import wrappers

    env = make_env(base)
    most = env.spec.time_limit or MOST_REPEATS
    if count > most:
        raise ValueError(f"env must {what.format(most)}, an episode of {base}, got {name!r}")
    env = getattr(wrappers, wrapper)(env, count)
    return env._replace(spec=env.spec._replace(name=name))
