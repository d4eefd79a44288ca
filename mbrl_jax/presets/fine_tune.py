"""Starting from what another run has learned: all of it, or parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Tree


def names_of(learner: Tree) -> list[str]:
    """The parts of a learner by dotted name: "policy.actor.params.Dense_0.kernel".

    Args:
      learner: any pytree.
    """
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(learner)]


def _name(path: Any) -> str:
    words = re.findall(r"\.(\w+)|\['?([^']+?)'?\]", jax.tree_util.keystr(path))
    return ".".join(a or b for a, b in words)


def taken_from(old: Tree, parts: Sequence[str] | None = None) -> Callable[[Tree], Tree]:
    """A function from a fresh learner to one with the arrays of another.

    Args:
      old: what another run has learned, of one seed.
      parts: dotted names, each of an array or of all below it; None for the whole.
    Returns:
      (fresh learner) -> learner; it raises ValueError where a part is in neither, or shapes or types differ.
    Raises:
      ValueError: a part that the old learner does not have.
    """
    have = dict(zip(names_of(old), jax.tree.leaves(old), strict=True))
    for part in parts or ():
        if not any(_within(name, part) for name in have):
            roots = dict.fromkeys(name.partition(".")[0] for name in have)
            raise ValueError(f"init_parts must name parts of the learner ({', '.join(roots)}), got {part!r}")

    def start(fresh: Tree) -> Tree:
        leaves, structure = jax.tree.flatten(fresh)
        names = names_of(fresh)
        chosen = [parts is None or any(_within(name, part) for part in parts) for name in names]
        wanted = {name for name, now in zip(names, chosen, strict=True) if now}
        there = {name for name in have if parts is None or any(_within(name, part) for part in parts)}
        if odd := sorted(wanted ^ there):
            where = "this run" if odd[0] in there else "init_from"
            raise ValueError(
                f"init_from: the learners differ: {odd[0]} is not in that of {where}; init_parts takes parts"
            )
        out = []
        for name, leaf, now in zip(names, leaves, chosen, strict=True):
            if not now:
                out.append(leaf)
                continue
            given = have[name]
            if (given.shape, given.dtype) != (leaf.shape, leaf.dtype):
                raise ValueError(
                    f"init_from: {name} is {given.dtype}{list(given.shape)} there, {leaf.dtype}{list(leaf.shape)} here"
                )
            out.append(given if jnp.issubdtype(given.dtype, jax.dtypes.prng_key) else jnp.asarray(given))
        return jax.tree.unflatten(structure, out)

    return start


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
