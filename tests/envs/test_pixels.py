"""Drawn environments: every pixel against a loop over its distance to the shapes; the task below stays the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.envs import pixel_tasks, pixels, wrappers
from mbrl_jax.envs.cartpole import cartpole_swingup
from mbrl_jax.envs.registry import make_env, task_name

KEY = jax.random.key(0)
LINE = pixels.Line(jnp.array([-0.5, -0.3]), jnp.array([0.4, 0.6]), 0.2, (1.0, 0.5, 0.0))
DISC = pixels.Disc(jnp.array([0.3, -0.4]), 0.35, (0.0, 0.2, 1.0))
RECTANGLE = pixels.Rectangle(jnp.array([-0.2, 0.1]), (0.9, 0.3), (0.3, 0.3, 0.3))


def to_line(x, y):
    (ax, ay), (bx, by) = np.asarray(LINE.start, float), np.asarray(LINE.end, float)
    nearest = min(np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) for t in np.linspace(0, 1, 4001))
    return nearest - 0.1


def to_disc(x, y):
    return np.hypot(x - 0.3, y + 0.4) - 0.35


def to_rectangle(x, y):
    left, right, low, high = -0.65, 0.25, -0.05, 0.25
    if left <= x <= right and low <= y <= high:
        return -min(x - left, right - x, y - low, high - y)
    return np.hypot(max(left - x, 0, x - right), max(low - y, 0, y - high))


def test_pixels_are_covered_by_their_distance_to_the_shapes():
    size, image = 12, np.zeros((12, 12, 3))
    for row in range(size):
        for column in range(size):
            x, y = (column + 0.5) * 2 / size - 1, 1 - (row + 0.5) * 2 / size
            for shape, away in ((RECTANGLE, to_rectangle), (LINE, to_line), (DISC, to_disc)):
                share = min(max(0.5 - away(x, y) * size / 2, 0), 1)
                image[row, column] = (1 - share) * image[row, column] + share * np.array(shape.color)
    out = jax.jit(lambda: pixels.render([RECTANGLE, LINE, DISC], size))()
    assert out.dtype == jnp.uint8
    assert np.abs(np.asarray(out, float) - 255 * image).max() <= 1.0
    assert 0 < np.mean((image > 0.02) & (image < 0.98)) < 1  # some edges are smooth


def test_edges_move_by_parts_of_a_pixel():
    def drawn(x):
        return np.asarray(pixels.render([pixels.Disc(jnp.array([x, 0.0]), 0.3, (1.0, 1.0, 1.0))], 16), float)[..., 0]

    def centre(image):
        return (image.sum(0) * (np.arange(16) + 0.5)).sum() / image.sum()

    assert drawn(0.03).sum() == pytest.approx(drawn(0.0).sum(), rel=0.03)
    assert centre(drawn(0.03)) - centre(drawn(0.0)) == pytest.approx(0.03 * 8, abs=0.03)


@pytest.mark.parametrize("name", ["Pendulum-pixels", "CartPole-pixels", "CartPoleSwingUp-pixels"])
def test_the_task_is_that_of_the_environment_below(name):
    base = name.removesuffix("-pixels")
    env, below = make_env(name), make_env(base if base == "CartPoleSwingUp" else f"{base}-v1")
    assert (env.spec.obs.shape, env.spec.obs.dtype) == ((32, 32, 3), jnp.uint8)
    assert env.spec[1:4] == below.spec[1:4]
    assert env.spec.name == name
    (state, obs), (state_below, _) = jax.jit(env.reset)(KEY), jax.jit(below.reset)(KEY)
    step, step_below = jax.jit(env.step), jax.jit(below.step)
    assert env.observe is not None
    for i in range(4):
        action = env.spec.action.sample(jax.random.fold_in(KEY, i))
        before = obs
        state, obs, *out = step(KEY, state, action)
        state_below, _, *out_below = step_below(KEY, state_below, action)
        np.testing.assert_allclose(np.asarray(out, float), np.asarray(out_below, float), rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, state_below)
        assert (obs.shape, obs.dtype) == ((32, 32, 3), jnp.uint8)
        assert not np.array_equal(obs, before)
        np.testing.assert_array_equal(env.observe(state), obs)


def test_a_leaning_pole_is_drawn_to_its_side():
    _, state = cartpole_swingup(), jnp.array([0.0, 0.0, 0.5, 0.0])
    right = np.asarray(pixels.render(pixels.draw_swingup(wrappers.Timed(state, jnp.int32(0))), 32), float)
    left = np.asarray(pixels.render(pixels.draw_swingup(wrappers.Timed(-state, jnp.int32(0))), 32), float)
    assert right[:16, 16:].sum() > 2 * right[:16, :16].sum() > 0  # upright is above the rail in the middle
    np.testing.assert_allclose(left, right[:, ::-1], atol=1)


def test_names_and_sizes():
    assert make_env("CartPole-pixels-64").spec.obs.shape == (64, 64, 3)
    assert make_env("CartPole-pixels-64").spec.name == "CartPole-pixels-64"
    stacked = make_env("CartPole-pixels-x2-stack3")
    assert (stacked.spec.obs.shape, stacked.spec.time_limit) == ((32, 32, 9), 250)
    assert task_name("CartPole-pixels-x2-stack3") == "CartPole-pixels"
    with pytest.raises(ValueError, match="size must be at least 8 pixels, got 4"):
        pixel_tasks.cartpole(4)
    with pytest.raises(ValueError, match="must stack at most 500 frames, an episode of CartPole-pixels"):
        make_env("CartPole-pixels-stack501")
    with pytest.raises(ValueError, match="frame_stack needs images"):
        make_env("CartPole-v1-stack3")
