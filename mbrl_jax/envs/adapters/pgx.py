"""pgx (2.0 and later) games as an `Env`; the only file that imports pgx (`pip install pgx`).

Games of two players come in the form of `envs.games`; those of one player, such as 2048, have a discount of 1 until
they end. In pgx a finished game stays as it is, and an illegal move loses.
"""

from __future__ import annotations

import importlib
from typing import Any

import jax.numpy as jnp

from mbrl_jax.core import Array, Box, Discrete, Env, Key, Spec, tree
from mbrl_jax.core.types import Action, State
from mbrl_jax.envs.games import Masked


def make(name: str, time_limit: int | None = None) -> Env:
    """A pgx game by its name.

    Args:
      name: e.g. "connect_four".
      time_limit: largest number of steps of a game, where it is known; None where not (`wrappers.time_limit` then
        truncates games).
    Returns:
      The game: `Masked` observations in float32, from the side of the player to move; the reward of the player who
      moved; discount -1 where the player to move changes, 1 where it does not, 0 at the end.
    Raises:
      ValueError: pgx is not installed, has no such game, or the game is for more than two.
    """
    try:
        pgx: Any = importlib.import_module("pgx")  # optional; this module has the same name, hence no import statement
    except ImportError as error:
        raise ValueError("pgx games need the pgx package: pip install pgx") from error
    if name not in pgx.available_envs():
        raise ValueError(f"env must be one of {', '.join(pgx.available_envs())}; got {name!r}")
    inner = pgx.make(name)
    if inner.num_players > 2:
        raise ValueError(f"env must be a game of one or two players, {name} has {inner.num_players}")
    return adapt(inner, name, time_limit)


def adapt(inner: Any, name: str, time_limit: int | None = None) -> Env:
    """A pgx environment object as an `Env`; see `make`.

    Args:
      inner: environment of pgx, for one or two players.
      name: name of the game in the spec.
      time_limit: as for `make`.
    """

    def observe(state: State) -> Masked:
        return Masked(jnp.asarray(state.observation, jnp.float32), state.legal_action_mask)

    def reset(key: Key) -> tuple[State, Masked]:
        state = tree.strip_weak_types(inner.init(key))
        return state, observe(state)

    def step(key: Key, state: State, action: Action) -> tuple[State, Masked, Array, Array, Array]:
        mover = state.current_player
        state = tree.strip_weak_types(inner.step(state, action, key))
        goes_on = jnp.where(state.current_player == mover, jnp.float32(1.0), -1.0)
        discount = jnp.where(state.terminated, 0.0, goes_on)
        last = jnp.logical_or(state.terminated, state.truncated)
        return state, observe(state), state.rewards[mover], discount, last

    spec = Spec(Box(tuple(inner.observation_shape)), Discrete(int(inner.num_actions)), time_limit, name=name)
    return Env(spec, reset, step, observe)
