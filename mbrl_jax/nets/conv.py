"""A network for vectors, planes or images: an MLP, or convolutions and an MLP."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.images import is_image
from mbrl_jax.core.types import Array, Box, DictSpace, Key, Obs, ObsSpace, Params
from mbrl_jax.nets.images import Conv, windows
from mbrl_jax.nets.mlp import ACTIVATIONS, INITS, MLP, mlp
from mbrl_jax.nets.net import Net, as_net

WINDOW = 3
SMALL = 16  # pixels of a side below which an image is convolved as planes are
LAYERS = ((1, 8, 4, 2), (2, 4, 2, 1), (2, 3, 1, 1))  # of images: times the channels, window, stride, zeros around


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
        x = jax.nn.relu(conv(windows(x, WINDOW, 1))).reshape(-1)
        return MLP(self.hidden, self.out, self.activation, self.kernel_init, self.layer_norm)(x)


class ImageMLP(nn.Module):
    """Three convolutions with relus (8 x 8 of stride 4, 4 x 4 of stride 2, 3 x 3), and an MLP over the flat result."""

    hidden: tuple[int, ...]
    out: int
    activation: str = "relu"
    kernel_init: str = "lecun"
    channels: int = 16  # of the first convolution; the others have twice as many
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for times, size, stride, pad in LAYERS:
            x = jax.nn.relu(Conv(times * self.channels, size, stride, pad, INITS[self.kernel_init])(x))
        return MLP(self.hidden, self.out, self.activation, self.kernel_init, self.layer_norm)(x.reshape(-1))


def network(
    space: ObsSpace,
    hidden: tuple[int, ...],
    out: int,
    activation: str = "relu",
    kernel_init: str = "lecun",
    out_scale: float = 1.0,
    channels: int = 16,
    layer_norm: bool = False,
) -> Net:
    """A network over one observation, giving [out].

    A vector goes through a plain MLP. Planes [height, width, channels] first go through the convolution that Young &
    Tian (2019, arXiv 1903.03176) use on MinAtar: 3 x 3, stride 1, no padding, 16 channels, relu. Images, which are
    planes of bytes of at least 16 x 16, go through the convolutions of Mnih et al. (2015), with zeros around them, as
    o / 255. Of a dict, each array but vectors goes through a network of its own to as many features as the first hidden
    layer has, and the MLP takes all of them. Observations are cast to float32.

    Args:
      space: of the observations.
      hidden: widths of the MLP's hidden layers.
      out: entries of the output vector.
      activation: of the hidden layers, a name in `mlp.ACTIVATIONS`.
      kernel_init: a name in `mlp.INITS`.
      out_scale: factor of the last layer's initial weights.
      channels: of the first convolution, 32 in Mnih et al.; 0 flattens planes and images instead, which is several
        times faster on a CPU.
      layer_norm: normalise each of the MLP's hidden layers before its activation.
    Returns:
      the network.
    Raises:
      ValueError: observations that are neither a vector nor an image of at least 3 x 3, or what `mlp` refuses.
    """
    if isinstance(space, DictSpace):
        return _joint(space, hidden, out, activation, kernel_init, out_scale, channels, layer_norm)
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
        made = ImageMLP if is_image(space) and min(space.shape[:2]) >= SMALL else ConvMLP
        net = as_net(
            made(tuple(hidden), out, activation, kernel_init, channels, layer_norm), jnp.zeros(space.shape, jnp.float32)
        )
    last = f"Dense_{len(hidden)}"

    def scale(path: tuple[Any, ...], leaf: Array) -> Array:
        names = [entry.key for entry in path]
        return leaf * out_scale if names[-2:] == [last, "kernel"] else leaf

    def init(key: Key) -> Params:
        return jax.tree_util.tree_map_with_path(scale, net.init(key))

    def apply(params: Params, obs: Obs) -> Array:
        obs = jnp.asarray(obs, jnp.float32)
        obs = obs / 255.0 if is_image(space) else obs
        return net.apply(params, obs if channels else obs.reshape(-1))

    return Net(init, apply)


def _joint(
    space: DictSpace, hidden: tuple[int, ...], out: int, activation: str, kernel_init: str, out_scale: float,
    channels: int, layer_norm: bool,
) -> Net:  # fmt: skip
    """A network over a dict of arrays."""
    first = hidden[:1] or (out,)
    eyes = {
        name: network(leaf, (), first[0], activation, kernel_init, 1.0, channels, layer_norm)
        for name, leaf in sorted(space.spaces.items())
        if len(leaf.shape) == 3
    }
    size = sum(first[0] if name in eyes else leaf.shape[0] for name, leaf in space.spaces.items())
    rest = network(Box((size,)), hidden, out, activation, kernel_init, out_scale, channels, layer_norm)

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(eyes) + 1)
        made = {name: eye.init(key) for (name, eye), key in zip(eyes.items(), keys[1:], strict=True)}
        return {"leaves": made, "joint": rest.init(keys[0])}

    def apply(params: Params, obs: Obs) -> Array:
        def features(name: str) -> Array:
            if name in eyes:
                return ACTIVATIONS[activation](eyes[name].apply(params["leaves"][name], obs[name]))
            return jnp.asarray(obs[name], jnp.float32)

        return rest.apply(params["joint"], jnp.concatenate([features(name) for name in sorted(space.spaces)]))

    return Net(init, apply)
