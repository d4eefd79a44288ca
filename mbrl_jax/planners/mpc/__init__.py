"""Sampling-based planners: all of them, and what each costs.

One scoring function (`score`) serves them all, so each runs on whatever is a `Model`: the true environment, a table, an
ensemble, a latent model with a `value` and a `prior`.

| planner | how candidates are drawn | what is executed | actions |
|---|---|---|---|
| `shooting` | uniform | the best candidate | both |
| `cem` | around the elites' mean | the mean | both |
| `icem` | around the elites' mean, coloured over time, good plans kept | the best candidate | continuous |
| `mppi` | around the weighted mean, noise of constant size | the mean | both |
| `mppi_elites` | around the elites' weighted mean | a drawn elite plus noise | continuous |
"""

from __future__ import annotations

from mbrl_jax.planners.mpc.cem import CEM, cem
from mbrl_jax.planners.mpc.common import PlanInfo
from mbrl_jax.planners.mpc.icem import ICEM, icem, populations
from mbrl_jax.planners.mpc.mppi import MPPI, MPPIElites, mppi, mppi_elites
from mbrl_jax.planners.mpc.score import score
from mbrl_jax.planners.mpc.shooting import Shooting, shooting

__all__ = [
    "CEM", "ICEM", "MPPI", "MPPIElites", "PlanInfo", "Shooting", "cem", "icem", "model_steps", "mppi", "mppi_elites",
    "score", "shooting",
]  # fmt: skip


def model_steps(cfg: Shooting | CEM | ICEM | MPPI | MPPIElites) -> int:
    """Model steps of one plan: candidates times particles times horizon, over all iterations.

    Rolling out `proposals` comes on top, once per plan: their number times the horizon.
    """
    if isinstance(cfg, Shooting):
        candidates = cfg.population
    elif isinstance(cfg, ICEM):
        candidates = sum(populations(cfg))
    else:
        candidates = cfg.iterations * cfg.population
    return candidates * cfg.particles * cfg.horizon
