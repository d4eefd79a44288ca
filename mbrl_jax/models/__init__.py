"""World models: tables, dynamics networks and their ensembles, and the latent models of each family."""

from __future__ import annotations

from mbrl_jax.models import dynamics, muzero, rssm, tabular, tdmpc2, world_models
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic, mse_loss
from mbrl_jax.models.dynamics.ensemble import bind, ensemble, member
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, fit_ensemble, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian, nll_loss
from mbrl_jax.models.dynamics.inverse import InverseConfig, inverse, inverse_loss

__all__ = [
    "DeterministicConfig", "FitConfig", "FitState", "GaussianConfig", "InverseConfig", "bind", "deterministic",
    "dynamics", "ensemble", "fit_ensemble", "gaussian", "inverse", "inverse_loss", "member", "mse_loss", "muzero",
    "nll_loss", "rssm", "tabular", "tdmpc2", "trainer", "world_models",
]  # fmt: skip
