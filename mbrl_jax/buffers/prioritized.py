"""Windows drawn by priority (Schaul et al. 2016, "Prioritized Experience Replay", arXiv 1511.05952).

    P(i) = p_i^α / Σ_k p_k^α,     w_i = (M P(i))^-β / max_batch w

over the M windows that can be made; a window's priority is that of its first row. A new window has the largest
priority given so far. Rows, windows and feedback are those of `sequence`.

Differs from the paper in: block sums instead of a sum tree. A draw finds its block of rows by the sums of the blocks
and its row by the sums within the block, so only one pass over p^α grows with the capacity.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.buffers.sequence import (
    Feedback,
    Ring,
    Window,
    append,
    check_sizes,
    empty,
    per_env,
    replay_of,
    truncate,
    windows,
    write_extras,
)
from mbrl_jax.core.types import Array, Buffer, Key, Replay, Transition

SMALLEST = 1e-8
"""The least priority, so that a priority of 0 does not remove a window for good."""
LARGEST = 1e30
"""The largest priority, so that sums of them stay finite."""


class Prioritized(NamedTuple):
    """A ring with the mass p^α of the window that starts at each row."""

    ring: Ring
    mass: Array  # [blocks, width], N C rows in order and then padding; above 0 exactly where a window starts
    peak: Array  # [] the largest mass given so far


def prioritized(
    capacity: int, length: int, num_envs: int, alpha: Array | float = 0.6, beta: Array | float = 0.4
) -> Buffer:
    """A buffer of windows [length, B] drawn in proportion to a power of their priorities.

    `sample(key, data, n)` gives a `sequence.Window` with importance weights, at most 1; while no window is complete
    they are 0. The n draws are stratified over the total mass, as in the paper. `revise` takes new priorities, and
    extras as `sequence` does.

    Args:
      capacity: rows in all, divided evenly among environments.
      length: L, rows of a window.
      num_envs: N.
      alpha: α in [0, 1]; 0 is uniform. May be traced.
      beta: β in [0, 1]; 1 corrects fully for the sampling. May be traced.
    Raises:
      ValueError: a size out of range.
    """
    rows = check_sizes(capacity, length, num_envs)
    total = num_envs * rows
    width = 2 ** math.ceil(math.log2(math.sqrt(total)))
    blocks = -(-total // width)

    def init(item: Transition) -> Prioritized:
        return Prioritized(empty(item, rows, num_envs), jnp.zeros((blocks, width), jnp.float32), jnp.float32(1.0))

    def sample(key: Key, data: Prioritized, n: int) -> Window:
        return sample_by_priority(key, data, n, length=length, beta=beta)

    def replay(data: Prioritized) -> Replay:
        return replay_of(data.ring, sample)._replace(sample=lambda key, n: sample(key, data, n))

    return Buffer(
        init,
        add=lambda data, trajectory: add_windows(data, trajectory, length=length),
        sample=sample,
        replay=replay,
        revise=lambda data, feedback: revise_priorities(data, feedback, length=length, alpha=alpha),
        truncate=lambda data, obs: _with_windows(data, truncate(data.ring, obs), 1, length),
    )


def add_windows(data: Prioritized, trajectory: Transition, *, length: int) -> Prioritized:
    """Adds a trajectory; windows that become complete get the peak mass, overwritten ones lose theirs.

    Args:
      data: N environments, C rows each.
      trajectory: [T, N, ...], 2T at most C.
      length: L, rows of a window.
    Returns:
      the data with the rows and the masses of their windows; the peak is unchanged.
    Raises:
      ValueError: more rows than the ring holds.
    """
    return _with_windows(data, append(data.ring, trajectory), 2 * trajectory.reward.shape[0], length)


def _with_windows(data: Prioritized, ring: Ring, most: int, length: int) -> Prioritized:
    """The data with a ring to which up to `most` rows of each environment were added, and the masses of its windows."""
    rows, num_envs = per_env(ring), ring.written.shape[0]
    before, now, total = data.ring.written, ring.written, num_envs * rows
    offsets = jnp.arange(most)[:, None]
    base = rows * jnp.arange(num_envs)
    written = jnp.where(offsets < now - before, base + (before + offsets) % rows, total)
    # Complete now: windows that end in a new row and whose first row is still there.
    start = before - length + 1 + offsets
    complete = (start + length <= now) & (start >= jnp.maximum(now - rows, 0))
    mass = _put(data.mass, written, jnp.float32(0.0), total)
    mass = _put(mass, jnp.where(complete, base + start % rows, total), data.peak, total)
    return Prioritized(ring, mass, data.peak)


def sample_by_priority(key: Key, data: Prioritized, n: int, *, length: int, beta: Array | float) -> Window:
    """Draws windows in proportion to their masses (Schaul et al. 2016, section 3.3), with importance weights (3.4).

    Args:
      key: used once.
      data: masses p^α.
      n: number of windows, one from each of n equal parts of the total mass.
      length: L, rows of a window.
      beta: β in [0, 1].
    Returns:
      n windows; their weights [n] are at most 1, and 0 while no window is complete.
    """
    rows, total = per_env(data.ring), data.ring.steps.first.shape[0]
    sums = jnp.sum(data.mass, axis=1)
    upto = jnp.cumsum(sums)
    whole = upto[-1]
    below_one = 1.0 - 2.0**-24
    share = jnp.minimum((jnp.arange(n) + jax.random.uniform(key, (n,), jnp.float32)) / n, below_one)
    block, rest = _find(sums, upto, share * whole)
    inside = data.mass[block]
    place, _ = jax.vmap(_find)(inside, jnp.cumsum(inside, axis=1), rest)
    index = jnp.where(whole > 0, block * data.mass.shape[1] + place, total)
    count = jnp.sum(jnp.maximum(jnp.minimum(data.ring.written, rows) - length + 1, 0))
    probability = jnp.take_along_axis(inside, place[:, None], 1)[:, 0] / jnp.maximum(whole, SMALLEST)
    weight = jnp.maximum(count * probability, 1e-30) ** -jnp.asarray(beta, jnp.float32)
    weight = jnp.where(whole > 0, weight / jnp.max(weight), 0.0)
    return Window(windows(data.ring, index, length), index, weight)


def revise_priorities(data: Prioritized, feedback: Any, *, length: int, alpha: Array | float) -> Prioritized:
    """Writes new priorities and extras of the windows an agent was given.

    Args:
      data: masses p^α.
      feedback: a `Feedback`; anything else changes nothing, and a priority that is NaN or infinite not its window's.
      length: L, rows of a window.
      alpha: α in [0, 1].
    Returns:
      the data with the new masses and extras; the peak is the largest mass given so far.
    """
    if not isinstance(feedback, Feedback):
        return data
    if feedback.extras is not None and jax.tree.leaves(feedback.extras):
        data = data._replace(ring=write_extras(data.ring, feedback.index, feedback.extras, length))
    if feedback.priority is None:
        return data
    total = data.ring.steps.first.shape[0]
    given = jnp.clip(feedback.priority, SMALLEST, LARGEST) ** jnp.asarray(alpha, jnp.float32)
    starts = data.mass.reshape(-1)[jnp.minimum(feedback.index, total - 1)] > 0
    starts = starts & (feedback.index < total) & jnp.isfinite(feedback.priority)
    mass = _put(data.mass, jnp.where(starts, feedback.index, total), given, total)
    return Prioritized(data.ring, mass, jnp.maximum(data.peak, jnp.max(jnp.where(starts, given, 0.0))))


def _put(mass: Array, index: Array, value: Array, total: int) -> Array:
    """Writes the masses of rows `index`; those that are `total` or more are dropped."""
    index = jnp.where(index < total, index, mass.size)
    return mass.reshape(-1).at[index.reshape(-1)].set(value, mode="drop").reshape(mass.shape)


def _find(masses: Array, upto: Array, point: Array) -> tuple[Array, Array]:
    """Which of the masses [K], with sums `upto` [K], contains a point [...] of their total, and how far into it.

    Sums are rounded: a point that falls on a mass of 0 goes to the largest mass.
    """
    at = jnp.minimum(jnp.searchsorted(upto, point, side="right"), masses.shape[0] - 1)
    at = jnp.where(masses[at] > 0, at, jnp.argmax(masses))
    return at, point - (upto - masses)[at]
