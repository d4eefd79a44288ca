"""Equations: returns, losses, distributions, transforms, optimisers."""

from __future__ import annotations

from mbrl_jax.ops import return_scale
from mbrl_jax.ops.dists import categorical, categorical_entropy, normal, sample_and_log_prob, tanh_normal
from mbrl_jax.ops.evolution import Evolved, evolve
from mbrl_jax.ops.kl import balanced, categorical_kl, clipped, gaussian_kl, two_way
from mbrl_jax.ops.losses import (
    clipped_ratio_loss,
    expected_soft_value,
    soft_value,
    td_target,
    temperature_loss,
    twin_loss,
)
from mbrl_jax.ops.model_losses import binary_cross_entropy, gaussian_nll, soft_bound, squared_error
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize
from mbrl_jax.ops.optim import clip_by_tensor, descend, laprop, scale_by_laprop
from mbrl_jax.ops.policies import epsilon_greedy, greedy
from mbrl_jax.ops.return_scale import ReturnRange
from mbrl_jax.ops.returns import gae, lambda_returns
from mbrl_jax.ops.transforms import signed_hyperbolic, signed_parabolic, symexp, symlog
from mbrl_jax.ops.two_hot import expectation, integer_bins, symexp_bins, two_hot, two_hot_cross_entropy, two_hot_decode

__all__ = [
    "Evolved", "Normalizer", "ReturnRange", "balanced", "binary_cross_entropy", "categorical", "categorical_entropy",
    "categorical_kl", "clip_by_tensor", "clipped", "clipped_ratio_loss", "denormalize", "descend", "epsilon_greedy",
    "evolve", "expectation", "expected_soft_value", "fit_normalizer", "gae", "gaussian_kl", "gaussian_nll", "greedy",
    "identity_normalizer", "integer_bins", "lambda_returns", "laprop", "normal", "normalize", "return_scale",
    "sample_and_log_prob", "scale_by_laprop", "signed_hyperbolic", "signed_parabolic", "soft_bound", "soft_value",
    "squared_error", "symexp", "symexp_bins", "symlog", "tanh_normal", "td_target", "temperature_loss", "twin_loss",
    "two_hot", "two_hot_cross_entropy", "two_hot_decode", "two_way",
]  # fmt: skip
