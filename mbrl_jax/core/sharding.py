"""One learner on many devices: where its batches, parameters, environments and replay lie.

A mesh has the axis `data`, over which batches and environments are divided, and may have the axis `model`, over which
parameters are. Functions say by `over_data` which axis of an array is a batch; XLA's partitioner does the rest. Without
a mesh in force nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbrl_jax.core.types import Array

T = TypeVar("T")

AXES = ("data", "model")

_mesh: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def mesh_shape(text: str) -> dict[str, int]:
    """The axes of a mesh and their sizes.

    Args:
      text: `data=4,model=2`; "" for none.
    Raises:
      ValueError: it is not of that form.
    """
    found: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        name, _, size = word.partition("=")
        if name not in AXES or name in found or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"loop.mesh must be data=N, or data=N,model=M, with N and M at least 1, got {text!r}")
        found[name] = int(size)
    return found


def mesh_size(text: str) -> int:
    """The number of devices in a mesh, 1 for none.

    Args:
      text: as `mesh_shape` takes it.
    Raises:
      ValueError: as `mesh_shape`.
    """
    return math.prod(mesh_shape(text).values())


def make_mesh(text: str) -> Mesh | None:
    """The mesh over the first devices of this process, None for no mesh.

    Args:
      text: as `mesh_shape` takes it.
    Raises:
      ValueError: as `mesh_shape`, or more devices than there are.
    """
    shape = mesh_shape(text)
    if not shape:
        return None
    size = math.prod(shape.values())
    if size > jax.local_device_count():
        raise ValueError(f"loop.mesh must have at most {jax.local_device_count()} devices, got {size}: {text}")
    shape = {"data": 1, **shape}
    types = (AxisType.Auto,) * len(shape)
    return jax.make_mesh((*shape.values(),), (*shape,), axis_types=types, devices=jax.local_devices()[:size])


def meshed() -> bool:
    """Whether functions are traced for a mesh."""
    return _mesh.get() is not None


@contextmanager
def using(mesh: Mesh) -> Iterator[None]:
    """A context in which functions are traced for a mesh.

    Args:
      mesh: as `make_mesh` gives it.
    """
    before = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(before)


def over_data(tree: T, axis: int = 0) -> T:
    """Divides a batch among devices, leaf by leaf; leaves whose axis does not divide evenly are on all of them.

    Args:
      tree: of arrays.
      axis: of the batch.
    """
    mesh = _mesh.get()
    if mesh is None:
        return tree

    def one(leaf: Array) -> Array:
        divides = leaf.ndim > axis and leaf.shape[axis] > 0 and leaf.shape[axis] % mesh.shape["data"] == 0
        spec = P(*[None] * axis, "data") if divides else P()
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)


def over_model(tree: T) -> T:
    """Divides parameters, each along its largest axis that divides evenly; without an axis `model` all have all.

    Args:
      tree: of arrays: parameters, and what an optimizer keeps of them.
    """
    mesh = _mesh.get()
    if mesh is None:
        return tree
    parts = mesh.shape.get("model", 1)

    def one(leaf: Array) -> Array:
        sizes = [size if size % parts == 0 else 0 for size in leaf.shape]
        spec = P()
        if parts > 1 and leaf.ndim > 1 and max(sizes) >= parts:
            spec = P(*[None] * sizes.index(max(sizes)), "model")
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)


def on_all(tree: T) -> T:
    """Puts a tree on every device of the mesh.

    Args:
      tree: of arrays.
    """
    mesh = _mesh.get()
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, P())), tree)


def vmap_shares(fn: Callable[..., T], params: Any, args: Sequence[Any], in_axes: Sequence[int], out_axes: int = 0) -> T:
    """`vmap` of `fn(params, ...)` over a batch, whose gradient in `params` passes between devices once.

    On a mesh each device of `data` works on its share of the batch with a copy of the parameters. A loop in `fn`, over
    time for example, then adds up the gradient of the copy, and the copies' gradients are summed behind it. Without
    copies XLA sums over devices in every step of the loop.

    Args:
      fn: (params, one of the batch) -> what `vmap` returns.
      params: a tree of arrays.
      args: the batch.
      in_axes: of the batch, for each argument.
      out_axes: of the batch in what is returned.
    """

    def share(params: Any, *args: Any) -> T:
        return jax.vmap(partial(fn, params), in_axes, out_axes)(*args)

    count = _shares(args, in_axes)
    if count == 1:
        return share(params, *args)
    split = [_split(arg, axis, count) for arg, axis in zip(args, in_axes, strict=True)]
    found = jax.vmap(share, (0, *in_axes), out_axes)(_copies(params, count), *split)
    size = lambda leaf: count * leaf.shape[out_axes + 1]  # noqa: E731  -1 would not do for empty leaves
    shape = lambda leaf: (*leaf.shape[:out_axes], size(leaf), *leaf.shape[out_axes + 2 :])  # noqa: E731
    return over_data(jax.tree.map(lambda leaf: leaf.reshape(shape(leaf)), found), out_axes)


def mean_of_shares(fn: Callable[..., T], params: Any, args: Sequence[Any], in_axes: Sequence[int]) -> T:
    """The mean of `fn(params, ...)` over the devices' shares of a batch; the gradients in it pass between devices once.

    Args:
      fn: (params, a batch) -> means over the batch, such as the gradient of a loss that is one.
      params: a tree of arrays.
      args: the batch.
      in_axes: of the batch, for each argument.
    """
    count = _shares(args, in_axes)
    if count == 1:
        return fn(params, *args)
    split = [_split(arg, axis, count) for arg, axis in zip(args, in_axes, strict=True)]
    found = jax.vmap(fn, (0, *in_axes))(_copies(params, count), *split)
    return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), found)


def _shares(args: Sequence[Any], in_axes: Sequence[int]) -> int:
    """Into how many shares a batch is divided: 1 without a mesh, and where it does not divide evenly."""
    mesh = _mesh.get()
    parts = 1 if mesh is None else mesh.shape["data"]
    return 1 if jax.tree.leaves(args[0])[0].shape[in_axes[0]] % parts else parts


def _split(tree: T, axis: int, count: int) -> T:
    """A batch as [..., count, B / count, ...], each share on its device."""
    size = lambda leaf: leaf.shape[axis] // count  # noqa: E731
    shape = lambda leaf: (*leaf.shape[:axis], count, size(leaf), *leaf.shape[axis + 1 :])  # noqa: E731
    return over_data(jax.tree.map(lambda leaf: leaf.reshape(shape(leaf)), tree), axis)


def _copies(params: T, count: int) -> T:
    """Parameters [count, ...], a copy for each share; over `model` they stay as they are."""
    mesh = _mesh.get()
    assert mesh is not None

    def one(leaf: Array) -> Array:
        where = NamedSharding(mesh, P("data", *[P.UNCONSTRAINED] * leaf.ndim))
        return jax.lax.with_sharding_constraint(jnp.broadcast_to(leaf, (count, *leaf.shape)), where)

    return jax.tree.map(one, params)
