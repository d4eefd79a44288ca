"""Mazes: the book's walls by coordinates, path lengths by search and by exact values, and walls that change."""

from __future__ import annotations

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.envs import maze as mazes
from mbrl_jax.envs import mdp as mdps

UP, DOWN, LEFT, RIGHT = range(4)


def walls_of(grid):
    return set(map(tuple, np.argwhere(grid.walls).tolist()))


def shortest(grid):
    """Steps from the start to the goal, by breadth-first search over the coordinates."""
    height, width = grid.walls.shape
    far, queue = {grid.start: 0}, deque([grid.start])
    while queue:
        r, c = queue.popleft()
        for cell in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= cell[0] < height and 0 <= cell[1] < width and not grid.walls[cell] and cell not in far:
                far[cell] = far[r, c] + 1
                queue.append(cell)
    return far[grid.goal]


def walk(env, actions, state=None):
    """(cell, reward, discount, last) of every step."""
    if state is None:
        state, _ = env.reset(jax.random.key(0))

    def one(state, action):
        state, *out = env.step(jax.random.key(1), state, action)
        return state, out

    state, (cell, reward, discount, last) = jax.lax.scan(one, state, jnp.asarray(actions))
    return state, np.asarray(cell), np.asarray(reward), np.asarray(discount), np.asarray(last)


def test_layouts_are_the_books():
    assert walls_of(mazes.DYNA) == {(1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7)}
    assert (mazes.DYNA.walls.shape, mazes.DYNA.start, mazes.DYNA.goal) == ((6, 9), (2, 0), (0, 8))
    assert walls_of(mazes.WAY_RIGHT) == {(3, c) for c in range(8)}
    assert walls_of(mazes.WAY_LEFT) == {(3, c) for c in range(1, 9)}
    assert walls_of(mazes.WAY_BOTH) == {(3, c) for c in range(1, 8)}
    for grid in (mazes.WAY_RIGHT, mazes.WAY_LEFT, mazes.WAY_BOTH):
        assert (grid.walls.shape, grid.start, grid.goal) == ((6, 9), (5, 3), (0, 8))


@pytest.mark.parametrize(
    ("grid", "steps"),
    [
        (mazes.DYNA, 14),
        (mazes.WAY_RIGHT, 10),
        (mazes.WAY_LEFT, 16),
        (mazes.WAY_BOTH, 10),
        (mazes.grow(mazes.DYNA, 2), 28),
    ],
    ids=["dyna", "right", "left", "both", "dyna-x2"],
)
def test_value_of_the_start_is_that_of_the_shortest_path(grid, steps):
    assert shortest(grid) == steps
    mdp = mazes.as_mdp(grid)
    values, _ = mdps.value_iteration(mdp, 0.95)
    start = grid.start[0] * grid.walls.shape[1] + grid.start[1]
    np.testing.assert_allclose(values[start], 0.95 ** (steps - 1), rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(mdp.start), [start])
    np.testing.assert_array_equal(mdp.transitions.sum(-1), 1.0)


def test_growing_keeps_the_shape():
    big = mazes.grow(mazes.DYNA, 3)
    assert (~big.walls).sum() == 47 * 9
    assert shortest(big) == 42
    np.testing.assert_array_equal(big.walls[1::3, 1::3], mazes.DYNA.walls)
    env = mazes.growing_maze(3)
    assert env.spec.obs == (54 * 9,)
    assert int(env.reset(jax.random.key(0))[1]) == 6 * 27


def test_moves_bumps_and_the_goal():
    env = mazes.dyna_maze(time_limit=20)
    assert (env.spec.obs, env.spec.action) == ((54,), (4,))
    assert (env.spec.time_limit, env.spec.terminates) == (20, True)
    # Left off the grid; right twice, the second time into the wall at (2, 2); then round it, down and up to the goal.
    actions = [LEFT, RIGHT, RIGHT, DOWN, DOWN] + [RIGHT] * 3 + [UP] + [RIGHT] * 4 + [UP] * 3
    cells = [18, 19, 19, 28, 37, 38, 39, 40, 31, 32, 33, 34, 35, 26, 17, 8]
    state, cell, reward, discount, last = walk(env, actions)
    np.testing.assert_array_equal(cell, cells)
    at_goal = np.arange(len(cells)) == len(cells) - 1
    np.testing.assert_array_equal(reward, at_goal)
    np.testing.assert_array_equal(discount, ~at_goal)
    np.testing.assert_array_equal(last, at_goal)
    assert env.observe is not None
    assert int(env.observe(state)) == 8
    # Out of time is not the goal: bumping 20 times is the end, and no termination.
    _, cell, reward, discount, last = walk(env, [LEFT] * 20)
    assert (set(cell.tolist()), reward.sum(), discount.min()) == ({18}, 0.0, 1.0)
    np.testing.assert_array_equal(last, np.arange(20) == 19)


def test_environment_and_tables_agree():
    mdp, env = mazes.as_mdp(mazes.DYNA), mazes.dyna_maze()
    s, a = np.divmod(np.arange(54 * 4), 4)
    out = jax.vmap(env.step, (None, 0, 0))(jax.random.key(0), jnp.asarray(s, jnp.int32), jnp.asarray(a))
    np.testing.assert_array_equal(out[1], np.asarray(mdp.transitions)[s, a].argmax(-1))
    np.testing.assert_array_equal(out[2], np.asarray(mdp.rewards)[s, a])
    np.testing.assert_array_equal(out[3] == 0.0, np.asarray(mdp.terminal)[out[1]])
    before_goal = ~mazes.DYNA.walls.reshape(-1)[s] & (s != 8)
    assert np.flatnonzero(before_goal & (out[2] > 0)).tolist() == [17 * 4 + UP]  # the goal's only way in
    assert np.flatnonzero(mdp.terminal).tolist() == [8]


def test_a_changing_maze_counts_steps_across_goals():
    env = mazes.blocking_maze(change_at=25)
    assert env.spec.time_limit is None
    right_way = [RIGHT] * 5 + [UP] * 5
    state, cell, reward, discount, last = walk(env, right_way * 3)
    # Two laps of ten steps; the third finds the barrier closed at (3, 8) and stays at (4, 8).
    np.testing.assert_array_equal(np.flatnonzero(reward), [9, 19])
    np.testing.assert_array_equal(discount, 1.0 - reward)
    np.testing.assert_array_equal(cell[[9, 19]], 5 * 9 + 3)
    np.testing.assert_array_equal(cell[25:], 4 * 9 + 8)
    assert not last.any()
    assert int(state.time) == 30
    # From there the long way round: eight left, four up, eight right.
    _, cell, reward, _, _ = walk(env, [LEFT] * 8 + [UP] * 4 + [RIGHT] * 8, state)
    np.testing.assert_array_equal(np.flatnonzero(reward), [19])


def test_the_shortcut_opens_and_the_old_path_stays():
    env = mazes.shortcut_maze(change_at=26)
    left_way, right_way = [LEFT] * 3 + [UP] * 5 + [RIGHT] * 8, [RIGHT] * 5 + [UP] * 5
    reward = walk(env, left_way + right_way)[2]
    np.testing.assert_array_equal(np.flatnonzero(reward), [15])  # closed until 26 steps are made
    reward = walk(env, left_way * 2 + right_way)[2]
    np.testing.assert_array_equal(np.flatnonzero(reward), [15, 31, 41])


def test_an_experiment_as_one_episode_and_a_wall_around_the_agent():
    env = mazes.blocking_maze(change_at=7, time_limit=8)
    # Seven steps lead into the gap (3, 8), which then closes: it can be left.
    _, cell, reward, discount, last = walk(env, [RIGHT] * 5 + [UP] * 3)
    np.testing.assert_array_equal(cell[-2:], [3 * 9 + 8, 2 * 9 + 8])
    np.testing.assert_array_equal(last, np.arange(8) == 7)
    assert discount.min() == 1.0
    assert reward.sum() == 0.0
    # Six steps with the first walls: the seventh finds the gap closed.
    cell = walk(mazes.blocking_maze(change_at=6), [RIGHT] * 5 + [UP] * 2)[1]
    np.testing.assert_array_equal(cell[-2:], 4 * 9 + 8)


def test_invalid_mazes_are_refused():
    grid = mazes.WAY_RIGHT
    with pytest.raises(ValueError, match="rows of one length"):
        mazes.layout("S..\n.G")
    for picture in ("S.x\n..G", "S.S\n..G", "S..\n..."):
        with pytest.raises(ValueError, match="picture must be made of"):
            mazes.layout(picture)
    with pytest.raises(ValueError, match="start must be a free cell of the 6 x 9 grid"):
        mazes.maze(grid._replace(start=(3, 0)))
    with pytest.raises(ValueError, match="goal must be a free cell"):
        mazes.as_mdp(grid._replace(goal=(0, 9)))
    with pytest.raises(ValueError, match="goal must not be the start"):
        mazes.maze(grid._replace(goal=grid.start))
    with pytest.raises(ValueError, match="factor must be at least 1"):
        mazes.grow(grid, 0)
    with pytest.raises(ValueError, match="change_at must be at least 0"):
        mazes.blocking_maze(change_at=-1)
    with pytest.raises(ValueError, match="same size, start and goal"):
        mazes.changing_maze(grid, mazes.DYNA, 10)
    with pytest.raises(ValueError, match="time_limit must be at least 1"):
        mazes.dyna_maze(time_limit=0)
