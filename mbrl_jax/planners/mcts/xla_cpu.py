"""Small loops that XLA's CPU backend compiles into one machine function.

The CPU runtime dispatches the body of a loop operation by operation, at some fifty nanoseconds each. Where an operation
touches twenty numbers, as in a walk down a search tree, that is nearly all of the time. XLA also has "small calls":
computations that it compiles into a single function without dispatch. It finds them by itself in loops that carry next
to nothing; `while_loop` asks for one (by the metadata `xla_cpu_small_call`) where a loop carries a large table but does
little in each iteration. A small call runs on one core and cannot contain scatters, matrix products or large
reductions, so loops that touch more than `FEW` numbers stay ordinary loops, whether those numbers are of one tree or of
a whole batch of trees under `vmap`; so do those of a learner on a mesh. On other devices nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from mbrl_jax.core.sharding import meshed
from mbrl_jax.core.types import Array

FEW = 150  # numbers; reductions of some thousands go to a library, which a small call cannot use

Run = Callable[..., tuple[Array, ...]]


def while_loop(going: Callable[[Any], Array], step: Callable[[Any], Any], start: Any, same: str, numbers: int) -> Any:
    """`jax.lax.while_loop`, as a small call where that pays.

    Args:
      going: (carry) -> [] bool, whether to go on; the same for the whole batch (see `any_in_batch`).
      step: (carry) -> carry, with `put` instead of scatters, and without matrix products.
      start: the first carry, a named tuple.
      same: its field that is the same for the whole batch; the others get a batch axis under `vmap`.
      numbers: how many numbers an operation of the step touches in one element of the batch, `put` included; tables
        that are only carried do not count.
    Returns:
      the last carry.
    """
    whole, shape = jax.make_jaxpr(lambda at: jax.lax.while_loop(going, step, at), return_shape=True)(start)
    kept = [name == same for name, part in zip(shape._fields, shape, strict=True) for _ in jax.tree.leaves(part)]

    def run(closed_over: Sequence[Array], leaves: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(jaxpr_as_fun(ClosedJaxpr(whole.jaxpr, closed_over))(*leaves))

    numbers = FEW + 1 if meshed() else numbers  # XLA cannot divide a small call among devices
    leaves = _batched(run, numbers, tuple(kept))(whole.consts, jax.tree.leaves(start))
    return jax.tree.unflatten(jax.tree.structure(shape), leaves)


def put(table: Array, rows: Array, columns: Array, numbers: Array) -> Array:
    """The table [M, R] with numbers [...] written at rows [...] and columns [...]; those for row M are dropped.

    A scatter that a small call can contain: on CPUs it writes one-element slices one after the other.
    """
    return (_scatter if meshed() else _put)(table, rows, columns, numbers)


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
    every = [x if b else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, b in zip(args, batched, strict=True)]
    table, rows, columns, numbers = every
    if numbers.size > FEW:
        return jax.vmap(_scatter)(*every), True
    # The tables of the batch as one, below the last row of which every table's row M is put.
    size = table.shape[1]
    first = size * jnp.arange(axis_size, dtype=rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    rows = jnp.where(rows < size, rows + first, axis_size * size)
    return _put(table.reshape(-1, table.shape[2]), rows, columns, numbers).reshape(table.shape), True


def _scatter(table: Array, rows: Array, columns: Array, numbers: Array) -> Array:
    return table.at[rows, columns].set(numbers, mode="drop")


def _batched(run: Run, numbers: int, same: tuple[bool, ...]) -> Run:
    """`run`, a small call while the whole batch has few numbers. Outputs that are the `same` get no batch axis."""

    @custom_vmap
    def call(*args: Any) -> tuple[Array, ...]:
        if numbers > FEW:
            return run(*args)
        return jax.lax.platform_dependent(*args, cpu=_small_call(run), default=run)

    @call.def_vmap
    def over(axis_size: int, batched: list[Any], *args: Any) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
        inside = jax.tree.map(lambda flag: 0 if flag else None, tuple(batched))
        outside = tuple(None if flag else 0 for flag in same)
        vmapped = jax.vmap(run, inside, outside, axis_size=axis_size)
        return _batched(vmapped, numbers * axis_size, same)(*args), tuple(not flag for flag in same)

    return call


def _small_call(run: Run) -> Run:
    """`run` as a call that XLA neither inlines nor dispatches in parts; its contents are compiled as usual.

    XLA moves an argument that it knows as a constant into the call. Its parameter is then unused, the call's emitter
    finds no buffer for it and aborts the process (jaxlib 0.10: "All or none of the slices should have an explicit
    index"). The barrier hides constants from that pass, and is gone before code is emitted.
    """

    @jax.jit
    def inside(*args: Any) -> tuple[Array, ...]:
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):
            return run(*args)

    def call(*args: Any) -> tuple[Array, ...]:
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return inside(*jax.lax.optimization_barrier(args))

    return call
