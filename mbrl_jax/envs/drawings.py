"""Pictures of environments' states, uint8 [H, W, 3], as pure functions: what `Env.render` holds.

Carts and pendulums are the shapes of `envs.pixels`; boards are cells of one color each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import Array, Env
from mbrl_jax.core.types import State
from mbrl_jax.envs import pixels

if TYPE_CHECKING:
    from mbrl_jax.envs.maze import Layout

Color: TypeAlias = tuple[int, int, int]

WHITE, GREY, DARK = (255, 255, 255), (214, 214, 214), (70, 70, 70)
BLUE, ORANGE, GREEN, RED = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)

SIZE = pixels.PICTURE
"""Pixels of a side of a picture of shapes."""
CELL = 20
"""Pixels of a side of a cell."""


def picture(shapes: Sequence[pixels.Shape]) -> Array:
    """Shapes over black.

    Args:
      shapes: in the square from -1 to 1, as `envs.pixels` has them.
    Returns:
      [SIZE, SIZE, 3] uint8.
    """
    return pixels.render(shapes, SIZE)


def cartpole(state: Any) -> Array:
    """A state of gymnax's CartPole-v1."""
    return picture(pixels.draw_cartpole(state))


def continuous_cartpole(state: Any) -> Array:
    """A state of the balancing task with one continuous action."""
    x, _, theta, _ = state
    return picture(pixels.draw_cart(x * (pixels.CART_REACH / 2.4), theta, pixels.POLE_LENGTH, pixels.RAIL))


def swingup(state: Any) -> Array:
    """A state of the swing-up, without its time."""
    x, _, theta, _ = state
    return picture(pixels.draw_cart(x / pixels.SWINGUP_VIEW, theta, 0.6, 0.0))


def pendulum(state: Any) -> Array:
    """A state of gymnax's Pendulum-v1."""
    return picture(pixels.draw_pendulum(state))


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
