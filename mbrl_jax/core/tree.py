"""Helpers over pytrees of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Tree


def where(mask: Array, a: Tree, b: Tree) -> Tree:
    """`a` where the mask holds, else `b`, leaf by leaf.

    Args:
      mask: [...] bool; its axes are the leading axes of every leaf.
      a, b: trees of one structure.
    """

    def pick(x: Any, y: Any) -> Array:
        x, y = jnp.asarray(x), jnp.asarray(y)
        return jnp.where(jnp.reshape(mask, mask.shape + (1,) * (max(x.ndim, y.ndim) - mask.ndim)), x, y)

    return jax.tree.map(lambda x, y: pick_key(mask, x, y) if _is_key(x) else pick(x, y), a, b)


def pick_key(mask: Array, a: Array, b: Array) -> Array:
    """`where` for typed random keys."""
    data = jax.tree.map(jax.random.key_data, (a, b))
    return jax.random.wrap_key_data(where(mask, *data), impl=jax.random.key_impl(a))


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def stack(trees: Sequence[Tree], axis: int = 0) -> Tree:
    """Stacks trees of one structure along a new axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def take(tree: Tree, index: Any, axis: int = 0) -> Tree:
    """The entries `index` of every leaf along an axis."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=axis), tree)


def tile(tree: Tree, n: int) -> Tree:
    """`n` copies of a tree along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), tree)


def num_params(tree: Tree) -> int:
    """How many numbers a tree holds."""
    return sum(int(jnp.size(leaf)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Tree) -> int:
    """Bytes a tree of arrays, or of their shapes, takes."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if not _is_key(leaf))


def strip_weak_types(tree: Tree) -> Tree:
    """The same tree with no weakly typed leaf; a weak type in an initial state makes a compiled step compile twice."""
    return jax.tree.map(
        lambda leaf: leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), tree
    )


def flatten_dims(tree: Tree, dims: int) -> Tree:
    """Merges the first `dims` axes of every leaf into one."""
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (math.prod(leaf.shape[:dims]), *leaf.shape[dims:])), tree)
