"""Pictures of states: what is where, pixel by pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, Env, Spec
from mbrl_jax.envs import drawings, make_env, pixels, wrappers
from mbrl_jax.envs.hidden import hide
from mbrl_jax.envs.maze import DYNA
from mbrl_jax.envs.tictactoe import Board

CELL, SIZE = drawings.CELL, drawings.SIZE


def at(picture, x, y):
    """The pixel at a place in the square from -1 to 1."""
    return tuple(np.asarray(picture)[round((1 - y) / 2 * (SIZE - 1)), round((x + 1) / 2 * (SIZE - 1))].tolist())


def cell(picture, row, column):
    return tuple(np.asarray(picture)[row * CELL + CELL // 2, column * CELL + CELL // 2].tolist())


def near(color, drawn):
    return np.allclose(np.asarray(drawn) / 255.0, color, atol=0.01)


def test_the_pole_leans_where_the_state_says():
    env = make_env("CartPole-v1")
    state, _ = env.reset(jax.random.key(0))
    assert env.render is not None
    right = env.render(state.replace(x=jnp.float32(1.2), theta=jnp.float32(0.3)))
    assert (right.shape, right.dtype) == ((SIZE, SIZE, 3), jnp.uint8)
    x, height = 0.75 / 2, -0.6
    assert near(pixels.POLE, at(right, x + 0.8 * np.sin(0.3), height + 0.8 * np.cos(0.3)))
    assert near((0, 0, 0), at(right, x - 0.8 * np.sin(0.3), height + 0.8 * np.cos(0.3)))
    assert near(pixels.CART, at(right, x + 0.15, height))


def test_the_pendulum_turns_anticlockwise():
    env = make_env("Pendulum-v1")
    state, _ = env.reset(jax.random.key(0))
    assert env.render is not None
    left = env.render(state.replace(theta=jnp.float32(np.pi / 2)))
    assert near(pixels.POLE, at(left, -0.5, 0.0))
    assert near((0, 0, 0), at(left, 0.5, 0.0))


@pytest.mark.parametrize(
    "name", ["ContinuousCartPole", "CartPoleSwingUp", "CartPole-pixels", "Reach", "CartPole-pixels-stack2"]
)
def test_others_have_a_picture_of_some_size(name):
    env = make_env(name)
    drawn = jax.eval_shape(lambda: env.render(env.reset(jax.random.key(0))[0]))
    assert (drawn.dtype, drawn.ndim, drawn.shape[2]) == (jnp.uint8, 3, 3)
    assert drawn.shape[0] >= 100


@pytest.mark.parametrize(("name", "free", "start", "goal", "wall"), [
    ("DynaMaze", (0, 0), (2, 0), (0, 8), (0, 7)),
    ("FrozenLake", (0, 1), (0, 0), (3, 3), (1, 1)),
    pytest.param("FourRooms", (1, 1), (4, 1), (8, 9), (0, 0), marks=pytest.mark.slow),
])  # fmt: skip
def test_mazes_show_walls_goal_and_agent(name, free, start, goal, wall):
    env = make_env(name)
    state, _ = env.reset(jax.random.key(0))
    assert env.render is not None
    drawn = jax.jit(env.render)(state)
    seen = [cell(drawn, *place) for place in (free, start, goal, wall)]
    assert seen == [drawings.WHITE, drawings.BLUE, drawings.GREEN, drawings.DARK]


def test_the_maze_is_as_large_as_its_layout_and_the_agent_moves():
    drawn = drawings.grid(DYNA, jnp.int32(9 * 5 + 4))
    assert drawn.shape == (6 * CELL, 9 * CELL, 3)
    assert cell(drawn, 5, 4) == drawings.BLUE
    assert cell(drawn, 2, 0) == drawings.WHITE


@pytest.mark.parametrize("player", [0, 1])
def test_the_stones_keep_their_colors_whoever_is_to_move(player):
    first, second = jnp.arange(9) == 4, jnp.arange(9) == 8
    own, other = (first, second) if player == 0 else (second, first)
    drawn = drawings.tictactoe(Board(own, other, jnp.int32(player), jnp.zeros((), bool)))
    assert [cell(drawn, 1, 1), cell(drawn, 2, 2), cell(drawn, 0, 0)] == [drawings.BLUE, drawings.ORANGE, drawings.WHITE]


def test_planes_have_colors_of_their_own():
    obs = jnp.zeros((2, 3, 2)).at[0, 1, 0].set(1).at[1, 2, 1].set(1)
    drawn = drawings.planes(obs)
    assert [cell(drawn, 0, 1), cell(drawn, 1, 2), cell(drawn, 0, 0)] == [drawings.BLUE, drawings.ORANGE, drawings.WHITE]


def counter() -> Env:
    """A number that counts up, drawn as one pixel of its value."""

    def step(key, state, action):
        return state + 1, jnp.full(3, state + 1.0), jnp.ones(()), jnp.ones(()), jnp.zeros((), bool)

    return Env(
        Spec(Box((3,), 0.0, 9.0), Discrete(2), terminates=False), lambda key: (jnp.int32(0), jnp.zeros(3)), step,
        lambda state: jnp.full(3, state * 1.0), lambda state: jnp.full((1, 1, 3), state, jnp.uint8),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.time_limit(env, 9),
        lambda env: wrappers.repeat_action(wrappers.time_limit(env, 9), 1),
        wrappers.flatten,
        wrappers.scale_obs,
        wrappers.reveal_state,
        lambda env: hide(env, (1,)),
    ],
)
def test_wrappers_keep_the_picture(wrap):
    env = wrap(counter())
    state, _ = env.reset(jax.random.key(0))
    state, *_ = env.step(jax.random.key(1), state, jnp.int32(0))
    np.testing.assert_array_equal(env.render(state), [[[1, 1, 1]]])
