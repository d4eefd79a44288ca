"""Tree searches over discrete actions, and what each is for.

They share one tree (`tree`), and each runs on any `Model` with one member: the true environment, a table, an ensemble
whose step is "ts1" or "mean", a latent model with a `value` and a `prior`.

| planner | selection of actions in the tree | value of a new node | policy |
|---|---|---|---|
| `uct` | upper confidence bounds | return of random rollouts, or `value` | share of visits |
| `puct` | the prior, and values scaled to [0, 1] | `value` | share of visits |
| `gumbel` | Sequential Halving at the root, the improved policy below | `value` | softmax(logits + σ(q̂)) |
| `chance` | as `puct`; outcomes by their probabilities | `value`, of states and afterstates | share of visits |

Two players: where the player to move changes, a step's `discount` is -1. A value is that of the player to move.
"""

from __future__ import annotations

from mbrl_jax.planners.mcts.gumbel import Gumbel, gumbel
from mbrl_jax.planners.mcts.nodes import Nodes, nodes
from mbrl_jax.planners.mcts.puct import PUCT, puct
from mbrl_jax.planners.mcts.search import SearchInfo
from mbrl_jax.planners.mcts.stochastic import ChanceModel, chance
from mbrl_jax.planners.mcts.uct import UCT, uct

__all__ = [
    "PUCT", "UCT", "ChanceModel", "Gumbel", "Nodes", "SearchInfo", "chance", "gumbel", "nodes", "puct", "uct",
]  # fmt: skip
