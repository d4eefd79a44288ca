"""Backing up in a search tree: links to the new nodes, and their values along their paths to the root; see `tree`."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mbrl_jax.core.types import Array, StepOut
from mbrl_jax.planners.mcts.tree import SCALARS, WORST, Leaf, Rule, Tree, broken, onward, unpack
from mbrl_jax.planners.mcts.vmap_rules import read, write
from mbrl_jax.planners.mcts.xla_cpu import put, while_loop


def back_up(
    tree: Tree, leaf: Leaf, at: Array | int, rule: Rule, out: StepOut, value: Array, bounds: bool = False
) -> Tree:
    """Links the new nodes to their parents, and backs their values up along their paths.

    Args:
      tree: with the new rows in it.
      leaf: from `descend`.
      at, rule: as for `expand`.
      out, value: from `expand`.
      bounds: whether to update `low` and `high`.
    Returns:
      the tree with its new edges, and with visits, Q and V updated along the paths.
    """
    many, (size, width) = rule.num_actions, tree.rows.shape
    new = jnp.asarray(at) if jnp.ndim(at) else at + jnp.arange(leaf.action.shape[0], dtype=jnp.int32)

    carried = _leaf_edge(tree, leaf, new, rule, out, value)

    class At(NamedTuple):
        level: Array  # [] of the node below, the same for the whole batch
        rows: Array  # as of `Tree`
        carried: Array  # [k, 4] of the edge below: its visits, its Q, the return through it, and its child: 0 for no
        # change, below 0 to remove it because the edge is broken, -2 if that breaks the edge above too
        low: Array
        high: Array

    def widened(at: At, on: Array) -> tuple[Array, Array]:
        if not bounds:
            return at.low, at.high
        q = at.carried[:, 1]
        on = on & ~broken(q)  # their Q has no bound
        low = jnp.minimum(at.low, jnp.min(jnp.where(on, q, jnp.inf)))
        return low, jnp.maximum(at.high, jnp.max(jnp.where(on, q, -jnp.inf)))

    def up(at: At) -> At:
        level = at.level - 1
        entry = read(tree.path, level)
        node, action = entry[:, 0].astype(jnp.int32), entry[:, 1].astype(jnp.int32)
        value, total, reward, discount = (entry[:, i] for i in range(2, 6))
        on = node > 0
        visits, q, returned, child = (at.carried[:, i] for i in range(4))
        returned = jnp.where(child < 0.0, value, returned)  # which leaves the mean as it was
        mean = (value * total + returned) / (total + 1.0)
        own = jnp.full_like(action, width - SCALARS)
        place = jnp.where(on, node, size)
        places = beside(place, place, jnp.where(child == 0.0, size, place), place, place)
        columns = beside(action, many + action, 2 * many + action, own, own + 1)
        numbers = beside(visits, q, jnp.maximum(child, 0.0), mean, total + 1.0)
        rows = put(at.rows, places, columns, numbers)
        q = jnp.where(child < -1.0, WORST, reward + onward(discount, mean))
        above = (total + 1.0, q, reward + onward(discount, returned), jnp.where(child < -1.0, -1.0, 0.0))
        carried = jnp.where(on[:, None], beside(*above), at.carried)
        return At(level, rows, carried, *widened(at, on))

    end = At(leaf.levels, tree.rows, carried, tree.low, tree.high)
    end = while_loop(lambda at: at.level > 1, up, end, "level", 5 * new.size)  # that is how many `put` writes
    low, high = widened(end, leaf.active)
    return tree._replace(rows=_root_after(end.rows, leaf, many, end.carried), low=low, high=high)


def _leaf_edge(tree: Tree, leaf: Leaf, new: Array, rule: Rule, out: StepOut, value: Array) -> Array:
    """[k, 4] what the edges into the new nodes, in rows `new`, become; columns as of `carried` in `back_up`."""
    many = rule.num_actions
    # An edge's first visit, or another one of an edge without a child.
    parents = jnp.take(tree.rows, leaf.parent, axis=0, mode="clip")
    parent = unpack(parents, many)
    mine = jnp.arange(many, dtype=jnp.int32) == leaf.action[:, None]
    visits, q = (jnp.max(jnp.where(mine, numbers, -jnp.inf), -1) for numbers in (parent.visits, parent.q))
    returned = out.reward + onward(out.discount, value)
    has_child = (visits == 0.0) & (out.discount != 0.0)
    child = jnp.where(has_child, new.astype(tree.rows.dtype), 0.0)
    # Once broken, always broken. The edge breaks the one above where no other legal edge of its node is sound.
    bad = broken(q) | broken(returned)
    sound = rule.legal(parent.prior[:, :many]) & ~broken(parent.q) & ~mine
    breaks = ~jnp.any(sound, -1) if rule.all_break is None else ~jnp.any(sound, -1) | rule.all_break(parents)
    q = jnp.where(bad, WORST, q + (returned - q) / (visits + 1.0))
    return beside(visits + 1.0, q, returned, jnp.where(bad, jnp.where(breaks, -2.0, -1.0), child))


def _root_after(rows: Array, leaf: Leaf, many: int, carried: Array) -> Array:
    """The rows [M, R] after each simulation's visit of its own edge of the root."""
    row = rows[0]
    columns = jnp.arange(row.shape[0], dtype=jnp.int32)
    own = row.shape[0] - SCALARS
    mine = lambda place: leaf.active[:, None] & (columns == place)  # noqa: E731
    at_place = lambda place, numbers: jnp.max(jnp.where(mine(place[:, None]), numbers[:, None], -jnp.inf), 0)  # noqa: E731
    count = jnp.sum(leaf.active.astype(row.dtype))
    returned = jnp.sum(jnp.where(leaf.active, jnp.where(carried[:, 3] < 0.0, row[own], carried[:, 2]), 0.0))
    value = (row[own] * row[own + 1] + returned) / (row[own + 1] + count)
    new = jnp.maximum(at_place(leaf.first, carried[:, 0]), at_place(many + leaf.first, carried[:, 1]))
    new = jnp.maximum(new, at_place(2 * many + leaf.first, carried[:, 3]))
    new = jnp.where(columns == own, value, jnp.where(columns == own + 1, row + count, new))
    children = (columns >= 2 * many) & (columns < 3 * many)
    kept = (new == -jnp.inf) | (children & (new == 0.0))
    return write(rows, jnp.where(kept, row, jnp.where(children, jnp.maximum(new, 0.0), new))[None], 0)


def beside(*columns: Array) -> Array:
    """Stacks n arrays [k] to [k, n], by selection: on a CPU many times faster than concatenation."""
    place = jnp.arange(len(columns), dtype=jnp.int32)
    out = columns[-1][..., None]
    for i, column in reversed(list(enumerate(columns[:-1]))):
        out = jnp.where(place == i, column[..., None], out)
    return out
