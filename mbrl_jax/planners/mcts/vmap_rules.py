"""Operations that stay unbatched under `vmap`: loop predicates, and positions in tables.

`vmap` adds a batch axis to whatever may differ between the elements of a batch. If the predicate of a `while_loop` gets
one, JAX copies all that the loop carries in every iteration, to freeze the elements that are done. If the position of a
slice gets one, JAX gathers or scatters row by row. These functions have `vmap` rules (`jax.custom_batching`) that keep
predicates and positions scalars, for the caller guarantees that they may be the same for the whole batch. They nest:
under several `vmap`s, "the batch" is all elements of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from mbrl_jax.core.types import Array


def any_in_batch(flag: Array) -> Array:
    """Whether the flag [] holds for any element of the batch, of all `vmap`s around: a scalar under `vmap` too.

    A loop with this predicate stays one loop under `vmap` and copies nothing. It runs until every element is done, so
    its step must leave elements that are done unchanged.
    """
    return _any(flag)


@custom_vmap
def _any(flag: Array) -> Array:
    return flag


@_any.def_vmap
def _any_over(axis_size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    del axis_size
    return _any(jnp.any(flag, 0) if batched[0] else flag), False


def write(table: Any, new: Any, at: Array | int, column: int = 0) -> Any:
    """Writes rows [n, ...] into tables [M, ...] from row `at` on, leaf by leaf; narrower rows from `column` on.

    Under `vmap` this stays one slice update, where an indexed update would go row by row.

    Args:
      table: leaves [M, ...].
      new: leaves [n, ...].
      at: [] the same for the whole batch.
      column: first column that is written.
    Returns:
      the tables with the new rows, in the tables' dtypes.
    Raises:
      ValueError: `at` has a batch axis.
    """

    def one(leaf: Array, rows: Array) -> Array:
        return _slice_at(0, column, leaf, rows.astype(leaf.dtype), jnp.asarray(at))

    return jax.tree.map(one, table, new)


def read(table: Array, at: Array) -> Array:
    """Row `at` of a table [M, ...]; `at` is the same for the whole batch, as for `write`."""
    return _slice_of(0, table, at)


def on_flat_batch(f: Callable[..., Any], *args: Array) -> Any:
    """f(*args), of arrays [k, ...]; under `vmap` over B elements f gets the rows of all of them at once, [B k, ...].

    For functions that treat each row by itself and are faster on one flat axis, which they may then move last.

    Args:
      f: (arrays [k, ...]) -> arrays [k, ...].
      args: arrays [k, ...].
    """

    @custom_vmap
    def call(*args: Array) -> Any:
        return f(*args)

    @call.def_vmap
    def over(axis_size: int, batched: list[bool], *args: Array) -> tuple[Any, Any]:
        every = (x if b else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, b in zip(args, batched, strict=True))
        out = on_flat_batch(f, *(x.reshape(-1, *x.shape[2:]) for x in every))
        out = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return call(*args)


def _slice_of(axis: int, table: Array, at: Array) -> Array:
    @custom_vmap
    def one(table: Array, at: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(table, at, axis, False)

    @one.def_vmap
    def over(axis_size: int, batched: list[bool], table: Array, at: Array) -> tuple[Array, bool]:
        del axis_size
        if batched[1]:
            raise ValueError("at must be the same for the whole batch")
        return _slice_of(axis + batched[0], table, at), batched[0]

    return one(table, at)


def _slice_at(axis: int, column: int, table: Array, rows: Array, at: Array) -> Array:
    @custom_vmap
    def one(table: Array, rows: Array, at: Array) -> Array:
        behind = [column, *[0] * table.ndim][: table.ndim - axis - 1]
        before, behind = ([np.int32(i) for i in ends] for ends in ([0] * axis, behind))
        return jax.lax.dynamic_update_slice(table, rows, [*before, at.astype(jnp.int32), *behind])

    @one.def_vmap
    def over(axis_size: int, batched: list[bool], table: Array, rows: Array, at: Array) -> tuple[Array, bool]:
        if batched[2]:
            raise ValueError("at must be the same for the whole batch")
        table, rows = (
            x if b else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, b in zip((table, rows), batched, strict=False)
        )
        return _slice_at(axis + 1, column, table, rows, at), True

    return one(table, rows, at)
