"""Problems with known answers for planners."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp

from mbrl_jax.core import Box, Discrete, Model, Spec, StepOut

SPEC = Spec(Box((1,)), Box((2,), -1.0, 1.0), name="quadratic")
WIDE = Spec(Box((1,)), Box((2,), jnp.array([-1.0, 0.0]), jnp.array([3.0, 10.0])), name="wide")
CHOICE = Spec(Discrete(4), Discrete(3), name="choices")


def quadratic(target, beyond=jnp.inf, bad=jnp.nan):
    """Rewards -|a - target|², and `bad` wherever an action's first entry is above `beyond`."""
    target = jnp.asarray(target)

    def step(key, state, action):
        reward = -jnp.sum(jnp.square(action - target))
        return StepOut(state, jnp.where(action[0] > beyond, bad, reward), jnp.ones(()))

    return Model(step)


def lock(numbers):
    """A reward of 1 for each step whose action is the next of the numbers; states count the steps."""
    numbers = jnp.asarray(numbers)
    return Model(
        lambda key, state, action: StepOut(state + 1, (action == numbers[state]).astype(jnp.float32), jnp.ones(()))
    )


@cache
def solver(planner):
    """The planner's first plan against a quadratic, compiled once for all quadratics."""

    def plan(key, target, beyond, bad):
        return planner.plan(key, quadratic(target, beyond, bad), jnp.zeros(1), planner.init())

    return jax.jit(plan)


def solve(planner, target, beyond=jnp.inf, bad=jnp.nan, key=0):
    """action, memory, info of the first plan against `quadratic(target, beyond, bad)`."""
    return solver(planner)(jax.random.key(key), jnp.asarray(target, jnp.float32), beyond, bad)
