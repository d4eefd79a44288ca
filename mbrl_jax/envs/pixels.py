"""Environments seen as pictures, drawn inside the compiled program.

`pixels` turns any environment into one that is observed as an image of bytes; all that it needs is a function `draw`
from a state to shapes. A shape covers a pixel by its signed distance s to the pixel's centre, in pixels, which gives it
smooth edges:

    share = clip(1/2 - s, 0, 1),    picture <- (1 - share) picture + share color

Coordinates are those of a square from (-1, -1), bottom left, to (1, 1), top right. A picture holds no velocities:
agents without a memory need `wrappers.frame_stack`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from mbrl_jax.core import Array, Box, Env, Key
from mbrl_jax.core.types import Action, Obs, State

Color: TypeAlias = tuple[float, float, float]  # red, green, blue, from 0 to 1

CART, POLE, JOINT, GROUND = (0.35, 0.55, 1.0), (1.0, 0.75, 0.2), (1.0, 1.0, 1.0), (0.3, 0.3, 0.3)
RAIL = -0.6  # height of the cart's middle in the picture
POLE_LENGTH = 1.2  # of the balancing pole in the picture: long, so that small angles show
CART_REACH = 0.75  # the cart's place in the picture at the end of its rail
SWINGUP_VIEW = 2.0  # m from the middle to the edge of the picture
SMALLEST = 8  # pixels of a side
PICTURE = 128  # pixels of a side of a picture for people, which `Env.render` gives


class Line(NamedTuple):
    """A line with round ends."""

    start: Array  # [2]
    end: Array  # [2]
    width: float
    color: Color


class Disc(NamedTuple):
    """A filled circle."""

    centre: Array  # [2]
    radius: float
    color: Color


class Rectangle(NamedTuple):
    """A filled rectangle with sides along the axes."""

    centre: Array  # [2]
    size: tuple[float, float]  # width, height
    color: Color


Shape: TypeAlias = Line | Disc | Rectangle


def distance(shape: Shape, point: Array) -> Array:
    """The signed distance from points to a shape's edge, below 0 inside.

    Args:
      shape: a line, a disc or a rectangle.
      point: [..., 2].
    Returns:
      [...].
    """
    if isinstance(shape, Line):
        start, along = jnp.asarray(shape.start), jnp.asarray(shape.end) - jnp.asarray(shape.start)
        place = jnp.clip((point - start) @ along / jnp.maximum(along @ along, 1e-12), 0.0, 1.0)
        return _norm(point - start - place[..., None] * along) - shape.width / 2
    if isinstance(shape, Disc):
        return _norm(point - jnp.asarray(shape.centre)) - shape.radius
    beyond = jnp.abs(point - jnp.asarray(shape.centre)) - jnp.asarray(shape.size) / 2
    return _norm(jnp.maximum(beyond, 0.0)) + jnp.minimum(jnp.max(beyond, axis=-1), 0.0)


def render(shapes: Sequence[Shape], size: int) -> Array:
    """Shapes over black, each over those before it.

    Args:
      shapes: in the square from -1 to 1.
      size: pixels of a side.
    Returns:
      [size, size, 3] uint8, the first row on top.
    """
    at = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
    point = jnp.stack(jnp.meshgrid(at, -at), axis=-1)
    image = jnp.zeros((size, size, 3), jnp.float32)
    for shape in shapes:
        share = jnp.clip(0.5 - distance(shape, point) * (size / 2), 0.0, 1.0)[..., None]
        image = (1.0 - share) * image + share * jnp.asarray(shape.color, jnp.float32)
    return jnp.round(255.0 * image).astype(jnp.uint8)


def pixels(env: Env, draw: Callable[[Any], Sequence[Shape]], size: int = 32, name: str | None = None) -> Env:
    """The same environment, observed as a picture of its state.

    Args:
      env: any environment.
      draw: (state) -> the shapes of its picture, in the square from -1 to 1.
      size: pixels of a side, at least 8; convolutions take multiples of 16 from 32 on.
      name: of the new environment; the old name with "-pixels" if None.
    Returns:
      The environment with observations [size, size, 3] of bytes.
    Raises:
      ValueError: a size below 8.
    """
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST} pixels, got {size}")

    def observe(state: State) -> Array:
        return render(draw(state), size)

    def reset(key: Key) -> tuple[State, Obs]:
        state, _ = env.reset(key)
        return state, observe(state)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        state, _, reward, discount, last = env.step(key, state, action)
        return state, observe(state), reward, discount, last

    space = Box((size, size, 3), 0, 255, jnp.uint8)
    spec = env.spec._replace(obs=space, name=f"{env.spec.name}-pixels" if name is None else name)
    return Env(spec, reset, step, observe, lambda state: render(draw(state), max(size, PICTURE)))


def draw_cart(x: Array, theta: Array, length: float, top: float) -> list[Shape]:
    """A cart on its rail with a pole.

    Args:
      x: [] place of the cart in the picture.
      theta: [] angle of the pole in rad, 0 upright, positive where it leans to the right.
      length: of the pole in the picture.
      top: height of the rail in the picture.
    """
    hinge = jnp.stack([x, jnp.full_like(x, top)])
    tip = hinge + length * jnp.stack([jnp.sin(theta), jnp.cos(theta)])
    ground = jnp.array([-1.0, top]), jnp.array([1.0, top])
    return [
        Line(*ground, 0.05, GROUND),
        Rectangle(hinge, (0.4, 0.22), CART),
        Line(hinge, tip, 0.12, POLE),
        Disc(hinge, 0.06, JOINT),
    ]


def draw_cartpole(state: Any) -> list[Shape]:
    """The picture of a state of gymnax's CartPole-v1: the rail's ends at ±2.4 m are at ±0.75."""
    return draw_cart(state.x * (CART_REACH / 2.4), state.theta, POLE_LENGTH, RAIL)


def draw_swingup(state: Any) -> list[Shape]:
    """The picture of a state of the swing-up: 2 m to either side; beyond, the cart is out of sight."""
    x, _, theta, _ = state.inner
    return draw_cart(x / SWINGUP_VIEW, theta, 0.6, 0.0)


def draw_pendulum(state: Any) -> list[Shape]:
    """The picture of a state of gymnax's Pendulum-v1, a rod around the middle."""
    middle = jnp.zeros(2, jnp.float32)
    tip = 0.8 * jnp.stack([-jnp.sin(state.theta), jnp.cos(state.theta)])  # positive angles turn anticlockwise
    return [Line(middle, tip, 0.2, POLE), Disc(middle, 0.1, JOINT)]


def _norm(vector: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(vector), axis=-1))
