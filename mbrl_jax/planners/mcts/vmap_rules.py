"""What is the same in all lanes of the `vmap`s around, and stays so: loop predicates, and places in tables.

JAX batches a loop whose predicate may differ between lanes by copying all that the loop carries at every turn, and a
slice by gathering or scattering row by row. These functions keep such things unbatched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from mbrl_jax.core.types import Array


def in_any_lane(flag: Array) -> Array:
    """Whether the flag [] holds in any lane of all the `vmap`s around; the same in all of them.

    A loop with this predicate is one loop under `vmap`: what it carries is not copied at each turn, and lanes that are
    through must see to it that further turns change nothing.
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
    """Writes rows [n, ...] into tables [M, ...] from row `at` on, leaf by leaf; shorter ones from `column` on.

    `at` is the same in all lanes; this stays one slice under `vmap`, where an indexed update goes row by row.
    """

    def one(leaf: Array, rows: Array) -> Array:
        return _slice_at(0, column, leaf, rows.astype(leaf.dtype), jnp.asarray(at))

    return jax.tree.map(one, table, new)


def read(table: Array, at: Array) -> Array:
    """Row `at` of a table [M, ...]; `at` is the same in all lanes, as for `write`."""
    return _slice_of(0, table, at)


def together(f: Callable[..., Any], *args: Array) -> Any:
    """f(*args), of arrays [k, ...]; under `vmap` f is handed all lanes' rows at once, as [lanes · k, ...].

    For functions of each row by itself that do better with their rows last.
    """

    @custom_vmap
    def call(*args: Array) -> Any:
        return f(*args)

    @call.def_vmap
    def over(axis_size: int, batched: list[bool], *args: Array) -> tuple[Any, Any]:
        every = (x if b else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, b in zip(args, batched, strict=True))
        out = together(f, *(x.reshape(-1, *x.shape[2:]) for x in every))
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
            raise ValueError("at must be the same in all lanes")
        return _slice_of(axis + batched[0], table, at), batched[0]

    return one(table, at)


def _slice_at(axis: int, column: int, table: Array, rows: Array, at: Array) -> Array:
    @custom_vmap
    def one(table: Array, rows: Array, at: Array) -> Array:
        behind = [column, *[0] * table.ndim][: table.ndim - axis - 1]
        return jax.lax.dynamic_update_slice(table, rows, [*[0] * axis, at, *behind])

    @one.def_vmap
    def over(axis_size: int, batched: list[bool], table: Array, rows: Array, at: Array) -> tuple[Array, bool]:
        if batched[2]:
            raise ValueError("at must be the same in all lanes")
        table, rows = (
            x if b else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, b in zip((table, rows), batched, strict=False)
        )
        return _slice_at(axis + 1, column, table, rows, at), True

    return one(table, rows, at)
