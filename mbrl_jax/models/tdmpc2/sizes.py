"""Sizes of TD-MPC2's networks (see `models.tdmpc2.networks`)."""

from __future__ import annotations

from typing import NamedTuple

from mbrl_jax.core.config import config, setting


class Widths(NamedTuple):
    """The widths that a size stands for."""

    encoder: int
    units: int
    latent: int
    layers: int
    values: int


SIZES: dict[str, Widths] = {
    "nano": Widths(64, 64, 64, 2, 2),
    "1m": Widths(256, 384, 128, 2, 2),
    "5m": Widths(256, 512, 512, 2, 5),
    "19m": Widths(1024, 1024, 768, 3, 5),
    "48m": Widths(1792, 1792, 768, 4, 5),
    "317m": Widths(4096, 4096, 1376, 5, 8),
}
"""Sizes of the authors' code, and "nano" for small tasks on a CPU."""


@config
class TDMPCNetConfig:
    """Sizes of TD-MPC2's networks."""

    size: str = setting(default="5m", choices=tuple(SIZES), help="preset of all widths that are left at 0 below")
    encoder: int = setting(default=0, low=0, help="width of the encoder's hidden layers; 0 takes the preset's")
    units: int = setting(default=0, low=0, help="width of all other hidden layers; 0 takes the preset's")
    latent: int = setting(default=0, low=0, help="dimension of the latent, a multiple of group; 0 takes the preset's")
    layers: int = setting(default=0, low=0, help="layers of the encoder, at least 2; 0 takes the preset's")
    values: int = setting(default=0, low=0, help="value networks in the ensemble, at least 2; 0 takes the preset's")
    group: int = setting(default=8, low=2, help="entries of each simplex of the latent")
    bins: int = setting(default=101, low=3, help="bins of the reward and value distributions")
    dropout: float = setting(default=0.01, low=0, below=1, help="dropout rate of the value networks' first layer")
    tasks: int = setting(default=0, low=0, help="tasks of a multi-task agent; 0 for a single task without an embedding")
    task_dim: int = setting(default=96, low=1, help="dimension of a task's embedding")
    channels: int = setting(default=32, low=1, help="channels of every convolution over images")
    shift: int = setting(default=3, low=0, help="largest random shift of images in updates, in pixels; 0 for none")


def widths(cfg: TDMPCNetConfig) -> Widths:
    """The preset's widths, with the settings that are not 0 in their place.

    Raises:
      ValueError: fewer than two value networks or encoder layers.
    """
    chosen = Widths(*(getattr(cfg, name) or own for name, own in SIZES[cfg.size]._asdict().items()))
    for name in ("layers", "values"):
        if getattr(chosen, name) < 2:
            raise ValueError(f"{name} must be at least 2, got {getattr(chosen, name)}")
    return chosen
