"""Tree searches over discrete actions: all of them, and what each is for.

One tree (`tree`) serves them all, so each runs on whatever is a `Model` of one world: the true environment, a table, an
ensemble whose step is "ts1" or "mean", a latent model with a `value` and a `prior`.

| planner | how actions are chosen in the tree | a new node's value | policy |
|---|---|---|---|
| `uct` | upper confidence bounds | random rollouts, or `value` | share of visits |
| `puct` | the prior, and values scaled to [0, 1] | `value` | share of visits |
| `gumbel` | Sequential Halving at the root, the improved policy below | `value` | softmax(logits + σ(q̂)) |
| `chance` | as `puct`; outcomes in proportion to their chances | `value`, of states and afterstates | share of visits |

Two players: where the player to move changes, a step's `discount` is -1, and every value is seen from who moves.
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
