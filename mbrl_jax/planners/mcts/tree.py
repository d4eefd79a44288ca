"""A search tree over actions: descend, expand and, in `backup`, back up; which action to follow is the caller's rule.

A node is one row of numbers, its statistics lying on the edges that leave it. With N(s, a) visits, r and d the reward
and the discount (γ included) of the edge, v the model's value of a new node, and V(s) the mean of all returns from s:

    G <- v at the leaf, then  G <- r + d G  at every edge on the way up
    V(s) <- (V(s) N(s) + G) / (N(s) + 1),    Q(s, a) = r + d V(child)

V counts the node's own v once. An edge into a terminal state (d = 0), or one at the depth limit, is not followed: each
visit asks the model anew, and Q is the mean of r + d v. The node behind any other edge is the one state that the model
gave when the edge was first taken.

Several walkers may be in one tree at once, each below a root action of its own. Functions take one tree and callers
`vmap`. What makes them fast: the path is kept in the descent, with all that backing up needs to read; loops over
levels end when no lane needs another level, a question whose answer is the same in all lanes, so that no table is
copied; whatever lies at the same place in all lanes is read and written as a slice; reductions share passes.

Bytes of a tree of n simulations and A actions: (n + 1) (4 (3 A + P) + 20 + state), P numbers of prior in a node, and
24 n for the path of a single walker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, State, StepOut
from mbrl_jax.planners.mcts.vmap_rules import in_any_lane, write
from mbrl_jax.planners.mcts.xla_cpu import while_loop

SCALARS = 5  # numbers of a row that are the node's own


class Node(NamedTuple):
    """One node, or several [..., as its fields]. Everything is float32; counts and indices are exact up to 2^24."""

    visits: Array  # [A] N(s, a)
    q: Array  # [A] Q(s, a), 0 where never visited
    child: Array  # [A] row of the node behind the edge, 0 for none
    prior: Array  # [P] what the rule of selection keeps of the model's prior
    value: Array  # [] V(s)
    total: Array  # [] N(s), its own evaluation included
    reward: Array  # [] of the edge into it
    discount: Array  # [] of the edge into it, γ included
    raw: Array  # [] v, as the model gave it


class Tree(NamedTuple):
    """A tree of M rows, the root's first."""

    rows: Array  # [M, 3 A + P + 5]
    states: State  # [M, ...]
    low: Array  # [] smallest Q(s, a) seen anywhere in the tree, where that is asked for; infinity before the first
    high: Array  # [] largest
    path: Array  # [D, k, 6] the walkers' way below the root: row (0 for none), action, value, total, reward, discount


class Leaf(NamedTuple):
    """Where k walks ended: the edges to expand."""

    first: Array  # [k] the root actions they began with, all different
    parent: Array  # [k] row
    action: Array  # [k]
    levels: Array  # [] 1 + levels below the root that any walk in any lane reached
    walking: Array  # [k] bool: False for a walker that stands by


class Rule(NamedTuple):
    """How actions are chosen."""

    num_actions: int
    best: Callable[[Array, int], tuple[Array, Array]]  # rows [k, R] and M -> actions [k], rows behind them [k]


def by_score(num_actions: int, score: Callable[[Node], Array]) -> Rule:
    """The rule that follows the first of the largest scores; score: nodes [k, ...] -> [k, A]."""

    def best(rows: Array, room: int) -> tuple[Array, Array]:
        node = unpack(rows, num_actions)
        return first_best(score(node), node.child, room)

    return Rule(num_actions, best)


def pack(node: Node) -> Array:
    """A node as a row, [..., R]."""
    return jnp.concatenate([*node[:4], jnp.stack(node[4:], -1)], -1)


def unpack(row: Array, num_actions: int) -> Node:
    """A row [..., R] as a node."""
    a = num_actions
    edges = row[..., :a], row[..., a : 2 * a], row[..., 2 * a : 3 * a]
    value, total, reward, discount, raw = (row[..., i - SCALARS] for i in range(SCALARS))
    return Node(*edges, row[..., 3 * a : -SCALARS], value, total, reward, discount, raw)


def fresh(
    num_actions: int, prior: Array, raw: Array, reward: Array | float = 0.0, discount: Array | float = 1.0
) -> Array:
    """The row of a node whose edges were never taken: prior [..., P], the rest [...]."""
    nothing = jnp.zeros((*prior.shape[:-1], num_actions), prior.dtype)
    raw, one, reward, discount = (
        jnp.broadcast_to(jnp.asarray(x, prior.dtype), prior.shape[:-1]) for x in (raw, 1.0, reward, discount)
    )
    return pack(Node(nothing, nothing, nothing, prior, raw, one, reward, discount, raw))


def new_tree(root: Array, state: State, rows: int) -> Tree:
    """A tree with nothing but its root, and no room for paths yet.

    Args:
      root: [R] from `fresh`.
      state: the root's state.
      rows: M, nodes there is room for, the root included.
    """
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (root, state))
    table, states = write(jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), start), start, 0)
    infinity = jnp.full((), jnp.inf, root.dtype)
    return Tree(table, states, infinity, -infinity, jnp.zeros((1, 1, 6), root.dtype))


def with_room(tree: Tree, levels: int, walkers: int = 1) -> Tree:
    """The tree with room for the paths of `walkers` at once, of `levels` nodes below the root."""
    return tree._replace(path=jnp.zeros((max(levels, 1) + 1, walkers, 6), tree.rows.dtype))


def first_max(scores: Array) -> Array:
    """The index of the largest entry along the last axis, the first of equals; [..., A] -> [...] int32.

    Two plain reductions, which a CPU does faster than `argmax`.
    """
    indices = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    best = scores == jnp.max(scores, -1, keepdims=True)
    return jnp.min(jnp.where(best, indices, scores.shape[-1] - 1), -1)


def first_best(scores: Array, child: Array, room: int, axis: int = -1) -> tuple[Array, Array]:
    """The first action of the largest score, and the row behind it; where no score is a number, the last action.

    Args:
      scores: with actions along an axis.
      child: likewise, the rows behind them.
      room: M, all rows.
      axis: of the actions.
    """
    many, bits = scores.shape[axis], (room - 1).bit_length()  # of a row's number
    ways = jnp.expand_dims(
        jnp.arange(many, dtype=jnp.int32), [i for i in range(scores.ndim) if i != axis % scores.ndim]
    )
    code = (ways << bits) + child.astype(jnp.int32)  # both found in one reduction
    best = scores == jnp.max(scores, axis, keepdims=True)
    found = jnp.min(jnp.where(best, code, many << bits), axis)
    return jnp.minimum(found >> bits, many - 1), found & ((1 << bits) - 1)


def descend(tree: Tree, first: Array, walking: Array, rule: Rule, max_depth: int) -> tuple[Tree, Leaf]:
    """Walks from the root to edges with nothing behind them.

    Args:
      tree: read; its room for paths is written.
      first: [k] the root actions, all different.
      walking: [k] bool: False for a walker that stands by.
      rule: how actions are chosen.
      max_depth: the most edges of a path.
    """
    many, room = rule.num_actions, tree.rows.shape[0]

    class At(NamedTuple):
        level: Array  # [] of the node, the same in all lanes
        node: Array  # [k] 0 once the walk has ended
        leaf: Array  # [k, 2] parent and action
        path: Array

    def step(at: At) -> At:
        rows = jnp.take(tree.rows, at.node, axis=0, mode="clip")
        action, child = rule.best(rows, room)
        node = unpack(rows, many)
        note = (at.node, action, node.value, node.total, node.reward, node.discount)
        path = write(at.path, jnp.stack([x.astype(tree.path.dtype) for x in note], -1)[None], at.level)
        going = at.node > 0
        leaf = jnp.where(going[:, None], jnp.stack([at.node, action], -1), at.leaf)
        return At(at.level + 1, jnp.where(going & (at.level + 1 < max_depth), child, 0), leaf, path)

    child = jnp.take(tree.rows[0, 2 * many : 3 * many], first, mode="clip").astype(jnp.int32)
    begun = jnp.where(walking & (max_depth > 1), child, 0)
    start = At(jnp.ones((), jnp.int32), begun, jnp.stack([jnp.zeros_like(first), first], -1), tree.path)
    going = lambda at: in_any_lane(jnp.any(at.node > 0))  # noqa: E731
    end = while_loop(going, step, start, "level", first.size * many)
    return tree._replace(path=end.path), Leaf(first, end.leaf[:, 0], end.leaf[:, 1], end.level, walking)


def expand(
    tree: Tree,
    leaf: Leaf,
    at: Array | int,
    rule: Rule,
    step: Callable[[State, Array], tuple[StepOut, Array, Array]],
    gamma: Array | float,
) -> tuple[Tree, StepOut, Array]:
    """Asks the model for what lies behind the leaves' edges, and keeps it as new rows.

    Args:
      tree: with room at the rows `at`, which nothing was written to.
      leaf: from `descend`.
      at: the row for the first walker's node, the others' behind it: one number, the same in all lanes; or [k] rows,
        not below M for a walker that stands by.
      rule: as for `descend`.
      step: (states [k, ...], actions [k]) -> StepOut, prior [k, P], value [k]; what `Model.step` gives, discounts
        without γ.
      gamma: discount per step.
    Returns:
      the tree; StepOut [k], γ in its discount; values [k].
    """
    states = jax.tree.map(lambda leaves: jnp.take(leaves, leaf.parent, axis=0, mode="clip"), tree.states)
    out, prior, value = step(states, leaf.action)
    dtype = tree.rows.dtype
    out = StepOut(out.state, out.reward.astype(dtype), gamma * out.discount.astype(dtype))
    value = value.astype(dtype)
    row = fresh(rule.num_actions, prior.astype(dtype), value, out.reward, out.discount)
    if jnp.ndim(at):
        kept, new = (tree.rows, tree.states), (row, out.state)
        table, states = jax.tree.map(lambda leaves, rows: leaves.at[at].set(rows, mode="drop"), kept, new)
    else:
        edges = 3 * rule.num_actions  # which are 0 before and after
        table, states = write(tree.rows, row[:, edges:], at, edges), write(tree.states, out.state, at)
    return tree._replace(rows=table, states=states), out, value
