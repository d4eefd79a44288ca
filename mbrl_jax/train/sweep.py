"""Many seeds in one program: in waves on each device, and shared out over the devices there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Tree

A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S")


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

    def waves(seeds: A) -> B:
        count = _count(seeds)
        if wave == 1:
            return jax.lax.map(fn, seeds)
        if count <= wave:
            return jax.vmap(fn)(seeds)
        # `lax.map` has a `batch_size`, but cannot split leaves that hold nothing.
        whole = count // wave * wave
        split = jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // wave, wave, *leaf.shape[1:]), seeds)
        done = tree.flatten_dims(jax.lax.map(jax.vmap(fn), split), 2)
        if whole == count:
            return done
        rest = jax.vmap(fn)(jax.tree.map(lambda leaf: leaf[whole:], seeds))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)

    return _shared(waves, devices)


def over_seeds_until(
    init: Callable[[A], S],
    chunk: Callable[[S], S],
    done: Callable[[S], Array],
    keep: Callable[[S], B],
    lanes: int,
    devices: int = 1,
) -> Callable[[A], B]:
    """Runs of unequal length over a leading seed axis: a lane that has finished one seed takes up the next.

    Under a plain `vmap` all seeds take as long as the slowest one. Here a few lanes share them out, and only the last
    seeds leave lanes idle. A seed's run does not depend on the others, nor on the number of lanes.

    Args:
      init: (seed) -> state.
      chunk: (state) -> state; some work between two looks at `done`, much dearer than `init`.
      done: (state) -> [] bool; must come true for every seed.
      keep: (state) -> what to keep of a seed that is done.
      lanes: seeds side by side on each device, at least 1.
      devices: as for `over_seeds`.
    Returns:
      a function of the seeds [N, ...], which gives what was kept of each, [N, ...].
    Raises:
      ValueError: as `over_seeds`.
    """
    if lanes < 1:
        raise ValueError(f"lanes must be at least 1, got {lanes}")

    def all_of(seeds: A) -> B:
        count = _count(seeds)
        width = min(lanes, count)
        states = jax.vmap(init)(jax.tree.map(lambda leaf: leaf[:width], seeds))
        results = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), keep(tree.take(states, 0)))
        owner = jnp.arange(width)  # the seed in each lane; past the end where there is none left

        def one(at: tuple[S, Array, Array, B]) -> tuple[S, Array, Array, B]:
            states, owner, following, results = at
            states = jax.vmap(chunk)(states)
            ended = jax.vmap(done)(states) & (owner < count)
            index = jnp.where(ended, owner, count)  # past the end: dropped
            results = jax.tree.map(
                lambda old, new: old.at[index].set(new, mode="drop"), results, jax.vmap(keep)(states)
            )
            owner = jnp.where(ended, following + jnp.cumsum(ended) - 1, owner)
            fresh = jax.vmap(init)(tree.take(seeds, jnp.minimum(owner, count - 1)))
            return tree.where(ended, fresh, states), owner, following + jnp.sum(ended), results

        start = states, owner, jnp.int32(width), results
        return jax.lax.while_loop(lambda at: jnp.any(at[1] < count), one, start)[3]

    return _shared(all_of, devices)


def _shared(waves: Callable[[A], B], devices: int) -> Callable[[A], B]:
    """`waves` of an equal share of the seeds on each device."""
    if not 1 <= devices <= jax.device_count():
        raise ValueError(f"devices must be at least 1 and at most {jax.device_count()}, got {devices}")
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
