"""Tic-tac-toe as a game for self-play (see `envs.games`): three in a row win.

Cells, and with them actions, are numbered 0 to 8 by rows, from the top left.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Box, Discrete, Env, Key, Spec
from mbrl_jax.core.types import Action
from mbrl_jax.envs import drawings
from mbrl_jax.envs.games import Masked

CELLS = 9
LINES = np.array(
    [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]], dtype=np.int32
)
"""The eight rows, columns and diagonals."""


class Board(NamedTuple):
    """A position, seen by the player to move."""

    own: Array  # [9] bool: stones of the player to move
    other: Array  # [9] bool
    player: Array  # [] int32: the player to move, 0 for the one who began
    over: Array  # [] bool


def won(stones: Array) -> Array:
    """Whether these stones [9] bool fill a line, [] bool."""
    return jnp.any(jnp.all(stones[LINES], axis=-1))


def legal(board: Board) -> Array:
    """The empty cells, [9] bool; all cells where the game is over."""
    return board.over | ~(board.own | board.other)


def observe(board: Board) -> Masked:
    """Planes [3, 3, 2] float32 with the stones of the player to move and the other's, and the mask of legal moves."""
    planes = jnp.stack([board.own, board.other], axis=-1).astype(jnp.float32)
    return Masked(planes.reshape(3, 3, 2), legal(board))


def tictactoe(openings: int = 0) -> Env:
    """The game: reward 1 to the player who completes a line, 0 otherwise; a move to a taken cell loses, reward -1.

    Args:
      openings: largest number of random moves at the start of a game, in 0..4; the number is drawn uniformly for each
        game. Self-play alone sees only positions that it leads to. No game ends within four moves.
    Raises:
      ValueError: `openings` is out of its range.
    """
    if not 0 <= openings <= 4:
        raise ValueError(f"openings must be at least 0 and at most 4, got {openings}")

    def reset(key: Key) -> tuple[Board, Masked]:
        key_count, key_cells = jax.random.split(key)
        count = jax.random.randint(key_count, (), 0, openings + 1, jnp.int32)
        order = jax.random.permutation(key_cells, CELLS)  # when each cell is taken, by the players alternately
        taken, mine = order < count, (order % 2) == (count % 2)
        board = Board(taken & mine, taken & ~mine, count % 2, jnp.zeros((), bool))
        return board, observe(board)

    def step(key: Key, state: Board, action: Action) -> tuple[Board, Masked, Array, Array, Array]:
        del key
        chosen = jnp.arange(CELLS) == action
        illegal = jnp.any(chosen & (state.own | state.other))
        stones = state.own | chosen
        wins = won(stones) & ~illegal
        over = wins | illegal | jnp.all(stones | state.other)
        board = Board(state.other, stones, 1 - state.player, over)
        reward = wins.astype(jnp.float32) - illegal.astype(jnp.float32)
        return board, observe(board), reward, jnp.where(over, jnp.float32(0.0), -1.0), over

    spec = Spec(Box((3, 3, 2), 0.0, 1.0), Discrete(CELLS), time_limit=CELLS, name="TicTacToe")
    return Env(spec, reset, step, observe, drawings.tictactoe)


# The solution -------------------------------------------------------------------------------------------------------

PLACES = 3 ** np.arange(CELLS)  # a position's number: Σ 3^cell · (1 for an own stone, 2 for one of the other's)


@cache
def solution() -> np.ndarray:
    """Values [3^9, 9] of every move in every position under perfect play: 1, 0 or -1, and -2 for taken cells.

    Rows are numbered by Σ_cell 3^cell · (1 for a stone of the player to move, 2 for one of the other's).
    """
    cells = np.arange(3**CELLS)[:, None] // PLACES % 3
    swapped = np.array([0, 2, 1])[cells] @ PLACES  # the same stones from the other player's side
    lost = (cells[:, LINES] == 2).all(-1).any(-1)
    stones = (cells > 0).sum(1)
    values, moves = -1.0 * lost, np.full((3**CELLS, CELLS), -2.0)
    for count in range(CELLS - 1, -1, -1):
        at = np.flatnonzero((stones == count) & ~lost)
        moves[at] = np.where(cells[at] == 0, -values[np.minimum(swapped[at, None] + 2 * PLACES, 3**CELLS - 1)], -2.0)
        values[at] = moves[at].max(1)
    return moves


def perfect(key: Key, seen: Masked) -> Array:
    """A perfect opponent for `games.versus`: one of the best moves, drawn uniformly.

    Args:
      key: used once.
      seen: an observation of a game that is not over.
    Returns:
      [] int32.
    """
    stones = seen.obs @ jnp.array([1.0, 2.0], jnp.float32)
    number = jnp.sum(jnp.asarray(PLACES) * stones.reshape(-1)).astype(jnp.int32)
    values = jnp.asarray(solution(), jnp.float32)[number]
    drawn = jax.random.uniform(key, (CELLS,), jnp.float32)
    return jnp.argmax(jnp.where(values == jnp.max(values), drawn, -1.0)).astype(jnp.int32)
