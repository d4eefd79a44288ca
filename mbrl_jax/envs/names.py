"""Which environments there are by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from mbrl_jax.core.types import Box, Discrete, Env
from mbrl_jax.envs import cartpole, discrete, games, gymnax, hidden, maze, pgx, tictactoe, wrappers

ENVS: dict[str, Callable[[], Env]] = {
    "Pendulum-v1": lambda: _from_gymnax("Pendulum-v1"),
    "CartPole-v1": lambda: _from_gymnax("CartPole-v1"),
    "CartPole-hidden": lambda: hidden.hide(_from_gymnax("CartPole-v1"), (1, 3), "CartPole-hidden"),
    "ContinuousCartPole": cartpole.continuous_cartpole,
    "CartPoleSwingUp": cartpole.cartpole_swingup,
    "Catch-bsuite": lambda: _from_gymnax("Catch-bsuite"),
    "MountainCarContinuous-v0": lambda: wrappers.scale_obs(_from_gymnax("MountainCarContinuous-v0")),
    "MemoryChain-bsuite": lambda: _from_gymnax("MemoryChain-bsuite"),
    "Breakout-MinAtar": lambda: _from_gymnax("Breakout-MinAtar"),
    "DynaMaze": lambda: maze.dyna_maze(time_limit=2_000),
    "BlockingMaze": lambda: maze.blocking_maze(time_limit=3_000),
    "ShortcutMaze": lambda: maze.shortcut_maze(time_limit=6_000),
    "FrozenLake": discrete.frozen_lake,
    "FrozenLake-deterministic": lambda: discrete.frozen_lake(slippery=False),
    "FourRooms": discrete.four_rooms,
    "DeepSea": discrete.deep_sea,
    "Catch": discrete.catch,
    "TicTacToe": lambda: tictactoe.tictactoe(openings=4),
}

JUDGES: dict[str, Callable[[], Env]] = {
    "TicTacToe": lambda: games.versus(tictactoe.tictactoe(), tictactoe.perfect),
}
"""What evaluation episodes are played in, where that is not the environment of the training, by its spec's name."""


def _from_gymnax(name: str) -> Env:
    env = gymnax.make(name)
    if isinstance(env.spec.obs, Box) and len(env.spec.obs.shape) != 3:
        env = wrappers.flatten(env)
    return env if isinstance(env.spec.action, Discrete) else wrappers.scale_action(env)


def repetition(name: str) -> tuple[str, int]:
    """What "NAME-x8" repeats, and how often: the environment's own name, and 1 where nothing is repeated."""
    repeated = re.fullmatch(r"(.+)-x([2-9]|[1-9]\d+)", name)
    return (repeated[1], int(repeated[2])) if repeated else (name, 1)


def make_env(name: str) -> Env:
    """An environment by name: one of `ENVS`, any of gymnax's with actions in [-1, 1], or a game of pgx as "NAME-pgx".

    "NAME-x8" is the same with each action done 8 times, by any number from 2 on: its steps are decisions.
    gymnax's observations are flattened, but for numbered states and for planes [height, width, channels].

    Raises:
      ValueError: no environment has this name.
    """
    if name in ENVS:
        return ENVS[name]()
    base, times = repetition(name)
    if times > 1:
        env = wrappers.repeat_action(make_env(base), times)
        return env._replace(spec=env.spec._replace(name=name))
    if name.endswith("-pgx"):
        return pgx.make(name.removesuffix("-pgx"))
    try:
        return _from_gymnax(name)
    except ValueError as error:
        close = difflib.get_close_matches(name, ENVS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        allowed = f"env must be one of {', '.join(ENVS)} or a gymnax environment"
        raise ValueError(f"{allowed}, got {name!r}{hint}") from error
