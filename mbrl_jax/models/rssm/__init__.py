"""Recurrent state-space models: latent dynamics, and the world models of the three Dreamers with their losses."""

from __future__ import annotations

from mbrl_jax.models.rssm import dreamer_v1_v2, dreamer_v3, latents, r2_dreamer, rssm
from mbrl_jax.models.rssm.rssm import (
    RSSM,
    GRUConfig,
    Latent,
    Rows,
    RSSMConfig,
    Tracked,
    block_rssm,
    categorical_rssm,
    features,
    gaussian_rssm,
)

__all__ = [
    "GRUConfig", "Latent", "RSSM", "RSSMConfig", "Rows", "Tracked", "block_rssm", "categorical_rssm", "dreamer_v1_v2",
    "dreamer_v3", "features", "gaussian_rssm", "latents", "r2_dreamer", "rssm",
]  # fmt: skip
