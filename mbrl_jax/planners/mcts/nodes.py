"""A search tree as a list of nodes in NumPy, for drawing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mbrl_jax.planners.mcts.tree import Tree, unpack


class Nodes(NamedTuple):
    """A tree's n nodes as NumPy arrays, the root first and parents before children."""

    parent: np.ndarray  # [n] place of the parent, -1 for the root
    action: np.ndarray  # [n] taken at the parent, -1 for the root
    depth: np.ndarray  # [n]
    visits: np.ndarray  # [n] of the edge into it; the root's own
    value: np.ndarray  # [n] V(s)
    q: np.ndarray  # [n] Q of the edge into it; the root's V
    prior: np.ndarray  # [n] of the edge into it, as the planner's selection rule keeps it; 1 for the root


def nodes(tree: Tree, num_actions: int) -> Nodes:
    """The nodes of one tree: `nodes(info.tree, spec.num_actions)` of a planner with `keep_tree`.

    The prior is a probability with PUCT and Gumbel, a random number with UCT (untried actions go by it).

    Args:
      tree: one, without a batch axis.
      num_actions: A.
    """
    table = unpack(np.asarray(tree.rows), num_actions)  # pyright: ignore[reportArgumentType]
    found = [(-1, -1, 0, 0)]
    for place, (_, _, depth, row) in enumerate(found):
        for edge in np.flatnonzero(table.child[row] > 0):
            found.append((place, int(edge), depth + 1, int(table.child[row, edge])))
    parent, action, depth, row = np.array(found).T
    above, root = row[np.maximum(parent, 0)], parent < 0
    visits, q, prior = (np.asarray(column)[above, action] for column in (table.visits, table.q, table.prior))
    value = np.asarray(table.value)[row]
    visits = np.where(root, table.total[0], visits).astype(int)
    return Nodes(parent, action, depth, visits, value, np.where(root, value, q), np.where(root, 1.0, prior))
