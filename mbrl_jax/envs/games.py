"""Two-player games: observations with a mask of legal actions, and play against a fixed opponent.

A game is an `Env` in which one agent plays both sides (self-play). The observation is that of the player to move, the
reward goes to the player who moved, and the discount is -1 where the other player moves next: the game is zero-sum. A
value is then that of the player to move, and all that multiplies discounts along a path (returns, backups, searches) is
correct for two players without treating them as a special case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Env, Key, tree
from mbrl_jax.core.types import Action, Obs, State


class Masked(NamedTuple):
    """An observation where not every action is legal. `Spec.obs` describes `obs` alone."""

    obs: Obs
    legal: Array  # [A] bool, at least one True; all True where the game is over


def is_game(env: Env) -> bool:
    """Whether an environment's observations say which actions are legal."""
    return isinstance(jax.eval_shape(lambda: env.reset(jax.random.key(0)))[1], Masked)


def unmask(env: Env) -> Env:
    """A game for agents that handle no mask: observations without it. An illegal move loses."""

    def reset(key: Key) -> tuple[State, Obs]:
        state, seen = env.reset(key)
        return state, seen.obs

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, seen, reward, discount, last = env.step(key, state, action)
        return state, seen.obs, reward, discount, last

    observe = env.observe
    return env._replace(reset=reset, step=step, observe=None if observe is None else lambda state: observe(state).obs)


def versus(env: Env, opponent: Callable[[Key, Masked], Action]) -> Env:
    """A game against a fixed opponent, as an environment for one: the opponent's move is part of every step.

        r = r_1 + d_1 r_2,   d = d_1 d_2       with the opponent's reward r_2, and d_1 = -1 where it moves

    Each side begins with probability ½.

    Args:
      env: a game in which players alternate.
      opponent: (key, observation of the player to move) -> action.
    Returns:
      An environment whose return is +1, 0 or -1 for a game won, drawn or lost.
    """

    def reset(key: Key) -> tuple[State, Obs]:
        key_reset, key_side, key_move, key_step = jax.random.split(key, 4)
        state, seen = env.reset(key_reset)
        moved = env.step(key_step, state, opponent(key_move, seen))[:2]
        return tree.where(jax.random.bernoulli(key_side, jnp.float32(0.5)), moved, (state, seen))

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        key_own, key_move, key_reply = jax.random.split(key, 3)
        own, seen, reward, discount, over = env.step(key_own, state, action)
        reply, answer, reward_2, discount_2, over_2 = env.step(key_reply, own, opponent(key_move, seen))
        total = reward + discount * jnp.where(over, 0.0, reward_2)
        after = tree.where(over, (own, seen), (reply, answer))
        return *after, total, jnp.where(over, discount, discount * discount_2), over | over_2

    return env._replace(spec=env.spec._replace(name=f"{env.spec.name}-versus"), reset=reset, step=step)
