"""Model-predictive control: planners that optimise a sequence of actions in a model.

The sampling-based ones share one scoring function (`score`), so each runs on any `Model`: the true environment, a
table, an ensemble, a latent model with a `value` and a `prior`. `gradient` differentiates the model instead.

| planner | candidates | executed action | actions |
|---|---|---|---|
| `shooting` | uniform | the best candidate | both |
| `cem` | around the elites' mean | the mean | both |
| `icem` | around the elites' mean, with coloured noise; elites are kept | the best candidate | continuous |
| `mppi` | around the weighted mean, noise of constant size | the mean | both |
| `mppi_elites` | around the elites' weighted mean | a sampled elite plus noise | continuous |
| `gradient` | random starts, improved by gradient ascent | the best candidate | continuous |
"""

from __future__ import annotations

from mbrl_jax.planners.mpc.cem import CEM, cem
from mbrl_jax.planners.mpc.choice import PlannerConfig, make_planner
from mbrl_jax.planners.mpc.common import PlanInfo
from mbrl_jax.planners.mpc.gradient import Gradient, gradient
from mbrl_jax.planners.mpc.icem import ICEM, icem, populations
from mbrl_jax.planners.mpc.mppi import MPPI, MPPIElites, mppi, mppi_elites
from mbrl_jax.planners.mpc.score import score
from mbrl_jax.planners.mpc.shooting import Shooting, shooting

__all__ = [
    "CEM", "Gradient", "ICEM", "MPPI", "MPPIElites", "PlanInfo", "PlannerConfig", "Shooting", "cem", "gradient", "icem",
    "make_planner", "model_steps", "mppi", "mppi_elites", "score", "shooting",
]  # fmt: skip


def model_steps(cfg: Shooting | CEM | ICEM | MPPI | MPPIElites) -> int:
    """Model steps of one plan: candidates times particles times horizon, over all iterations.

    Sampling the `proposals` takes further steps, once per plan: their number times the horizon.
    """
    if isinstance(cfg, Shooting):
        candidates = cfg.population
    elif isinstance(cfg, ICEM):
        candidates = sum(populations(cfg))
    else:
        candidates = cfg.iterations * cfg.population
    return candidates * cfg.particles * cfg.horizon
