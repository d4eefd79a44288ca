"""The models of World Models: an autoencoder of observations, and recurrent dynamics of its latents."""

from __future__ import annotations

from mbrl_jax.models.world_models import mdn_rnn, vae
from mbrl_jax.models.world_models.mdn_rnn import MDNRNN, DreamState, MDNRNNConfig, Memory, bind, mdn_rnn_loss
from mbrl_jax.models.world_models.vae import VAE, Posterior, VAEConfig, sample_latent, vae_loss

__all__ = [
    "DreamState", "MDNRNN", "MDNRNNConfig", "Memory", "Posterior", "VAE", "VAEConfig", "bind", "mdn_rnn",
    "mdn_rnn_loss", "sample_latent", "vae", "vae_loss",
]  # fmt: skip
