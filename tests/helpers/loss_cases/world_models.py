"""World Models' losses on small batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from helpers.loss_cases import LossCase
from mbrl_jax.core import Box, Discrete, Spec
from mbrl_jax.models.world_models import mdn_rnn, vae
from mbrl_jax.models.world_models.mdn_rnn import MDNRNNConfig, Rows
from mbrl_jax.models.world_models.vae import VAEConfig
from mbrl_jax.nets.observations import CoderConfig

OBS, Z, L, B = 3, 2, 5, 2


def cases() -> list[LossCase]:
    """The autoencoder's loss, and the dynamics' on one window and on a batch of them."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    autoencoder = vae.vae(VAEConfig(latent=Z, coder=CoderConfig(units=4, layers=1)), Box((OBS,)))
    cfg = MDNRNNConfig(hidden=4, components=2, heads=(4,), burn_in=1)
    dynamics = mdn_rnn.mdn_rnn(cfg, Z, Spec(Box((OBS,)), Discrete(2)))
    last = np.zeros((L, B), bool)
    last[2, 0] = True
    rows = Rows(
        draw(L, B, Z), jnp.asarray(rng.integers(0, 2, (L, B)), jnp.int32), draw(L, B),
        jnp.asarray(1.0 - last, jnp.float32), jnp.asarray(np.roll(last, 1, 0)), jnp.asarray(last),
    )  # fmt: skip
    window = jax.tree.map(lambda leaf: leaf[:, 0], rows)
    key = jax.random.key(1)
    params = jax.tree.map(lambda leaf: leaf + 0.2, jax.jit(dynamics.init)(jax.random.key(0)))
    params = params._replace(bounds=jnp.array([-9.0, 9.0]))
    of_vae = {"model": autoencoder, "tolerance": 0.0}
    return [
        LossCase(
            "world_models", vae.vae_loss, jax.jit(autoencoder.init)(jax.random.key(0)), (key, draw(B, OBS)), of_vae
        ),
        # The scale of rewards, part of the parameters, has no gradient.
        LossCase("world_models", mdn_rnn.window_loss, params, (window,), {"model": dynamics}, False),
        LossCase("world_models", mdn_rnn.mdn_rnn_loss, params, (rows, jnp.ones(B)), {"model": dynamics}, False),
    ]
