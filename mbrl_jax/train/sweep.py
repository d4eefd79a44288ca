"""Many seeds in one program: in waves on each device, and shared out over the devices there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbrl_jax.core.types import Tree

A = TypeVar("A")
B = TypeVar("B")


def over_seeds(fn: Callable[[A], B], wave: int, devices: int = 1) -> Callable[[A], B]:
    """`fn` over a leading seed axis: `wave` seeds side by side under `vmap`, one wave after the other.

    A wave of several seeds fills a device where one seed's products are small; where one seed fills it already, waves
    of one keep its data in the cache, and let each seed's early-stopped loops stop when it is done. With several
    devices each takes an equal share of the seeds, and nothing passes between them. The cores of a processor can be
    such devices (`jax_num_cpu_devices`): each core then has seeds of its own, instead of a part of every product.

    Args:
      fn: a pure function of one seed.
      wave: seeds under `vmap` at once on a device, at least 1.
      devices: how many to use; the number of seeds must be a multiple of it.
    Raises:
      ValueError: a number below 1, more devices than there are, or seeds that they cannot share evenly.
    """
    if wave < 1:
        raise ValueError(f"wave must be at least 1, got {wave}")
    if not 1 <= devices <= jax.device_count():
        raise ValueError(f"devices must be at least 1 and at most {jax.device_count()}, got {devices}")

    def waves(seeds: A) -> B:
        count = _count(seeds)
        if wave == 1:
            return jax.lax.map(fn, seeds)
        return jax.vmap(fn)(seeds) if count <= wave else jax.lax.map(fn, seeds, batch_size=wave)

    if devices == 1:
        return waves
    shared = jax.shard_map(waves, mesh=_mesh(devices), in_specs=P("seed"), out_specs=P("seed"), check_vma=False)

    def mapped(seeds: A) -> B:
        if _count(seeds) % devices:
            raise ValueError(f"seeds must be a multiple of the {devices} devices, got {_count(seeds)}")
        return shared(seeds)

    return mapped


def place(seeds: A, devices: int) -> A:
    """Shares a tree's leading seed axis out over devices, as `over_seeds` wants and returns it."""
    return jax.device_put(seeds, NamedSharding(_mesh(devices), P("seed"))) if devices > 1 else seeds


def _mesh(devices: int) -> Mesh:
    return jax.make_mesh((devices,), ("seed",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def _count(seeds: Tree) -> int:
    return jax.tree.leaves(seeds)[0].shape[0]
