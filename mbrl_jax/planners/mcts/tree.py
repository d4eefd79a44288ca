"""A search tree over actions: descend, expand and, in `backup`, back up. The caller's rule chooses the actions.

A node is one row of numbers; statistics of an action belong to the edge that leaves the node. With N(s, a) visits, the
reward r and the discount d (γ included) of an edge, the model's value v of a new node, and the mean V(s) of all returns
from s:

    G <- v at the leaf, then  G <- r + d G  at every edge on the way up
    V(s) <- (V(s) N(s) + G) / (N(s) + 1),    Q(s, a) = r + d V(child)

V counts the node's own v once. An edge into a terminal state (d = 0), or one at the depth limit, gets no child: each
visit steps the model anew, and Q is the mean of r + d v. Any other edge leads to the one state that the model gave when
the edge was first taken.

An edge is broken where its reward, its discount or the value behind it is not a number, is infinite or is beyond
`LARGEST`: it is worse than any other, whoever is to move. Its Q becomes `WORST` for good, it has no child, and it
leaves V as it was. A node all of whose legal edges are broken breaks the edge into it when it is next visited.

Several simulations may run in one tree in parallel, each below a root action of its own. Functions take one tree;
callers `vmap`. What makes them fast: the descent records its path with all that backing up reads; loops over levels
have a predicate that is the same for the whole batch (`vmap_rules`), so that no table is copied; positions that are the
same for the whole batch are read and written as slices; reductions are fused.

Bytes of a tree of n simulations and A actions: (n + 1) (4 (3 A + P) + 20 + state), P numbers of prior in a node, and
24 n for the path of one simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, State, StepOut
from mbrl_jax.planners.mcts.vmap_rules import any_in_batch, write
from mbrl_jax.planners.mcts.xla_cpu import while_loop

LARGEST = 1e25  # absolute value beyond which a return counts as infinite
WORST = -1e30  # Q of a broken edge
SCALARS = 5  # numbers of a row that belong to the node itself: the fields of `Node` from `value` on


class Node(NamedTuple):
    """One node, or several [..., as its fields]. Everything is float32; counts and indices are exact up to 2^24."""

    visits: Array  # [A] N(s, a)
    q: Array  # [A] Q(s, a), 0 where never visited
    child: Array  # [A] row of the node behind the edge, 0 for none
    prior: Array  # [P] what the selection rule keeps of the model's prior
    value: Array  # [] V(s)
    total: Array  # [] N(s), its own evaluation included
    reward: Array  # [] of the edge into it
    discount: Array  # [] of the edge into it, γ included
    raw: Array  # [] v, the model's value


class Tree(NamedTuple):
    """A tree of M rows, the root first."""

    rows: Array  # [M, 3 A + P + 5]
    states: State  # [M, ...]
    low: Array  # [] smallest Q(s, a) so far in the tree, with `bounds` of `back_up`; infinity before the first
    high: Array  # [] largest
    path: Array  # [D, k, 6] paths of k simulations below the root: row (0 for none), action, V, N, reward, discount


class Leaf(NamedTuple):
    """Where k descents ended: the edges to expand."""

    first: Array  # [k] their root actions, all different
    parent: Array  # [k] row
    action: Array  # [k]
    levels: Array  # [] 1 + the deepest level that any descent of the batch reached
    active: Array  # [k] bool: False for a simulation that is left out


class Rule(NamedTuple):
    """How actions are selected below the root."""

    num_actions: int
    best: Callable[[Array, int], tuple[Array, Array]]  # (rows [k, R], M) -> actions [k], rows behind them [k]
    legal: Callable[[Array], Array] = lambda prior: prior >= 0.0  # (prior [..., A]) -> [..., A] bool
    all_break: Callable[[Array], Array] | None = None  # (rows [k, R]) -> [k]: nodes that one broken edge breaks


def broken(q: Array) -> Array:
    """Whether Q is that of a broken edge; of any shape."""
    return q < -LARGEST * 1e3


def by_score(num_actions: int, score: Callable[[Node], Array]) -> Rule:
    """The rule that takes the first action of the largest score; score: (nodes [k, ...]) -> [k, A]."""

    def best(rows: Array, size: int) -> tuple[Array, Array]:
        node = unpack(rows, num_actions)
        return first_best(score(node), node.child, size)

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


def new_node(
    num_actions: int, prior: Array, raw: Array, reward: Array | float = 0.0, discount: Array | float = 1.0
) -> Array:
    """The row [..., R] of a node without visits.

    Args:
      num_actions: A.
      prior: [..., P].
      raw: [...] the model's value.
      reward, discount: [...] of the edge into it.
    """
    nothing = jnp.zeros((*prior.shape[:-1], num_actions), prior.dtype)
    raw, one, reward, discount = (
        jnp.broadcast_to(jnp.asarray(x, prior.dtype), prior.shape[:-1]) for x in (raw, 1.0, reward, discount)
    )
    return pack(Node(nothing, nothing, nothing, prior, raw, one, reward, discount, raw))


def new_tree(root: Array, state: State, rows: int) -> Tree:
    """A tree of its root alone, without memory for paths.

    Args:
      root: [R] from `new_node`.
      state: the root's state.
      rows: M, the largest number of nodes, the root included.
    """
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (root, state))
    table, states = write(jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), start), start, 0)
    infinity = jnp.full((), jnp.inf, root.dtype)
    return Tree(table, states, infinity, -infinity, jnp.zeros((1, 1, 6), root.dtype))


def with_paths(tree: Tree, levels: int, parallel: int = 1) -> Tree:
    """The tree with memory for the paths of `parallel` simulations, of `levels` nodes below the root.

    Args:
      tree: whose old paths are dropped.
      levels: largest number of nodes of a path; room for at least 1 is made.
      parallel: k, simulations that run at once.
    """
    return tree._replace(path=jnp.zeros((max(levels, 1) + 1, parallel, 6), tree.rows.dtype))


def first_max(scores: Array) -> Array:
    """The index of the largest entry along the last axis, the first of equals; [..., A] -> [...] int32.

    Two plain reductions, which a CPU does faster than `argmax`.
    """
    indices = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    best = scores == jnp.max(scores, -1, keepdims=True)
    return jnp.min(jnp.where(best, indices, scores.shape[-1] - 1), -1)


def first_best(scores: Array, child: Array, size: int, axis: int = -1) -> tuple[Array, Array]:
    """The first action of the largest score, and the row behind it; where all scores are NaN, the last action.

    Args:
      scores: with actions along an axis.
      child: likewise, the rows behind them.
      size: M, rows of the tree.
      axis: of the actions.
    """
    many, bits = scores.shape[axis], (size - 1).bit_length()  # bits of a row's number
    ways = jnp.expand_dims(
        jnp.arange(many, dtype=jnp.int32), [i for i in range(scores.ndim) if i != axis % scores.ndim]
    )
    code = (ways << bits) + child.astype(jnp.int32)  # action and row, found in one reduction
    best = scores == jnp.max(scores, axis, keepdims=True)
    found = jnp.min(jnp.where(best, code, many << bits), axis)
    return jnp.minimum(found >> bits, many - 1), found & ((1 << bits) - 1)


def descend(tree: Tree, first: Array, active: Array, rule: Rule, max_depth: int) -> tuple[Tree, Leaf]:
    """Follows the rule from the root down to edges without a child.

    Args:
      tree: read; its paths are written.
      first: [k] the root actions, all different.
      active: [k] bool: False for a simulation that is left out.
      rule: how actions are selected.
      max_depth: largest number of edges of a path.
    Returns:
      the tree with the k paths; the k edges to expand.
    """
    many, size = rule.num_actions, tree.rows.shape[0]

    class At(NamedTuple):
        level: Array  # [] of the node, the same for the whole batch
        node: Array  # [k] 0 once the descent has ended
        leaf: Array  # [k, 2] parent and action
        path: Array  # as of `Tree`

    def step(at: At) -> At:
        rows = jnp.take(tree.rows, at.node, axis=0, mode="clip")
        action, child = rule.best(rows, size)
        node = unpack(rows, many)
        entry = (at.node, action, node.value, node.total, node.reward, node.discount)
        path = write(at.path, jnp.stack([x.astype(tree.path.dtype) for x in entry], -1)[None], at.level)
        going = at.node > 0
        leaf = jnp.where(going[:, None], jnp.stack([at.node, action], -1), at.leaf)
        return At(at.level + 1, jnp.where(going & (at.level + 1 < max_depth), child, 0), leaf, path)

    child = jnp.take(tree.rows[0, 2 * many : 3 * many], first, mode="clip").astype(jnp.int32)
    below = jnp.where(active & (max_depth > 1), child, 0)
    start = At(jnp.ones((), jnp.int32), below, jnp.stack([jnp.zeros_like(first), first], -1), tree.path)
    going = lambda at: any_in_batch(jnp.any(at.node > 0))  # noqa: E731
    end = while_loop(going, step, start, "level", first.size * many)
    return tree._replace(path=end.path), Leaf(first, end.leaf[:, 0], end.leaf[:, 1], end.level, active)


def onward(discount: Array, value: Array) -> Array:
    """Discount times value, and 0 where the discount is 0: past the end even NaN has no effect."""
    return jnp.where(discount == 0.0, 0.0, discount * value)


def expand(
    tree: Tree,
    leaf: Leaf,
    at: Array | int,
    rule: Rule,
    step: Callable[[State, Array], tuple[StepOut, Array, Array]],
    gamma: Array | float,
) -> tuple[Tree, StepOut, Array]:
    """Steps the model along the leaves' edges, and keeps the results as new nodes.

    Args:
      tree: whose rows `at` were never written to.
      leaf: from `descend`.
      at: the row of the first simulation's node, the others' behind it: one number, the same for the whole batch; or
        [k] rows, M or more for a simulation that is left out.
      rule: as for `descend`.
      step: (states [k, ...], actions [k]) -> StepOut, prior [k, P], value [k]; what `Model.step` gives, discounts
        without γ.
      gamma: discount per step.
    Returns:
      the tree; StepOut [k], γ in its discount; values [k]. Of a broken edge the reward is `WORST`, the rest 0.
    """
    states = jax.tree.map(lambda leaves: jnp.take(leaves, leaf.parent, axis=0, mode="clip"), tree.states)
    out, prior, value = step(states, leaf.action)
    dtype = tree.rows.dtype
    reward, discount, value = out.reward.astype(dtype), gamma * out.discount.astype(dtype), value.astype(dtype)
    sound = jnp.abs(reward + onward(discount, value)) <= LARGEST  # False for NaN too
    out = StepOut(out.state, jnp.where(sound, reward, WORST), jnp.where(sound, discount, 0.0))
    value = jnp.where(jnp.abs(value) <= LARGEST, value, 0.0)
    row = new_node(rule.num_actions, prior.astype(dtype), value, out.reward, out.discount)
    if jnp.ndim(at):
        kept, new = (tree.rows, tree.states), (row, out.state)
        table, states = jax.tree.map(lambda leaves, rows: leaves.at[at].set(rows, mode="drop"), kept, new)
    else:
        edges = 3 * rule.num_actions  # which are 0 before and after
        table, states = write(tree.rows, row[:, edges:], at, edges), write(tree.states, out.state, at)
    return tree._replace(rows=table, states=states), out, value
