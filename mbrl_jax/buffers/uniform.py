"""A ring of transitions, sampled uniformly.

Memory is bounded from the start: bytes = capacity x bytes of one transition (x seeds under `vmap`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Buffer, Key, Replay, Transition, Tree


class Ring(NamedTuple):
    """Rows, of which the first `size` are in use; the next row is written at `head`."""

    rows: Transition  # [C, ...]
    head: Array  # [] int32
    size: Array  # [] int32


def empty(item: Transition, capacity: int) -> Ring:
    """An empty ring of `capacity` rows.

    Args:
      item: one row, or its shapes.
      capacity: C.
    """
    rows = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), item)
    return Ring(rows, jnp.int32(0), jnp.int32(0))


def check_axes(stored: Tree, given: Tree, axes: int, name: str, form: str) -> None:
    """Checks rows before they are stored: the fields of the stored ones, each with the same leading axes in front.

    Args:
      stored: [C, ...] rows of a buffer.
      given: what is to be stored.
      axes: number of leading axes of `given`.
      name, form: of `given` in messages: "trajectory", "[T, N, ...]".
    Raises:
      ValueError: another structure, other shapes, or leading axes that differ.
    """
    if jax.tree.structure(stored) != jax.tree.structure(given):
        raise ValueError(
            f"{name} must have the fields that the buffer was made for, {jax.tree.structure(stored)}, "
            f"got {jax.tree.structure(given)}"
        )
    lead = jnp.shape(jax.tree.leaves(given)[0])[:axes]
    for (path, old), new in zip(jax.tree.leaves_with_path(stored), jax.tree.leaves(given), strict=True):
        if jnp.shape(new) != (*lead, *old.shape[1:]) or len(lead) < axes:
            raise ValueError(
                f"{name} must be {form}: {name}{jax.tree_util.keystr(path)} must be "
                f"{form[:-6]}{_inner(old.shape[1:])}, got {list(jnp.shape(new))}"
            )


def _inner(shape: tuple[int, ...]) -> str:
    """The rest of a shape's text after its leading axes."""
    return "".join(f", {n}" for n in shape) + "]"


def append(ring: Ring, rows: Transition, mask: Array | None = None, wrap: Array | int | None = None) -> Ring:
    """Writes rows at the head; where the ring is full, over the oldest ones.

    Args:
      ring: capacity C.
      rows: [N, ...], N at most C.
      mask: [N] bool; rows where it is False are left out, without gaps. All rows if None.
      wrap: rows in use, at most C and never shrinking from call to call; may be traced. C if None.
    Returns:
      the ring with the rows; `head` is behind the last of them, `size` at most `wrap`.
    Raises:
      ValueError: more rows than the ring holds, or rows of another structure or shape than its own.
    """
    check_axes(ring.rows, rows, 1, "rows", "[N, ...]")
    capacity, count = _length(ring.rows), _length(rows)
    if count > capacity:
        raise ValueError(f"capacity must be at least the {count} rows added at once, got {capacity}")
    if mask is None and wrap is None and count == 1:  # one row cannot wrap around the end
        at = ring.head
        stored = jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, at, 0), ring.rows, rows)
        return Ring(stored, (at + 1) % capacity, jnp.maximum(ring.size, at + 1))
    wrap = capacity if wrap is None else wrap
    kept = jnp.ones(count, bool) if mask is None else mask
    index = (ring.head + jnp.cumsum(kept) - 1) % wrap
    index = jnp.where(kept, index, capacity)  # past the end: dropped
    stored = jax.tree.map(lambda old, new: old.at[index].set(new, mode="drop"), ring.rows, rows)
    added = jnp.sum(kept, dtype=jnp.int32)
    end = ring.head + added  # if `wrap` grew after wrapping, `size` grows only when the head passes it
    return Ring(stored, end % wrap, jnp.maximum(ring.size, jnp.minimum(end, wrap)))


def sample(key: Key, ring: Ring, n: int) -> Transition:
    """`n` rows [n, ...] drawn uniformly, with replacement.

    Args:
      key: used once.
      ring: to draw from; while it is empty the rows are zeros, in a compiled function, which cannot tell.
      n: number of rows.
    Raises:
      ValueError: the ring is empty.
    """
    # Within a compiled function even comparing a known size gives a tracer: NumPy compares it now.
    if not isinstance(ring.size, Tracer) and not np.any(np.asarray(ring.size) > 0):
        raise ValueError("the buffer is empty: sample needs at least one row, from add")
    return tree.take(ring.rows, jax.random.randint(key, (n,), 0, jnp.maximum(ring.size, 1)))


def uniform(capacity: int) -> Buffer:
    """A buffer of transitions sampled uniformly; a trajectory [T, N, ...] is added as T x N rows.

    Args:
      capacity: number of rows; the oldest are overwritten.
    Raises:
      ValueError: the capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, got {capacity}")

    def add(ring: Ring, trajectory: Transition) -> Ring:
        check_axes(ring.rows, trajectory, 2, "trajectory", "[T, N, ...]")
        return append(ring, tree.flatten_dims(trajectory, 2))

    def replay(ring: Ring) -> Replay:
        return Replay(
            sample=lambda key, n: sample(key, ring, n),
            take=lambda index: tree.take(ring.rows, index),
            size=ring.size,
            capacity=capacity,
        )

    return Buffer(
        init=lambda item: empty(item, capacity),
        add=add,
        sample=sample,
        replay=replay,
    )


def _length(rows: Transition) -> int:
    return jax.tree.leaves(rows)[0].shape[0]
