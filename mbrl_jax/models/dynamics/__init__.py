"""Dynamics networks over vector observations, their ensembles and fits, and the inverse model."""

from __future__ import annotations

from mbrl_jax.models.dynamics import common, deterministic, ensemble, fit, gaussian, inverse, known
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, DeterministicParams, mse_loss
from mbrl_jax.models.dynamics.ensemble import bind, member
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, Trainer, fit_ensemble, init_ensemble, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, GaussianParams, nll_loss
from mbrl_jax.models.dynamics.inverse import Inverse, InverseConfig, InverseParams, as_member, inverse_loss, label
from mbrl_jax.models.dynamics.known import KnownConfig, with_known

__all__ = [
    "DeterministicConfig", "DeterministicParams", "FitConfig", "FitState", "GaussianConfig", "GaussianParams",
    "Inverse", "InverseConfig", "InverseParams", "KnownConfig", "Trainer", "as_member", "bind", "common",
    "deterministic", "ensemble", "fit", "fit_ensemble", "gaussian", "init_ensemble", "inverse", "inverse_loss", "known",
    "label", "member", "mse_loss", "nll_loss", "trainer", "with_known",
]  # fmt: skip
