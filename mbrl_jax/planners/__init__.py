"""Searches over actions with a model: model-predictive control, tree search, dynamic programming."""

from __future__ import annotations

from mbrl_jax.planners import mcts, mpc
from mbrl_jax.planners.mcts.gumbel import Gumbel, gumbel
from mbrl_jax.planners.mcts.nodes import Nodes, nodes
from mbrl_jax.planners.mcts.puct import PUCT, puct
from mbrl_jax.planners.mcts.search import SearchInfo
from mbrl_jax.planners.mcts.stochastic import ChanceModel, chance
from mbrl_jax.planners.mcts.uct import UCT, uct
from mbrl_jax.planners.mpc.cem import CEM, cem
from mbrl_jax.planners.mpc.gradient import Gradient, gradient
from mbrl_jax.planners.mpc.icem import ICEM, icem
from mbrl_jax.planners.mpc.mppi import MPPI, MPPIElites, mppi, mppi_elites
from mbrl_jax.planners.mpc.score import score
from mbrl_jax.planners.mpc.shooting import Shooting, shooting
from mbrl_jax.planners.value_iteration import policy_iteration, value_iteration

__all__ = [
    "CEM", "ChanceModel", "Gradient", "Gumbel", "ICEM", "MPPI", "MPPIElites", "Nodes", "PUCT", "SearchInfo", "Shooting",
    "UCT", "cem", "chance", "gradient", "gumbel", "icem", "mcts", "mpc", "mppi", "mppi_elites", "nodes",
    "policy_iteration", "puct", "score", "shooting", "uct", "value_iteration",
]  # fmt: skip
