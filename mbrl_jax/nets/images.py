"""Convolutions with a stride, as matrix products over all windows.

Inside a scan XLA leaves the gradients of its own convolutions to a loop that is ten times slower on a CPU, and under
`vmap` over seeds it would make grouped convolutions of them; a product over windows stays a product.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array
from mbrl_jax.nets.layers import scaled_init


def windows(x: Array, size: int, stride: int, pad: int = 0) -> Array:
    """All windows of an image.

    Args:
      x: [height, width, channels].
      size: rows and columns of a window.
      stride: between neighbouring windows.
      pad: zeros around the image.
    Returns:
      [rows, columns, size² · channels] with (height + 2 pad - size) // stride + 1 rows. A window is flattened row by
      row from the top; where its size is a multiple of the stride, in blocks of stride x stride, each of them flat.
    """
    x = jnp.pad(x, ((pad, pad), (pad, pad), (0, 0))) if pad else x
    rows, columns = ((side - size) // stride + 1 for side in x.shape[:2])
    if stride > 1 and size % stride == 0:  # moves memory once instead of size² times
        size = size // stride
        x = space_to_depth(x[: stride * (rows + size - 1), : stride * (columns + size - 1)], stride)
        stride = 1
    parts = [
        x[i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def space_to_depth(x: Array, block: int) -> Array:
    """[b height, b width, channels] -> [height, width, b² channels]: blocks of b x b pixels, flattened row by row."""
    height, width, channels = x.shape[0] // block, x.shape[1] // block, x.shape[2]
    x = x.reshape(height, block, width, block, channels).transpose(0, 2, 1, 3, 4)
    return x.reshape(height, width, block * block * channels)


def depth_to_space(x: Array) -> Array:
    """[height, width, 4 channels] -> [2 height, 2 width, channels]: each entry becomes 2 x 2 pixels, row by row."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4)
    return x.transpose(0, 2, 1, 3, 4).reshape(2 * height, 2 * width, channels // 4)


class Down(nn.Module):
    """A convolution 4 x 4 of stride 2 with one zero around the image: half the height and width."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.channels, kernel_init=scaled_init())(windows(x, 4, 2, 1))


class Up(nn.Module):
    """The transposed convolution of `Down`: twice the height and width.

    Each corner between pixels gives 2 x 2 new pixels, from the 2 x 2 old ones around it.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(4 * self.channels, kernel_init=scaled_init())(windows(x, 2, 1, 1))
        return depth_to_space(x)[1:-1, 1:-1]


class Conv(nn.Module):
    """A convolution of any window and stride."""

    channels: int
    size: int
    stride: int
    pad: int = 0
    kernel_init: jax.nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = windows(x, self.size, self.stride, self.pad)
        return nn.Dense(self.channels, kernel_init=self.kernel_init)(x)
