"""Small residual networks over planes [height, width, channels] that keep their height and width.

Blocks normalise before they convolve (He et al. 2016, "Identity Mappings in Deep Residual Networks"), with layer norm
instead of batch norm, so that a network stays a pure function of one input.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array
from mbrl_jax.nets import images
from mbrl_jax.nets.net import Net, as_net


class Block(nn.Module):
    """x + Conv(relu(norm(Conv(relu(norm(x)))))), normalised over all planes together."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for _ in range(2):
            y = nn.LayerNorm(reduction_axes=(-3, -2, -1))(y)
            y = images.Conv(x.shape[-1], 3, 1, 1)(jax.nn.relu(y))
        return x + y


class Encoder(nn.Module):
    """Planes to planes with another number of channels: a convolution, and blocks."""

    channels: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = images.Conv(self.channels, 3, 1, 1)(jnp.asarray(x, jnp.float32))
        for _ in range(self.blocks):
            x = Block()(x)
        return x


class ImageEncoder(nn.Module):
    """An image to planes of a fraction of its size: two convolutions of stride 2, means of 2 x 2, blocks after each.

    Means are taken while a side is above 8 and even: 96 x 96 becomes 6 x 6 (Schrittwieser et al. 2020, appendix F),
    64 x 64 and 32 x 32 become 8 x 8.
    """

    channels: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for channels in (max(1, self.channels // 2), self.channels):
            x = images.Conv(channels, 3, 2, 1)(jnp.asarray(x, jnp.float32))
            for _ in range(self.blocks):
                x = Block()(x)
        while max(x.shape[:2]) > 8 and x.shape[0] % 2 == x.shape[1] % 2 == 0:
            height, width, channels = x.shape
            x = jnp.mean(x.reshape(height // 2, 2, width // 2, 2, channels), axis=(1, 3))
            for _ in range(self.blocks):
                x = Block()(x)
        return x


class Transition(nn.Module):
    """Planes and a one-hot action to the next planes; each action has one learned plane, a further input channel."""

    blocks: int

    @nn.compact
    def __call__(self, x: Array, action: Array) -> Array:
        height, width, channels = x.shape
        plane = nn.Dense(height * width)(action).reshape(height, width, 1)
        x = x + images.Conv(channels, 3, 1, 1)(jnp.concatenate([x, plane], axis=-1))
        for _ in range(self.blocks):
            x = Block()(x)
        return x


def encoder(shape: tuple[int, ...], channels: int, blocks: int) -> Net:
    """A residual network from observed planes to latent planes.

    Args:
      shape: [height, width, channels] of the observation.
      channels: of the latent planes, at least 1.
      blocks: residual blocks of two convolutions, at least 0.
    Returns:
      A network whose `apply(params, planes)` gives [height, width, channels].
    Raises:
      ValueError: observations that are no planes, or a size out of range.
    """
    _check(shape, channels, blocks)
    return as_net(Encoder(channels, blocks), jnp.zeros(shape, jnp.float32))


def image_encoder(shape: tuple[int, ...], channels: int, blocks: int) -> tuple[Net, tuple[int, ...]]:
    """A residual network from an image to latent planes of a fraction of its size.

    Args:
      shape: [height, width, channels] of the observation, which enters as o / 255.
      channels: of the latent planes, at least 1.
      blocks: residual blocks after each change of size, at least 0.
    Returns:
      the network, and the shape of its latent planes.
    Raises:
      ValueError: observations that are no planes, or a size out of range.
    """
    _check(shape, channels, blocks)
    image = jnp.zeros(shape, jnp.float32)
    net = as_net(ImageEncoder(channels, blocks), image)
    planes = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0)), image))
    return Net(net.init, lambda params, obs: net.apply(params, jnp.asarray(obs, jnp.float32) / 255.0)), planes.shape


def transition(shape: tuple[int, ...], num_actions: int, blocks: int) -> Net:
    """A residual network from latent planes and an action to the next latent planes.

    Args:
      shape: [height, width, channels] of the latent planes.
      num_actions: entries of the one-hot action.
      blocks: residual blocks of two convolutions, at least 0.
    Returns:
      A network whose `apply(params, planes, one_hot)` gives planes of the same shape.
    Raises:
      ValueError: a size out of range.
    """
    _check(shape, num_actions, blocks)
    return as_net(Transition(blocks), jnp.zeros(shape, jnp.float32), jnp.zeros(num_actions, jnp.float32))


def _check(shape: tuple[int, ...], size: int, blocks: int) -> None:
    if len(shape) != 3 or min(*shape, size) < 1 or blocks < 0:
        raise ValueError(f"planes must be [height, width, channels] of at least 1, got {shape}, {size}, {blocks}")
