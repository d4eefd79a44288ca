"""One learner on many devices: where its batches, parameters, environments and replay lie.

A mesh has the axis `data`, over which batches and environments are divided, and may have the axis `model`, over which
parameters are. Functions say by `over_data` which axis of an array is a batch; XLA's partitioner does the rest. Without
a mesh in force nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax
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
