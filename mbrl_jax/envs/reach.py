"""A point on a grid that is to reach a goal, by a vector of two discrete actions.

A square has 11 x 11 places, 0.2 apart in [-1, 1]². Each entry of the action moves the point along one axis, by one
place back, not at all, or by one place on, and never beyond the edge. Every step costs 0.05; at the goal the episode
terminates with a reward of 1 in place of the cost. From d steps away, the longer side of the way, the best return is
1 - 0.05 (d - 1): 0.79 on average.

`reach_seen` shows the point in a picture and the goal as a vector: a dict of an image and a vector.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Box, DictSpace, Env, Key, MultiDiscrete, Spec
from mbrl_jax.core.types import Action, Obs
from mbrl_jax.envs import pixels

PLACES = 11  # of a side
COST = 0.05  # of a step
STEPS = 30  # time limit


class State(NamedTuple):
    """Where the point and the goal are, and for how long."""

    point: Array  # [2] int32, 0 to 10
    goal: Array  # [2] int32
    time: Array  # [] int32


def reach(steps: int = STEPS) -> Env:
    """The task with vectors as observations.

    Args:
      steps: the time limit, at least 1.
    Returns:
      An environment with observations [4], point and goal in [-1, 1], and actions `MultiDiscrete((3, 3))`.
    Raises:
      ValueError: the time limit is below 1.
    """
    space = Box((4,), -1.0, 1.0)
    return _made("Reach", space, lambda state: jnp.concatenate([_at(state.point), _at(state.goal)]), steps)


def reach_seen(size: int = 32, steps: int = STEPS) -> Env:
    """The task with a dict as observations: "image" [size, size, 3] shows the point, "goal" [2] is where it must go.

    Args:
      size: pixels of a side, at least 8.
      steps: the time limit, at least 1.
    Raises:
      ValueError: a size or a time limit that is too small.
    """
    if size < pixels.SMALLEST:
        raise ValueError(f"size must be at least {pixels.SMALLEST} pixels, got {size}")

    def observe(state: State) -> dict[str, Array]:
        disc = pixels.Disc(0.85 * _at(state.point), 0.12, pixels.POLE)
        return {"image": pixels.render([disc], size), "goal": _at(state.goal)}

    space = DictSpace({"image": Box((size, size, 3), 0, 255, jnp.uint8), "goal": Box((2,), -1.0, 1.0)})
    return _made("Reach-seen", space, observe, steps)


def _at(place: Array) -> Array:
    """Coordinates in [-1, 1] of places on the grid."""
    return place.astype(jnp.float32) * (2.0 / (PLACES - 1)) - 1.0


def _made(name: str, space: Any, observe: Any, steps: int) -> Env:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    def reset(key: Key) -> tuple[State, Obs]:
        key_point, key_way = jax.random.split(key)
        places = PLACES * PLACES
        point = jax.random.randint(key_point, (), 0, places, jnp.int32)
        goal = (point + jax.random.randint(key_way, (), 1, places, jnp.int32)) % places  # never the point itself
        two = lambda place: jnp.stack([place // PLACES, place % PLACES])  # noqa: E731
        state = State(two(point), two(goal), jnp.int32(0))
        return state, observe(state)

    def step(key: Key, state: State, action: Action) -> tuple[State, Obs, Array, Array, Array]:
        del key
        point = jnp.clip(state.point + action - 1, 0, PLACES - 1).astype(jnp.int32)
        state = State(point, state.goal, state.time + 1)
        there = jnp.all(point == state.goal)
        reward = jnp.where(there, 1.0, -COST).astype(jnp.float32)
        return state, observe(state), reward, 1.0 - there.astype(jnp.float32), there | (state.time >= steps)

    def render(state: State) -> Array:
        discs = [
            pixels.Disc(0.85 * _at(place), 0.12, color)
            for place, color in ((state.goal, pixels.CART), (state.point, pixels.POLE))
        ]
        return pixels.render(discs, pixels.PICTURE)

    return Env(Spec(space, MultiDiscrete((3, 3)), steps, name=name), reset, step, observe, render)
