"""Pictures of environments' states, uint8 [H, W, 3], as pure functions: what `Env.render` holds.

Lines and discs cover a pixel by their signed distance s to its centre, in pixels, which smooths their edges:

    share = clip(1/2 - s, 0, 1),    picture <- (1 - share) picture + share color

Coordinates are those of a square from (-1, -1), bottom left, to (1, 1), top right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Env
from mbrl_jax.core.types import State

if TYPE_CHECKING:
    from mbrl_jax.envs.maze import Layout

Color: TypeAlias = tuple[int, int, int]

WHITE, GREY, DARK = (255, 255, 255), (214, 214, 214), (70, 70, 70)
BLUE, ORANGE, GREEN, RED = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)

SIZE = 160
"""Pixels of a side of a picture of lines."""
CELL = 20
"""Pixels of a side of a cell."""


def line(picture: Array, start: Any, end: Any, width: float, color: Color) -> Array:
    """Draws a line with round ends over a picture.

    Args:
      picture: [S, S, 3] float32 from 0 to 255.
      start, end: [2] each.
      width: of the line.
      color: red, green and blue from 0 to 255.
    Returns:
      the new picture.
    """
    first, along = jnp.asarray(start), jnp.asarray(end) - jnp.asarray(start)
    to = _points(len(picture)) - first
    place = jnp.clip(to @ along / jnp.maximum(along @ along, 1e-12), 0.0, 1.0)
    return _over(picture, jnp.linalg.norm(to - place[..., None] * along, axis=-1) - width / 2, color)


def disc(picture: Array, centre: Any, radius: float, color: Color) -> Array:
    """Draws a filled circle over a picture.

    Args:
      picture: [S, S, 3] float32 from 0 to 255.
      centre: [2].
      radius: of the circle.
      color: red, green and blue from 0 to 255.
    Returns:
      the new picture.
    """
    return _over(picture, jnp.linalg.norm(_points(len(picture)) - jnp.asarray(centre), axis=-1) - radius, color)


def _over(picture: Array, distance: Array, color: Color) -> Array:
    share = jnp.clip(0.5 - distance * (len(picture) / 2), 0.0, 1.0)[..., None]
    return (1.0 - share) * picture + share * jnp.asarray(color, jnp.float32)


def _points(size: int) -> Array:
    """[size, size, 2] the centres of the pixels."""
    at = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
    return jnp.stack(jnp.meshgrid(at, -at), axis=-1)


def _blank() -> Array:
    return jnp.full((SIZE, SIZE, 3), 255.0, jnp.float32)


def _bytes(picture: Array) -> Array:
    return jnp.round(picture).astype(jnp.uint8)


# Carts and pendulums ------------------------------------------------------------------------------------------------


def cart(x: Array, theta: Array, length: float, height: float) -> Array:
    """A cart on its rail, with a pole.

    Args:
      x: [] place of the cart in the picture.
      theta: [] rad, 0 upright, positive where the tip leans to the right.
      length: of the pole in the picture.
      height: of the rail in the picture.
    Returns:
      [SIZE, SIZE, 3] uint8.
    """
    hinge = jnp.stack([x, jnp.full_like(x, height)])
    tip = hinge + length * jnp.stack([jnp.sin(theta), jnp.cos(theta)])
    picture = line(_blank(), (-1.0, height), (1.0, height), 0.02, GREY)
    picture = line(picture, hinge - jnp.array([0.12, 0.0]), hinge + jnp.array([0.12, 0.0]), 0.16, DARK)
    return _bytes(disc(line(picture, hinge, tip, 0.08, ORANGE), hinge, 0.04, BLUE))


def cartpole(state: Any) -> Array:
    """A state of gymnax's CartPole-v1; the ends of the rail, ±2.4 m, are at ±0.8."""
    return cart(state.x / 3.0, state.theta, 1.1, -0.6)


def continuous_cartpole(state: Any) -> Array:
    """A state of the balancing task with one continuous action, as `cartpole`."""
    x, _, theta, _ = state
    return cart(x / 3.0, theta, 1.1, -0.6)


def swingup(state: Any) -> Array:
    """A state of the swing-up: 2 m to either side; beyond, the cart is out of sight."""
    x, _, theta, _ = state
    return cart(x / 2.0, theta, 0.6, 0.0)


def pendulum(state: Any) -> Array:
    """A state of gymnax's Pendulum-v1: a rod around the middle, positive angles anticlockwise."""
    tip = 0.8 * jnp.stack([-jnp.sin(state.theta), jnp.cos(state.theta)])
    return _bytes(disc(line(_blank(), (0.0, 0.0), tip, 0.16, ORANGE), (0.0, 0.0), 0.06, DARK))


# Boards -------------------------------------------------------------------------------------------------------------


def board(cells: Array) -> Array:
    """A picture of coloured cells, each `CELL` pixels wide with a line of grey around it.

    Args:
      cells: [H, W, 3] uint8.
    Returns:
      [H CELL, W CELL, 3] uint8.
    """
    large = jnp.repeat(jnp.repeat(cells, CELL, axis=0), CELL, axis=1)
    edge = [jnp.arange(length) % CELL == 0 for length in large.shape[:2]]
    return jnp.where((edge[0][:, None] | edge[1][None, :])[..., None], jnp.array(GREY, jnp.uint8), large)


def grid(layout: Layout, cell: Array) -> Array:
    """A maze: walls dark, the goal green, the agent blue.

    Args:
      layout: walls, start and goal.
      cell: [] number of the agent's cell, row · width + column.
    Returns:
      [H CELL, W CELL, 3] uint8.
    """
    cells = np.where(np.asarray(layout.walls)[..., None], DARK, WHITE).astype(np.uint8)
    cells[tuple(layout.goal)] = GREEN
    here = (jnp.arange(cells.shape[0] * cells.shape[1]) == cell).reshape(*cells.shape[:2], 1)
    return board(jnp.where(here, jnp.array(BLUE, jnp.uint8), cells))


def on_grid(env: Env, layout: Callable[[], Layout]) -> Env:
    """An environment with numbered cells, drawn as a maze.

    Args:
      env: its `observe` gives row · width + column.
      layout: () -> walls, start and goal; called when the first picture is drawn.
    """
    observe, known = env.observe, cache(layout)
    assert observe is not None

    def render(state: State) -> Array:
        with jax.ensure_compile_time_eval():
            found = known()
        return grid(found, observe(state))

    return env._replace(render=render)


def tictactoe(state: Any) -> Array:
    """A board of tic-tac-toe: the stones of the player who began are blue, the other's orange."""
    first = state.player == 0
    began, other = jnp.where(first, state.own, state.other), jnp.where(first, state.other, state.own)
    cells = jnp.full((9, 3), 255, jnp.uint8)
    for stones, color in ((began, BLUE), (other, ORANGE)):
        cells = jnp.where(stones[:, None], jnp.array(color, jnp.uint8), cells)
    return board(cells.reshape(3, 3, 3))


def planes(obs: Array) -> Array:
    """Planes of 0 and 1, [H, W, C] or [H, W], each in a color of its own over white.

    Args:
      obs: the planes; later ones cover earlier ones.
    Returns:
      [H CELL, W CELL, 3] uint8.
    """
    colors = (BLUE, ORANGE, RED, GREEN, DARK)
    stack = obs[..., None] if obs.ndim == 2 else obs
    cells = jnp.full((*stack.shape[:2], 3), 255, jnp.uint8)
    for i in range(stack.shape[-1]):
        cells = jnp.where(stack[..., i : i + 1] > 0, jnp.array(colors[i % len(colors)], jnp.uint8), cells)
    return board(cells)


GYMNAX: dict[str, Callable[[Any], Array]] = {"CartPole-v1": cartpole, "Pendulum-v1": pendulum}
"""Drawings of gymnax's environments, of a state each."""


def gymnax(env: Env) -> Env:
    """An environment of gymnax with its drawing, where there is one; planes are drawn as they are.

    Args:
      env: as the adapter gives it.
    """
    observe, shape = env.observe, env.spec.obs.shape
    if env.spec.name in GYMNAX:
        return env._replace(render=GYMNAX[env.spec.name])
    if observe is not None and len(shape) == 3:
        return env._replace(render=lambda state: planes(observe(state)))
    return env
