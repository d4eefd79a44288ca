"""Windows drawn by priority (Schaul et al. 2016, "Prioritized Experience Replay", arXiv 1511.05952).

    P(i) = p_i^α / Σ_k p_k^α,     w_i = (M P(i))^-β / max_batch w

over the M windows that can be made; a window's priority is that of its first row. A new window has the largest
priority given so far. The rows, the windows and the feedback are those of `sequence`.

Differs from the paper in: sums instead of a tree of sums. A draw finds its block of rows by the blocks' sums and its
row by the sums within, so that nothing but one pass over p^α grows with the capacity.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.buffers import sequence
from mbrl_jax.buffers.sequence import Feedback, Ring, Window
from mbrl_jax.core.types import Array, Buffer, Key, Replay, Transition

SMALLEST = 1e-8  # so that a priority of 0 does not remove a window for good


class Prioritized(NamedTuple):
    """A ring with the mass p^α of the window that starts at each row."""

    ring: Ring
    mass: Array  # [blocks, width], N C rows in order and then padding; above 0 exactly where a window starts
    peak: Array  # [] the largest mass given so far


def prioritized(
    capacity: int, length: int, num_envs: int, alpha: Array | float = 0.6, beta: Array | float = 0.4
) -> Buffer:
    """A buffer of windows [length, B] drawn in proportion to a power of their priorities.

    `sample(key, data, n)` gives a `sequence.Window` with importance weights, at most 1; with no whole window yet they
    are 0. The n draws are spread evenly over the total mass, as in the paper. `revise` takes new priorities, and extras
    as `sequence` does.

    Args:
      capacity: rows in all, shared out evenly among environments.
      length: L, rows of a window.
      num_envs: N.
      alpha: α in [0, 1]; 0 is uniform. May be traced.
      beta: β in [0, 1]; 1 corrects for the sampling wholly. May be traced.
    Raises:
      ValueError: a size out of range.
    """
    rows = sequence.check_sizes(capacity, length, num_envs)
    total = num_envs * rows
    width = 2 ** math.ceil(math.log2(math.sqrt(total)))
    blocks = -(-total // width)

    def init(item: Transition) -> Prioritized:
        return Prioritized(sequence.empty(item, rows, num_envs), jnp.zeros((blocks, width)), jnp.float32(1.0))

    def put(mass: Array, index: Array, value: Array) -> Array:
        """Masses at rows `index`, dropped where it is `total` or more."""
        index = jnp.where(index < total, index, blocks * width)
        return mass.reshape(-1).at[index.reshape(-1)].set(value, mode="drop").reshape(blocks, width)

    def add(data: Prioritized, trajectory: Transition) -> Prioritized:
        ring = sequence.append(data.ring, trajectory)
        before, now = data.ring.written, ring.written
        most = jnp.arange(2 * trajectory.reward.shape[0])[:, None]
        base = rows * jnp.arange(num_envs)
        written = jnp.where(most < now - before, base + (before + most) % rows, total)
        # Windows that became whole: those that end in a new row, where their first one is still there.
        start = before - length + 1 + most
        whole = (start + length <= now) & (start >= jnp.maximum(now - rows, 0))
        mass = put(data.mass, written, jnp.float32(0.0))
        return Prioritized(ring, put(mass, jnp.where(whole, base + start % rows, total), data.peak), data.peak)

    def sample(key: Key, data: Prioritized, n: int) -> Window:
        sums = jnp.sum(data.mass, axis=1)
        upto = jnp.cumsum(sums)
        whole = upto[-1]
        below_one = 1.0 - 2.0**-24
        share = jnp.minimum((jnp.arange(n) + jax.random.uniform(key, (n,))) / n, below_one)
        block, rest = _find(sums, upto, share * whole)
        inside = data.mass[block]
        place, _ = jax.vmap(_find)(inside, jnp.cumsum(inside, axis=1), rest)
        index = jnp.where(whole > 0, block * width + place, total)
        count = jnp.sum(jnp.maximum(jnp.minimum(data.ring.written, rows) - length + 1, 0))
        chance = jnp.take_along_axis(inside, place[:, None], 1)[:, 0] / jnp.maximum(whole, SMALLEST)
        weight = jnp.maximum(count * chance, 1e-30) ** -jnp.asarray(beta, jnp.float32)
        weight = jnp.where(whole > 0, weight / jnp.max(weight), 0.0)
        return Window(sequence.windows(data.ring, index, length), index, weight)

    def revise(data: Prioritized, feedback: Any) -> Prioritized:
        if not isinstance(feedback, Feedback):
            return data
        if feedback.extras is not None and jax.tree.leaves(feedback.extras):
            data = data._replace(ring=sequence.write_extras(data.ring, feedback.index, feedback.extras, length))
        if feedback.priority is None:
            return data
        given = jnp.maximum(feedback.priority, SMALLEST) ** jnp.asarray(alpha, jnp.float32)
        starts = data.mass.reshape(-1)[jnp.minimum(feedback.index, total - 1)] > 0
        starts = starts & (feedback.index < total)
        mass = put(data.mass, jnp.where(starts, feedback.index, total), given)
        return Prioritized(data.ring, mass, jnp.maximum(data.peak, jnp.max(jnp.where(starts, given, 0.0))))

    def replay(data: Prioritized) -> Replay:
        return sequence.replay_of(data.ring, sample)._replace(sample=lambda key, n: sample(key, data, n))

    return Buffer(init, add, sample, replay, revise)


def _find(masses: Array, upto: Array, point: Array) -> tuple[Array, Array]:
    """Which of the masses [K], with sums `upto` [K], a point [...] of their total falls on, and how far into it.

    Sums are rounded: a point that falls on no mass goes to the largest.
    """
    at = jnp.minimum(jnp.searchsorted(upto, point, side="right"), masses.shape[0] - 1)
    at = jnp.where(masses[at] > 0, at, jnp.argmax(masses))
    return at, point - (upto - masses)[at]
