"""Many seeds in one program: in waves on each device, and divided among devices."""

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


def over_seeds(
    fn: Callable[..., B],
    wave: int,
    devices: int = 1,
    groups: int | None = None,
    common: Callable[[Tree], Tree] | None = None,
) -> Callable[..., B]:
    """`fn` over a leading seed axis: `wave` seeds in parallel under `vmap`, one wave after the other.

    A wave of several seeds fills a device where one seed's matrix products are small. Where one seed fills it already,
    waves of one keep its data in the cache, and each seed's while loops stop when that seed is done. With several
    devices each takes an equal share of the seeds, without communication. The cores of a CPU can be such devices
    (`jax_num_cpu_devices`): each core then runs seeds of its own, instead of a part of every product.

    Args:
      fn: a pure function of one seed; further arguments are the same for all.
      wave: seeds under one `vmap` on a device, at least 1.
      devices: how many to use; the number of seeds must be a multiple of it.
      groups: into how many equal shares the seeds are divided, each with waves of its own; as many as devices if None.
        A device works on its groups one after the other. What is computed side by side, and with it the rounding, then
        depends on the groups and not on the devices.
      common: (seeds of a wave, [W, ...]) -> a second argument of `fn`, the same for the whole wave.
    Returns:
      a function of the seeds [N, ...] and the further arguments, with results [N, ...].
    Raises:
      ValueError: a number below 1, more devices than available, or seeds that do not divide among them evenly.
    """
    groups = _groups(wave, devices, groups)

    def waves(seeds: Tree, *same: Array) -> B:
        count = _count(seeds)

        def one(seed: Tree) -> B:
            return _one(fn, common, seed, same)

        def side_by_side(seeds: Tree) -> B:
            return _side_by_side(fn, common, seeds, same)

        if wave == 1:
            return jax.lax.map(one, seeds)
        if count <= wave:
            return side_by_side(seeds)
        # `lax.map` has a `batch_size`, but cannot split empty leaves.
        whole = count // wave * wave
        split = jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // wave, wave, *leaf.shape[1:]), seeds)
        done = tree.flatten_dims(jax.lax.map(side_by_side, split), 2)
        if whole == count:
            return done
        rest = side_by_side(jax.tree.map(lambda leaf: leaf[whole:], seeds))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)

    def grouped(seeds: Tree, *same: Array) -> B:
        each = groups // devices
        if each == 1 or wave == 1:
            return waves(seeds, *same)
        split = jax.tree.map(lambda leaf: leaf.reshape(each, leaf.shape[0] // each, *leaf.shape[1:]), seeds)
        return tree.flatten_dims(jax.lax.map(lambda group: waves(group, *same), split), 2)

    return _shared(grouped, devices)


def advance_seeds(
    fn: Callable[..., tuple[S, B]],
    wave: int,
    devices: int = 1,
    groups: int | None = None,
    common: Callable[[Tree], Tree] | None = None,
) -> Callable[..., tuple[S, B]]:
    """`over_seeds` for a function whose first result takes the place of the seed, `fn(seed, ...) -> seed, result`.

    The new seeds are written where the old ones lay, wave by wave. Where these are donated to the compiled program, it
    holds a copy of one wave at a time, and none with a single wave. `over_seeds` would hold a second copy of all.

    Args:
      fn: as for `over_seeds`; the shapes of the new seed are those of the old one.
      wave, devices, groups, common: as for `over_seeds`.
    Returns:
      a function of the seeds [N, ...] and the further arguments, with the new seeds and the results, [N, ...].
    Raises:
      ValueError: as `over_seeds`.
    """
    groups = _groups(wave, devices, groups)

    def together(seeds: S, same: tuple[Array, ...]) -> tuple[S, B]:
        if wave > 1:
            return _side_by_side(fn, common, seeds, same)
        done = _one(fn, common, jax.tree.map(lambda leaf: leaf[0], seeds), same)
        return jax.tree.map(lambda leaf: leaf[None], done)

    def waves(seeds: S, first: Array | int, count: int, *same: Array) -> tuple[S, B]:
        """Advances `count` seeds from `first` on, among all of a device."""

        def some(seeds: S, at: Array | int, width: int) -> tuple[S, B]:
            old = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, at, width), seeds)
            new, result = together(old, same)
            update = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda leaf, part: update(leaf, part, at, 0), seeds, new), result

        whole = count // wave * wave
        starts = first + wave * jnp.arange(count // wave)
        seeds, results = jax.lax.scan(lambda seeds, at: some(seeds, at, wave), seeds, starts)
        results = tree.flatten_dims(results, 2)
        if whole == count:
            return seeds, results
        seeds, rest = some(seeds, first + whole, count - whole)
        return seeds, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, rest)

    def grouped(seeds: S, *same: Array) -> tuple[S, B]:
        each, count = groups // devices, _count(seeds)
        if count <= wave and each == 1:
            return together(seeds, same)
        if each == 1 or wave == 1:
            return waves(seeds, 0, count, *same)
        size = count // each
        starts = size * jnp.arange(each)
        seeds, results = jax.lax.scan(lambda seeds, at: waves(seeds, at, size, *same), seeds, starts)
        return seeds, tree.flatten_dims(results, 2)

    return _shared(grouped, devices)


def over_seeds_until(
    init: Callable[[A], S],
    chunk: Callable[[S], S],
    done: Callable[[S], Array],
    keep: Callable[[S], B],
    slots: int,
    devices: int = 1,
) -> Callable[[A], B]:
    """Runs of unequal length over a leading seed axis: a slot that has finished one seed starts the next.

    Under a plain `vmap` all seeds take as long as the slowest one. Here a few slots process them all, and only the last
    seeds leave slots idle. A seed's run depends neither on the others nor on the number of slots.

    Args:
      init: (seed) -> state.
      chunk: (state) -> state; the work between two tests of `done`, much more expensive than `init`.
      done: (state) -> [] bool; must become true for every seed.
      keep: (state) -> what to keep of a seed that is done.
      slots: seeds under `vmap` on each device, at least 1.
      devices: as for `over_seeds`.
    Returns:
      a function of the seeds [N, ...], which returns what was kept of each, [N, ...].
    Raises:
      ValueError: as `over_seeds`.
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")

    def all_of(seeds: A) -> B:
        count = _count(seeds)
        width = min(slots, count)
        states = jax.vmap(init)(jax.tree.map(lambda leaf: leaf[:width], seeds))
        results = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), keep(tree.take(states, 0)))
        owner = jnp.arange(width, dtype=jnp.int32)  # the seed in each slot; past the end where none is left

        def one(at: tuple[S, Array, Array, B]) -> tuple[S, Array, Array, B]:
            states, owner, following, results = at
            states = jax.vmap(chunk)(states)
            ended = jax.vmap(done)(states) & (owner < count)
            index = jnp.where(ended, owner, count)  # past the end: dropped
            results = jax.tree.map(
                lambda old, new: old.at[index].set(new, mode="drop"), results, jax.vmap(keep)(states)
            )
            owner = jnp.where(ended, following + jnp.cumsum(ended, dtype=jnp.int32) - 1, owner)
            fresh = jax.vmap(init)(tree.take(seeds, jnp.minimum(owner, count - 1)))
            return tree.where(ended, fresh, states), owner, following + jnp.sum(ended, dtype=jnp.int32), results

        start = states, owner, jnp.int32(width), results
        return jax.lax.while_loop(lambda at: jnp.any(at[1] < count), one, start)[3]

    return _shared(all_of, devices)


def _one(fn: Callable[..., B], common: Callable[[Tree], Tree] | None, seed: Tree, same: tuple[Array, ...]) -> B:
    """`fn` of one seed, a wave of its own."""
    first = () if common is None else (common(jax.tree.map(lambda leaf: leaf[None], seed)),)
    return fn(seed, *first, *same)


def _side_by_side(
    fn: Callable[..., B], common: Callable[[Tree], Tree] | None, seeds: Tree, same: tuple[Array, ...]
) -> B:
    """`fn` of the seeds of a wave, under `vmap`."""
    first = () if common is None else (common(seeds),)
    return jax.vmap(lambda seed: fn(seed, *first, *same))(seeds)


def _groups(wave: int, devices: int, groups: int | None) -> int:
    """The number of groups, where it and the wave are within what is allowed."""
    if wave < 1:
        raise ValueError(f"wave must be at least 1, got {wave}")
    groups = devices if groups is None else groups
    if groups % devices:
        raise ValueError(f"groups must be a multiple of the {devices} devices, got {groups}")
    return groups


def _shared(waves: Callable[..., B], devices: int) -> Callable[..., B]:
    """`waves` of an equal share of the seeds on each device."""
    if not 1 <= devices <= jax.local_device_count():
        raise ValueError(f"devices must be at least 1 and at most {jax.local_device_count()}, got {devices}")
    if devices == 1:
        return waves

    def mapped(seeds: Tree, *same: Array) -> B:
        if _count(seeds) % devices:
            raise ValueError(f"seeds must be a multiple of the {devices} devices, got {_count(seeds)}")
        specs = (P("seed"), *(P() for _ in same))
        shared = jax.shard_map(waves, mesh=_mesh(devices), in_specs=specs, out_specs=P("seed"), check_vma=False)
        return shared(seeds, *same)

    return mapped


def place(seeds: A, devices: int) -> A:
    """Divides a tree's leading seed axis among devices, as `over_seeds` expects and returns it.

    Args:
      seeds: a tree with a leading seed axis.
      devices: how many; 1 leaves the tree where it is.
    """
    return jax.device_put(seeds, NamedSharding(_mesh(devices), P("seed"))) if devices > 1 else seeds


def placed_shapes(seeds: Tree, devices: int) -> Tree:
    """The shapes of what `place` gives for a tree of shapes, to compile a program for it before it is there.

    Args:
      seeds: a tree of `jax.ShapeDtypeStruct` with a leading seed axis.
      devices: how many.
    """
    if devices == 1:
        return seeds
    where = NamedSharding(_mesh(devices), P("seed"))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), seeds)


def _mesh(devices: int) -> Mesh:
    return jax.make_mesh((devices,), ("seed",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:devices])


def _count(seeds: Tree) -> int:
    return jax.tree.leaves(seeds)[0].shape[0]
