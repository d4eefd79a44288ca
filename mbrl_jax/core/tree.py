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
    """`where` for typed random keys.

    Args:
      mask: [...] bool; its axes are the leading axes of the keys.
      a, b: keys of one shape.
    """
    data = jax.tree.map(jax.random.key_data, (a, b))
    return jax.random.wrap_key_data(where(mask, *data), impl=jax.random.key_impl(a))


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def stack(trees: Sequence[Tree], axis: int = 0) -> Tree:
    """Stacks trees of one structure along a new axis.

    Args:
      trees: of one structure and equal shapes.
      axis: the new axis.
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def take(tree: Tree, index: Any, axis: int = 0) -> Tree:
    """The entries `index` of every leaf along an axis.

    Args:
      tree: of arrays.
      index: integers of any shape, which replaces the axis.
      axis: of every leaf.
    """
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=axis), tree)


def tile(tree: Tree, n: int) -> Tree:
    """`n` copies of a tree along a new leading axis.

    Args:
      tree: of arrays.
      n: number of copies.
    """
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), tree)


def num_params(tree: Tree) -> int:
    """The number of array entries in a tree.

    Args:
      tree: of arrays.
    """
    return sum(int(jnp.size(leaf)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Tree) -> int:
    """The bytes of a tree of arrays, or of their shapes; random keys are not counted.

    Args:
      tree: of arrays or `jax.ShapeDtypeStruct`s.
    """
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if not _is_key(leaf))


def strip_weak_types(tree: Tree) -> Tree:
    """The same tree without weak types; a weakly typed initial state would make a step compile twice."""
    return jax.tree.map(
        lambda leaf: leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), tree
    )


def flatten_dims(tree: Tree, dims: int) -> Tree:
    """Merges the first `dims` axes of every leaf into one.

    Args:
      tree: of arrays with at least `dims` axes.
      dims: number of axes to merge.
    """
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (math.prod(leaf.shape[:dims]), *leaf.shape[dims:])), tree)
