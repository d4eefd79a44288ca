"""Networks as pairs of pure functions; the one room that knows flax."""

from __future__ import annotations

from mbrl_jax.nets import residual
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.layers import Staged, joint, layers
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net, as_net
from mbrl_jax.nets.observations import CoderConfig, Decoder, Encoder, decoder, encoder
from mbrl_jax.nets.recurrent import block_gru, gru
from mbrl_jax.nets.simnorm import mish, normed_layers, simnorm

__all__ = [
    "CoderConfig", "Decoder", "Encoder", "Net", "Staged", "as_net", "block_gru", "decoder", "encoder", "gru", "joint",
    "layers", "mish", "mlp", "network", "normed_layers", "residual", "simnorm",
]  # fmt: skip
