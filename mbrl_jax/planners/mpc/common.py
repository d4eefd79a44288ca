"""What the planners share: bounds of actions, elites and weights without NaN, and the shift of a plan."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Action, Array, Box, Discrete, Key, Model, Spec, State


class PlanInfo(NamedTuple):
    """Information about one plan."""

    actions: Action  # [H, ...] the plan, whose first action is executed
    score: Array  # [] of the best candidate of the last iteration; minus infinity if no score was finite


class Bounds(NamedTuple):
    """A bounded box of actions."""

    low: Array  # [*shape]
    high: Array  # [*shape]

    @property
    def centre(self) -> Array:
        return 0.5 * (self.low + self.high)

    @property
    def half(self) -> Array:
        """Half of the range, [*shape]: the unit of every standard deviation in the settings."""
        return 0.5 * (self.high - self.low)

    def clip(self, actions: Array) -> Array:
        return jnp.clip(actions, self.low, self.high)


def bounds(spec: Spec) -> Bounds:
    """The bounds of continuous actions.

    Raises:
      ValueError: the actions are discrete, or not bounded on both sides.
    """
    action = spec.action
    if not isinstance(action, Box):
        raise ValueError(f"spec.action of {spec.name} must be a Box: this planner is for continuous actions")
    low, high = (np.broadcast_to(np.asarray(side, np.float32), action.shape) for side in (action.low, action.high))
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(
            f"spec.action of {spec.name} must be bounded, with low below high, got {action.low} to {action.high}"
        )
    return Bounds(jnp.asarray(low), jnp.asarray(high))


def is_discrete(spec: Spec) -> bool:
    """Whether actions are numbered choices."""
    return isinstance(spec.action, Discrete)


def need_below(name: str, value: int, limit: str, most: int) -> None:
    """Checks that one integer setting is below another.

    Args:
      name, value: of the setting.
      limit, most: name and value of the other one.
    Raises:
      ValueError: it is not below.
    """
    if value >= most:
        raise ValueError(f"{name} must be below {limit} ({most}), got {value}")


def shift(plan: Array, last: Array) -> Array:
    """A plan [H, ...] one step later, with `last` [...] as its new last entry."""
    return jnp.concatenate([plan[1:], jnp.broadcast_to(last, plan[-1:].shape)])


def elites(scores: Array, k: int) -> tuple[Array, Array]:
    """The best k candidates and their equal weights.

    Args:
      scores: [N], minus infinity for candidates that do not count.
      k: in 1..N.
    Returns:
      indices [k], best first, and weights [k] that sum to 1 over those with a finite score; all 0 if there is none.
    """
    top, index = jax.lax.top_k(scores, k)
    good = (top > -jnp.inf).astype(scores.dtype)
    return index, good / jnp.maximum(jnp.sum(good), 1.0)


def soft_weights(scores: Array, kappa: Array | float) -> Array:
    """exp(κ (G - max G)), scaled to sum to 1 over finite scores [N]; all 0 if there is none."""
    best = jnp.max(scores)
    raw = jnp.where(scores > -jnp.inf, jnp.exp(kappa * (scores - jnp.where(best > -jnp.inf, best, 0.0))), 0.0)
    return raw / jnp.maximum(jnp.sum(raw), jnp.finfo(raw.dtype).tiny)


def average(weights: Array, values: Array) -> Array:
    """The weighted sum over the first axis: weights [N], values [N, ...] -> [...]."""
    return jnp.tensordot(weights, values.astype(weights.dtype), 1)


def moments(weights: Array, values: Array) -> tuple[Array, Array]:
    """Mean and variance (of the population, no correction) under weights [N] that sum to 1; values [N, ...]."""
    mean = average(weights, values)
    return mean, average(weights, jnp.square(values - mean))


def new_or_old(weights: Array, new: Array, old: Array) -> Array:
    """`new`, or `old` if the weights [N] that `new` was computed with are all 0."""
    return jnp.where(jnp.sum(weights) > 0.0, new, old)


# Discrete actions: a plan is a table of probabilities [H, A] ---------------------------------------------------------


def uniform_table(spec: Spec, horizon: int) -> Array:
    """Equal probabilities of all actions in every step, [H, A]."""
    return jnp.full((horizon, spec.num_actions), 1.0 / spec.num_actions, jnp.float32)


def mixed_with_uniform(table: Array, share: Array | float) -> Array:
    """(1 - share) p + share / A, for a table p [H, A] and a share in [0, 1]."""
    return (1.0 - share) * table + share / table.shape[-1]


def legal_start(model: Model, state: State, table: Array) -> Array:
    """The table with probability 0 for actions that are illegal in the first step.

    Args:
      model: its `legal`, if it has one, gives the mask [A] of legal actions.
      state: the state to plan from.
      table: [H, A] probabilities.
    Returns:
      [H, A].
    """
    if model.legal is None:
        return table
    # Every legal action keeps a probability above 0, so that they can be scaled to sum to 1.
    first = jnp.where(model.legal(state), jnp.maximum(table[0], 1e-6), 0.0)
    return table.at[0].set(first / jnp.sum(first))


def draw(key: Key, table: Array, n: int) -> Array:
    """n sequences [n, H] int32, each step drawn from its row of the table [H, A]."""
    return jax.random.categorical(key, jnp.log(table), shape=(n, table.shape[0])).astype(jnp.int32)


def frequencies(weights: Array, actions: Array, num_actions: int) -> Array:
    """The weighted frequency of each action in each step.

    Args:
      weights: [N] that sum to 1.
      actions: [N, H] int32.
      num_actions: A.
    Returns:
      [H, A].
    """
    return average(weights, jax.nn.one_hot(actions, num_actions, dtype=jnp.float32))
