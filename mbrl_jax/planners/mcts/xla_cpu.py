"""Loops over a few numbers, which a CPU runs in one piece.

XLA's runtime for CPUs runs the body of a loop operation by operation, at some fifty nanoseconds each: nearly all of the
time where an operation touches twenty numbers. A small call it compiles into one machine function instead. XLA finds
such calls by itself in loops that carry next to nothing; these functions ask for it where a loop carries a large table
and yet does little. One function keeps to one core, and neither scatters nor products of matrices nor large reductions
can be in it, so loops over more than `FEW` numbers stay loops, whether those are of one lane or of all lanes together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from mbrl_jax.core.types import Array

FEW = 150  # numbers; XLA hands reductions of some thousands to a library, which one function cannot call

Run = Callable[..., tuple[Array, ...]]


def while_loop(going: Callable[[Any], Array], step: Callable[[Any], Any], start: Any, same: str, numbers: int) -> Any:
    """`jax.lax.while_loop`, in one piece where that pays.

    Args:
      going: whether to go on; the same in all lanes.
      step: of the loop, with `put` instead of scatters, and without products of matrices.
      start: what the first step is given, a named tuple.
      same: its field that is the same in all lanes; the others are taken to differ.
      numbers: how many an operation of the step touches in one lane, `put` among them; tables carried on do not count.
    Returns:
      what the last step gave.
    """
    whole, shape = jax.make_jaxpr(lambda at: jax.lax.while_loop(going, step, at), return_shape=True)(start)
    kept = [name == same for name, part in zip(shape._fields, shape, strict=True) for _ in jax.tree.leaves(part)]

    def run(closed_over: Sequence[Array], leaves: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(jaxpr_as_fun(ClosedJaxpr(whole.jaxpr, closed_over))(*leaves))

    leaves = _over_lanes(run, numbers, tuple(kept))(whole.consts, jax.tree.leaves(start))
    return jax.tree.unflatten(jax.tree.structure(shape), leaves)


def put(table: Array, rows: Array, columns: Array, numbers: Array) -> Array:
    """The table [M, R] with numbers [...] written at rows [...] and columns [...], those in row M left out.

    A scatter, which in steps of `while_loop` is made of slices written one after the other.
    """
    return _put(table, rows, columns, numbers)


@custom_vmap
def _put(table: Array, rows: Array, columns: Array, numbers: Array) -> Array:
    def one_by_one(table: Array, rows: Array, columns: Array, numbers: Array) -> Array:
        places = rows.ravel(), columns.ravel(), numbers.ravel()

        def one(i: Array, table: Array) -> Array:
            row, column, number = (x[i] for x in places)
            now = jax.lax.dynamic_slice(table, (row, column), (1, 1))
            return jax.lax.dynamic_update_slice(table, jnp.where(row < len(table), number, now), (row, column))

        return jax.lax.fori_loop(0, numbers.size, one, table)

    return jax.lax.platform_dependent(table, rows, columns, numbers, cpu=one_by_one, default=_scatter)


@_put.def_vmap
def _put_over(axis_size: int, batched: list[bool], *args: Array) -> tuple[Array, bool]:
    lanes = [x if b else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, b in zip(args, batched, strict=True)]
    table, rows, columns, numbers = lanes
    if numbers.size > FEW:
        return jax.vmap(_scatter)(*lanes), True
    # All lanes' tables as one, of which row M of a lane is outside.
    room = table.shape[1]
    first = room * jnp.arange(axis_size, dtype=rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    rows = jnp.where(rows < room, rows + first, axis_size * room)
    return _put(table.reshape(-1, table.shape[2]), rows, columns, numbers).reshape(table.shape), True


def _scatter(table: Array, rows: Array, columns: Array, numbers: Array) -> Array:
    return table.at[rows, columns].set(numbers, mode="drop")


def _over_lanes(run: Run, numbers: int, same: tuple[bool, ...]) -> Run:
    """`run`, in one piece while all lanes together have few numbers. Outputs that are the `same` stay without lanes."""

    @custom_vmap
    def call(*args: Any) -> tuple[Array, ...]:
        if numbers > FEW:
            return run(*args)
        return jax.lax.platform_dependent(*args, cpu=_in_one_piece(run), default=run)

    @call.def_vmap
    def over(axis_size: int, batched: list[Any], *args: Any) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
        inside = jax.tree.map(lambda flag: 0 if flag else None, tuple(batched))
        outside = tuple(None if flag else 0 for flag in same)
        lanes = jax.vmap(run, inside, outside, axis_size=axis_size)
        return _over_lanes(lanes, numbers * axis_size, same)(*args), tuple(not flag for flag in same)

    return call


def _in_one_piece(run: Run) -> Run:
    """`run` as a call that XLA neither dissolves nor takes apart; what is inside it is compiled as ever."""

    @jax.jit
    def inside(*args: Any) -> tuple[Array, ...]:
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):
            return run(*args)

    def call(*args: Any) -> tuple[Array, ...]:
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return inside(*args)

    return call
