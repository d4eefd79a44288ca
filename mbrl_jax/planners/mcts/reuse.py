"""Reuse of a search tree for the next move: the subtree below the action that was taken."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, State
from mbrl_jax.planners.mcts.tree import Tree, pack, unpack
from mbrl_jax.planners.mcts.vmap_rules import write


def empty(width: int, state: State, keep: int) -> Tree:
    """An empty kept tree.

    Args:
      width: R, numbers of a row.
      state: an example of the model's states, or its shapes and dtypes.
      keep: largest number of kept nodes, without the root.
    """
    states = jax.tree.map(lambda leaf: jnp.zeros((keep + 1, *leaf.shape), leaf.dtype), jax.eval_shape(lambda: state))
    infinity = jnp.full((), jnp.inf, jnp.float32)
    return Tree(
        jnp.zeros((keep + 1, width), jnp.float32), states, infinity, -infinity, jnp.zeros((1, 1, 6), jnp.float32)
    )


def resume(start: Tree, kept: Tree, num_actions: int) -> Tree:
    """A new tree that continues a kept one: the root's statistics and all nodes below.

    Args:
      start: from `new_tree`, with the prior and value of the current state; rows behind `keep` are free.
      kept: from `kept_below` or `empty`.
      num_actions: A.
    """
    rows, states = write((start.rows, start.states), (kept.rows, kept.states), 0)
    now, then = unpack(start.rows[0], num_actions), unpack(kept.rows[0], num_actions)
    known = then.total > 0
    root = now._replace(
        visits=then.visits,
        q=then.q,
        child=then.child,
        value=jnp.where(known, then.value, now.value),
        total=jnp.where(known, then.total, now.total),
    )
    states = write(states, jax.tree.map(lambda leaf: leaf[:1], start.states), 0)
    return start._replace(rows=write(rows, pack(root)[None], 0), states=states, low=kept.low, high=kept.high)


def kept_below(tree: Tree, action: Array, num_actions: int, keep: int) -> Tree:
    """The tree below an action of the root, its node there the new root.

    If there are more than `keep` nodes, the newest are dropped; the edges into them keep their statistics. Where the
    action has no child, the result is empty.

    Args:
      tree: after a search.
      action: [] taken.
      num_actions: A.
      keep: largest number of kept nodes, without the root.
    """
    size = tree.rows.shape[0]
    child = unpack(tree.rows, num_actions).child.astype(jnp.int32)  # [M, A]
    # Each node's parent, then by doubling every node's ancestors 2, 4, 8 ... levels up; the old root is its own.
    parents = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[:, None], child.shape)
    above = jnp.zeros(size + 1, jnp.int32).at[jnp.where(child > 0, child, size)].set(parents)[:size]
    top = child[0, action]
    below = (jnp.arange(size, dtype=jnp.int32) == top) & (top > 0)
    for _ in range(max(1, math.ceil(math.log2(size)))):
        below, above = below | below[above], above[above]
    # The new root has the smallest row of its subtree, so it comes first.
    place = jnp.cumsum(below, dtype=jnp.int32) - 1
    place = jnp.where(below & (place <= keep), place, keep + 1)
    old = jnp.zeros(keep + 2, jnp.int32).at[place].set(jnp.arange(size, dtype=jnp.int32))[: keep + 1]
    used = jnp.arange(keep + 1) < jnp.sum(below)
    rows = jnp.where(used[:, None], tree.rows[old], 0.0)
    node = unpack(rows, num_actions)
    moved = place[node.child.astype(jnp.int32)]
    renumbered = jnp.where((node.child > 0) & (moved <= keep), moved, 0).astype(rows.dtype)
    states = jax.tree.map(lambda leaf: leaf[old], tree.states)
    return Tree(pack(node._replace(child=renumbered)), states, tree.low, tree.high, jnp.zeros((1, 1, 6), jnp.float32))
