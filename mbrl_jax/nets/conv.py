"""A network for vector or image observations: an MLP, or a convolution and an MLP."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Box, Key, Obs, Params, Space
from mbrl_jax.nets.mlp import INITS, MLP, mlp
from mbrl_jax.nets.net import Net, as_net

WINDOW = 3


class ConvMLP(nn.Module):
    """One 3 x 3 convolution, a relu, and an MLP over the flattened result.

    The convolution is a matrix product over all windows: inside a scan, XLA's own convolution is some twenty times
    slower on a CPU, and under `vmap` over seeds it would become a grouped convolution.
    """

    hidden: tuple[int, ...]
    out: int
    activation: str = "relu"
    kernel_init: str = "lecun"
    channels: int = 16
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = nn.Dense(self.channels, kernel_init=INITS[self.kernel_init], name="Conv_0")
        x = jax.nn.relu(conv(windows(x))).reshape(-1)
        return MLP(self.hidden, self.out, self.activation, self.kernel_init, self.layer_norm)(x)


def windows(x: Array) -> Array:
    """All 3 x 3 windows of an image.

    Args:
      x: [height, width, channels].
    Returns:
      [height - 2, width - 2, 9 · channels], each window flattened row by row from the top.
    """
    height, width = x.shape[0] - WINDOW + 1, x.shape[1] - WINDOW + 1
    parts = [x[i : i + height, j : j + width] for i in range(WINDOW) for j in range(WINDOW)]
    return jnp.concatenate(parts, axis=-1)


def network(
    space: Space,
    hidden: tuple[int, ...],
    out: int,
    activation: str = "relu",
    kernel_init: str = "lecun",
    out_scale: float = 1.0,
    channels: int = 16,
    layer_norm: bool = False,
) -> Net:
    """A network over one observation, giving [out].

    A vector goes through a plain MLP. An image [height, width, channels] first goes through the convolution that
    Young & Tian (2019, arXiv 1903.03176) use on MinAtar: 3 x 3, stride 1, no padding, 16 channels, relu. Observations
    are cast to float32.

    Args:
      space: of the observations.
      hidden: widths of the MLP's hidden layers.
      out: entries of the output vector.
      activation: of the hidden layers, a name in `mlp.ACTIVATIONS`.
      kernel_init: a name in `mlp.INITS`.
      out_scale: factor of the last layer's initial weights.
      channels: of the convolution; 0 flattens an image instead, which is several times faster on a CPU.
      layer_norm: normalise each of the MLP's hidden layers before its activation.
    Returns:
      the network.
    Raises:
      ValueError: observations that are neither a vector nor an image of at least 3 x 3, or what `mlp` refuses.
    """
    if not isinstance(space, Box) or len(space.shape) not in (1, 3):
        raise ValueError(f"observations must be a vector or an image [height, width, channels], got {space}")
    if channels < 0:
        raise ValueError(f"channels must be at least 0, got {channels}")
    if len(space.shape) == 1 or channels == 0:
        net = mlp(space.size, hidden, out, activation, kernel_init, layer_norm)
    else:
        height, width = space.shape[0] - WINDOW + 1, space.shape[1] - WINDOW + 1
        if min(height, width) < 1:
            raise ValueError(f"an image must be at least {WINDOW} x {WINDOW}, got {space}")
        mlp(height * width * channels, hidden, out, activation, kernel_init)  # for its checks
        net = as_net(
            ConvMLP(tuple(hidden), out, activation, kernel_init, channels, layer_norm),
            jnp.zeros(space.shape, jnp.float32),
        )
    last = f"Dense_{len(hidden)}"

    def scale(path: tuple[Any, ...], leaf: Array) -> Array:
        names = [entry.key for entry in path]
        return leaf * out_scale if names[-2:] == [last, "kernel"] else leaf

    def init(key: Key) -> Params:
        return jax.tree_util.tree_map_with_path(scale, net.init(key))

    def apply(params: Params, obs: Obs) -> Array:
        obs = jnp.asarray(obs, jnp.float32)
        return net.apply(params, obs if channels else obs.reshape(-1))

    return Net(init, apply)
