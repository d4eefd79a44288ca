"""Grid mazes of Sutton & Barto (2018, chapter 8), and their exact tables.

A state is a cell, row * width + column; rows and columns count from 0, row 0 at the top. Actions 0, 1, 2, 3 go up,
down, left and right; a move into a wall or off the grid leaves the state as it is. The step that reaches the goal has
reward 1, every other one 0.

In `maze` the goal terminates, and the training loop resets. A `changing_maze` cannot be built that way: its walls
change after a number of steps counted over many episodes, and a reset would forget that count. It is one endless run
instead: the step that reaches the goal has discount 0, so nothing is bootstrapped across it, and `last` False, and the
agent is at the start again. Its action values equal those of the terminating maze. Two things differ in its
transitions: a discount of 0 does not imply `last`, and the successor of such a step is the start, not the goal.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Discrete, Env, Key, Spec
from mbrl_jax.envs import drawings, wrappers
from mbrl_jax.envs.mdp import MDP

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Rows and columns moved by up, down, left and right."""


class Layout(NamedTuple):
    """A grid with walls."""

    walls: np.ndarray  # [height, width] bool
    start: tuple[int, int]  # row, column
    goal: tuple[int, int]


class Moving(NamedTuple):
    """The state of a changing maze."""

    cell: Array  # [] int32
    time: Array  # [] int32 steps since the reset


def layout(picture: str) -> Layout:
    """A grid from text, one line per row: `#` is a wall, `S` the start, `G` the goal, `.` any other cell.

    Args:
      picture: the text; blanks around the lines are ignored.

    Raises:
      ValueError: rows of unequal length, an unknown character, or not exactly one start and one goal.
    """
    rows = picture.split()
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"picture must have rows of one length, got lengths {[len(row) for row in rows]}")
    cells = np.array([list(row) for row in rows])
    if not np.isin(cells, list("#SG.")).all() or (cells == "S").sum() != 1 or (cells == "G").sum() != 1:
        raise ValueError(f"picture must be made of '#' and '.', with one 'S' and one 'G', got {picture!r}")
    (row, column), (goal_row, goal_column) = (np.argwhere(cells == sign)[0].tolist() for sign in "SG")
    return Layout(cells == "#", (row, column), (goal_row, goal_column))


DYNA = layout("""
    .......#G
    ..#....#.
    S.#....#.
    ..#......
    .....#...
    .........
""")
"""Example 8.1; the shortest path has 14 steps."""

WAY_RIGHT = layout("""
    ........G
    .........
    .........
    ########.
    .........
    ...S.....
""")
"""Examples 8.2 and 8.3 with the barrier open on the right: 10 steps."""

WAY_LEFT = WAY_RIGHT._replace(walls=WAY_RIGHT.walls[:, ::-1])
"""The same with the barrier open on the left: 16 steps."""

WAY_BOTH = WAY_LEFT._replace(walls=WAY_LEFT.walls & WAY_RIGHT.walls)
"""The same with the barrier open on both sides: 10 steps."""


def grow(grid: Layout, factor: int) -> Layout:
    """Every cell enlarged to factor x factor cells; start and goal are the upper left cells of theirs.

    Args:
      grid: the layout.
      factor: at least 1.
    Raises:
      ValueError: the factor is below 1.
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    walls = grid.walls.repeat(factor, 0).repeat(factor, 1)
    (r, c), (gr, gc) = grid.start, grid.goal
    return Layout(walls, (r * factor, c * factor), (gr * factor, gc * factor))


def successors(grid: Layout) -> np.ndarray:
    """The cell that each action leads to, [S, 4] int32; from a cell that has become a wall moves lead out of it.

    Args:
      grid: the layout.
    Raises:
      ValueError: the start or the goal is off the grid or in a wall, or they are the same cell.
    """
    height, width = grid.walls.shape
    for name, (row, column) in (("start", grid.start), ("goal", grid.goal)):
        if not (0 <= row < height and 0 <= column < width) or grid.walls[row, column]:
            raise ValueError(f"{name} must be a free cell of the {height} x {width} grid, got {(row, column)}")
    if tuple(grid.start) == tuple(grid.goal):
        raise ValueError(f"goal must not be the start, got {grid.goal}")
    rows, columns = np.indices(grid.walls.shape)
    stay = rows * width + columns
    free = ~np.pad(grid.walls, 1, constant_values=True)
    led = [
        np.where(free[1 + dr : 1 + dr + height, 1 + dc : 1 + dc + width], stay + dr * width + dc, stay)
        for dr, dc in MOVES
    ]
    return np.stack(led, -1).reshape(-1, len(MOVES)).astype(np.int32)


def as_mdp(grid: Layout) -> MDP:
    """The maze as exact tables; a changing maze has one for each of its layouts.

    The transitions take 16 S² bytes: 47 kB for the Dyna maze, 190 MB for the same maze grown by 8.

    Args:
      grid: the layout.
    Raises:
      ValueError: as `successors`.
    """
    led = successors(grid)
    states = led.shape[0]
    start, goal = _cell(grid, grid.start), _cell(grid, grid.goal)
    transitions = np.zeros((states, len(MOVES), states), np.float32)
    np.put_along_axis(transitions, led[:, :, None], 1.0, axis=2)
    return MDP(
        transitions=jnp.asarray(transitions),
        rewards=jnp.asarray((led == goal).astype(np.float32)),
        terminal=jnp.arange(states) == goal,
        start=(jnp.arange(states) == start).astype(jnp.float32),
    )


def maze(grid: Layout, time_limit: int | None = None, name: str = "maze") -> Env:
    """A maze whose goal ends the episode.

    Args:
      grid: the walls, the start and the goal.
      time_limit: steps after which an episode is truncated; None for never.
      name: of the environment.
    Returns:
      An environment with observations `Discrete(height * width)` and actions `Discrete(4)`.
    Raises:
      ValueError: as `successors`, or the time limit is below 1.
    """
    led = jnp.asarray(successors(grid))
    start, goal = _cell(grid, grid.start), _cell(grid, grid.goal)

    def reset(key: Key) -> tuple[Array, Array]:
        del key
        cell = jnp.full((), start, jnp.int32)
        return cell, cell

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        del key
        cell = led[state, action]
        at_goal = cell == goal
        reward = at_goal.astype(jnp.float32)
        return cell, cell, reward, 1.0 - reward, at_goal

    env = Env(_spec(grid, name), reset, step, lambda state: state, lambda state: drawings.grid(grid, state))
    return env if time_limit is None else wrappers.time_limit(env, time_limit)


def changing_maze(
    before: Layout, after: Layout, change_at: int, time_limit: int | None = None, name: str = "changing-maze"
) -> Env:
    """A maze whose walls change after a number of steps; reaching the goal leads to the start, with discount 0.

    Args:
      before: the layout of the first `change_at` steps.
      after: the layout from then on, with the same start and goal.
      change_at: steps before the change, at least 0.
      time_limit: None for an endless run. If it is the length of an experiment, the experiment is one episode, whose
        return is the cumulative reward; the reset after it restores the first layout.
      name: of the environment.
    Returns:
      An environment with observations `Discrete(height * width)`, actions `Discrete(4)` and states of type `Moving`.
    Raises:
      ValueError: as `successors`; the layouts differ in more than walls; a number outside its range.
    """
    if change_at < 0:
        raise ValueError(f"change_at must be at least 0, got {change_at}")
    if before.walls.shape != after.walls.shape or before[1:] != after[1:]:
        raise ValueError("before and after must have the same size, start and goal")
    led = jnp.asarray(np.stack([successors(before), successors(after)]))
    start, goal = _cell(before, before.start), _cell(before, before.goal)

    def reset(key: Key) -> tuple[Moving, Array]:
        del key
        state = Moving(jnp.full((), start, jnp.int32), jnp.zeros((), jnp.int32))
        return state, state.cell

    def step(key: Key, state: Moving, action: Array) -> tuple[Moving, Array, Array, Array, Array]:
        del key
        cell = led[(state.time >= change_at).astype(jnp.int32), state.cell, action]
        at_goal = cell == goal
        reward = at_goal.astype(jnp.float32)
        cell = jnp.where(at_goal, start, cell)
        return Moving(cell, state.time + 1), cell, reward, 1.0 - reward, jnp.zeros((), bool)

    def render(state: Moving) -> Array:
        old, new = drawings.grid(before, state.cell), drawings.grid(after, state.cell)
        return jnp.where(state.time >= change_at, new, old)

    env = Env(_spec(before, name), reset, step, lambda state: state.cell, render)
    return env if time_limit is None else wrappers.time_limit(env, time_limit)


def dyna_maze(time_limit: int | None = None) -> Env:
    """The Dyna maze (example 8.1).

    Args:
      time_limit: steps after which an episode is truncated; None for never.
    """
    return maze(DYNA, time_limit, "dyna-maze")


def growing_maze(factor: int, time_limit: int | None = None) -> Env:
    """The Dyna maze with sides `factor` times as long, for example 8.4: 47 factor² free cells.

    Args:
      factor: of the sides, at least 1.
      time_limit: steps after which an episode is truncated; None for never.
    """
    return maze(grow(DYNA, factor), time_limit, f"dyna-maze-x{factor}")


def blocking_maze(change_at: int = 1_000, time_limit: int | None = None) -> Env:
    """The short path on the right is blocked and a longer one on the left opens (example 8.2; 3,000 steps).

    Args:
      change_at: steps before the change, at least 0.
      time_limit: as in `changing_maze`.
    """
    return changing_maze(WAY_RIGHT, WAY_LEFT, change_at, time_limit, "blocking-maze")


def shortcut_maze(change_at: int = 3_000, time_limit: int | None = None) -> Env:
    """A shorter path opens on the right; the one on the left stays open (example 8.3; 6,000 steps).

    Args:
      change_at: steps before the change, at least 0.
      time_limit: as in `changing_maze`.
    """
    return changing_maze(WAY_LEFT, WAY_BOTH, change_at, time_limit, "shortcut-maze")


def _cell(grid: Layout, at: tuple[int, int]) -> int:
    return at[0] * grid.walls.shape[1] + at[1]


def _spec(grid: Layout, name: str) -> Spec:
    return Spec(Discrete(grid.walls.size), Discrete(len(MOVES)), name=name)
