"""The memory of a run, reckoned from shapes before anything is allocated."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mbrl_jax.core.types import Array, Tree
from mbrl_jax.train.loop import LoopState

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files that hold the memory limit of a container, in bytes, or "max"."""


class Need(NamedTuple):
    """The bytes that a run needs at least."""

    parts: dict[str, int]  # of all seeds: "replay", "learner", "environments", and "computation"
    shapes: dict[str, tuple[int, ...]]  # of the largest array in each part, for one seed
    seeds: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self.parts.values())


def reckon(state: LoopState, programs: Sequence[Any], seeds: int = 1, at_once: int = 1) -> Need:
    """The memory of a run of several seeds.

    Args:
      state: shapes of one seed's state (`jax.eval_shape` of `Loop.init`).
      programs: the jaxprs of one seed's beginning and of its chunk.
      seeds: whose states are in memory.
      at_once: seeds whose chunks run at the same time: those under one `vmap`, times the devices.
    Returns:
      what they need at least: compiled code keeps some arrays more.
    """
    trees = {"replay": state.buffer, "learner": state.learner, "environments": state.actors}
    parts, shapes, _ = reckon_parts(trees, seeds)
    kept = Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state))  # changed in place
    made = max((_at_once(program, kept) for program in programs), key=_sum)
    parts["computation"], shapes["computation"] = at_once * _sum(made), _largest(made)
    return Need(parts, shapes, seeds)


def reckon_parts(trees: Mapping[str, Tree], seeds: int = 1) -> Need:
    """The memory of trees of arrays or shapes, by their names, for several seeds."""
    parts = {name: seeds * sum(_bytes(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in trees.items()}
    shapes = {name: _largest(jax.tree.leaves(tree)) for name, tree in trees.items()}
    return Need(parts, shapes, seeds)


def available(devices: int = 1) -> int | None:
    """The memory for a run in bytes: the machine's, its container's limit, or that of the accelerators in use.

    Args:
      devices: how many share the seeds.
    Returns:
      None where it cannot be told.
    """
    first = jax.local_devices()[0]
    if first.platform != "cpu":
        limit = (first.memory_stats() or {}).get("bytes_limit")
        return None if limit is None else devices * int(limit)
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such call on this system
        return None
    for path in LIMITS:
        try:
            machine = min(machine, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or no limit
            continue
    return machine if machine > 0 else None


def describe(need: Need, have: int | None) -> str:
    """`memory: 1.2 GB of 24 GB: replay 1.0 GB, learner 0.2 GB`; parts below a hundredth are left out."""
    parts = sorted(need.parts.items(), key=lambda part: -part[1])
    told = ", ".join(f"{name} {size(count)}" for name, count in parts if count * 100 >= need.total > 0)
    return f"memory: {size(need.total)}" + (f" of {size(have)}" if have else "") + (f": {told}" if told else "")


def check_fits(need: Need, have: int | None, settings: Mapping[str, Any], replay: str = "loop.capacity") -> None:
    """Refuses a run that cannot fit into memory.

    Args:
      need: of the run.
      have: bytes, None where they are not known.
      settings: of agent and loop by their full names, to name the one that is too large.
      replay: the setting that decides how large the replay buffer is, "" where several do.
    Raises:
      ValueError: it needs more than there is; the message names the setting to lower.
    """
    if have is None or need.total <= have:
        return
    needs = f"a run needs {describe(need, None).removeprefix('memory: ')}; there are {size(have)}"
    most = max(need.parts, key=need.parts.__getitem__)
    if need.seeds > 1 and need.total <= have * need.seeds:  # one seed alone would fit
        raise ValueError(f"seeds must be lower than {need.seeds}: {needs}")
    name = replay if most == "replay" and replay else behind(need.shapes[most], settings)
    if name is None:
        raise ValueError(f"memory: {needs}")
    raise ValueError(f"{name} must be lower than {settings[name]}: {needs}")


def behind(shape: tuple[int, ...], settings: Mapping[str, Any]) -> str | None:
    """The setting that most probably gave an array its size: the largest one that divides one of its dimensions, or one
    a hundred times as large.

    Args:
      shape: of the array.
      settings: by name; those that are no integers, or tuples of them, count for nothing.
    Returns:
      its name, None where none divides.
    """
    sizes = [
        (item, name)
        for name, value in settings.items()
        for item in (value if isinstance(value, tuple | list) else (value,))
        if type(item) is int and 1 < item <= max(shape, default=0)
    ]
    exact = [(item, name) for item, name in sizes if any(count and count % item == 0 for count in shape)]
    best = max(exact, default=(1, None), key=lambda size: size[0])
    most = max(sizes, default=best, key=lambda size: size[0])  # a sum with others divides nothing
    return most[1] if most[0] >= 100 * best[0] else best[1]


def size(count: float) -> str:
    """Bytes in words: `1.2 GB`, `24 GB`, `310 MB`."""
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    return f"{count:.1f} {unit}" if count < 9.95 else f"{count:,.0f} {unit}"


def _bytes(leaf: Any) -> int:
    count = 1
    for side in leaf.shape:
        count *= int(side)
    return count * int(getattr(leaf.dtype, "itemsize", 8))  # a random key's type may not tell: two integers


def _largest(leaves: list[Array]) -> tuple[int, ...]:
    return tuple(max(leaves, key=_bytes).shape) if leaves else ()


def _at_once(jaxpr: Tree, kept: Counter) -> list[Any]:
    """Arrays that are in memory at the same time, as types and shapes: what a loop carries, and what its body makes.

    Of other operations the largest array counts alone, as compilers make one operation of several.

    Args:
      jaxpr: of a program.
      kept: how many arrays of each shape and dtype are in memory already, which new ones may take the place of.
    Returns:
      those that take the most.
    """
    most: list[Any] = []
    for equation in jaxpr.eqns:
        made = [var.aval for var in equation.outvars if hasattr(var.aval, "shape") and hasattr(var.aval, "dtype")]
        carried = {"while": len(made), "scan": equation.params.get("num_carry", 0)}.get(equation.primitive.name, 0)
        most = max(most, sorted(_beyond(made, kept), key=_bytes)[-1:], key=_sum)
        if bodies := [*_bodies(equation.params.values())]:
            held = _beyond(made[:carried], kept)
            inside = kept + Counter((array.shape, array.dtype) for array in held) if held else kept
            most = max(most, *(held + _at_once(body, inside) for body in bodies), key=_sum)
    return most


def _beyond(arrays: list[Any], kept: Counter) -> list[Any]:
    """Those of some arrays that need memory of their own."""
    seen, new = Counter(), []
    for array in arrays:
        seen[array.shape, array.dtype] += 1
        if seen[array.shape, array.dtype] > kept[array.shape, array.dtype]:
            new.append(array)
    return new


def _bodies(values: Iterable[Any]) -> Iterator[Any]:
    """The jaxprs among an operation's parameters."""
    for value in values:
        for inner in value if isinstance(value, tuple | list) else (value,):
            body = getattr(inner, "jaxpr", inner)  # of a closed jaxpr
            if hasattr(body, "eqns"):
                yield body


def _sum(arrays: list[Any]) -> int:
    return sum(map(_bytes, arrays))
