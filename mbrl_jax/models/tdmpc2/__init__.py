"""TD-MPC2's model: networks, their sizes, and the loss terms of a window."""

from __future__ import annotations

from mbrl_jax.models.tdmpc2 import losses, networks, sizes
from mbrl_jax.models.tdmpc2.losses import Targets, Transitions, to_transitions, window_targets, window_terms
from mbrl_jax.models.tdmpc2.networks import Latent, Networks, TDMPCParams, WorldParams, bind, tdmpc
from mbrl_jax.models.tdmpc2.sizes import SIZES, TDMPCNetConfig

__all__ = [
    "Latent", "Networks", "SIZES", "TDMPCNetConfig", "TDMPCParams", "Targets", "Transitions", "WorldParams", "bind",
    "losses", "networks", "sizes", "tdmpc", "to_transitions", "window_targets", "window_terms",
]  # fmt: skip
