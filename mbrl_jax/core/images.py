"""Images [height, width, channels] of bytes, or of floats: grey, resized, stacked, shifted at random.

All but `random_shift` take NumPy arrays too, and then return NumPy arrays: environments on the host use them as well.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Box, Key, ObsSpace

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def is_image(space: ObsSpace) -> bool:
    """Whether a space is of images: bytes [height, width, channels]."""
    return isinstance(space, Box) and len(space.shape) == 3 and jnp.dtype(space.dtype) == jnp.uint8


def grey(image: Any) -> Any:
    """The brightness of a picture, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

    Args:
      image: [height, width, 3]; one channel passes unchanged.
    Returns:
      [height, width, 1] of the same dtype; bytes are rounded.
    Raises:
      ValueError: another shape.
    """
    shape = image.shape
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"image must be [height, width, 3] or [height, width, 1], got {list(shape)}")
    if shape[2] == 1:
        return image
    xp = image.__array_namespace__()
    red, green, blue = (LUMA[i] * image[..., i : i + 1].astype(xp.float32) for i in range(3))
    return _as(image, red + green + blue)


def resize(image: Any, height: int, width: int) -> Any:
    """A picture of another size: every new pixel is the mean of the area that it covers.

    Args:
      image: [H, W, channels].
      height, width: new size, at least 1.
    Returns:
      [height, width, channels] of the same dtype; bytes are rounded.
    Raises:
      ValueError: another shape, or a size below 1.
    """
    if len(image.shape) != 3:
        raise ValueError(f"image must be [height, width, channels], got {list(image.shape)}")
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    xp = image.__array_namespace__()
    rows, columns = _areas(xp, image.shape[0], height), _areas(xp, image.shape[1], width)
    how: dict[str, Any] = {} if xp is jnp else {"optimize": True}  # NumPy would sum over all axes at once
    return _as(image, xp.einsum("hH,HWc,wW->hwc", rows, image.astype(xp.float32), columns, **how))


def stack(frames: Any) -> Any:
    """Frames one after another as channels, the oldest first.

    Args:
      frames: [k, height, width, channels].
    Returns:
      [height, width, k channels].
    """
    k, height, width, channels = frames.shape
    xp = frames.__array_namespace__()
    return xp.moveaxis(frames, 0, 2).reshape(height, width, k * channels)


def random_shift(key: Key, image: Array, pad: int) -> Array:
    """A picture shifted by a random number of pixels along both axes, its edges repeated (Yarats et al. 2021, DrQ-v2).

    The image is padded by `pad` on every side, and a window of its own size is cut out at a random place.

    Args:
      key: used once.
      image: [height, width, channels] of any dtype.
      pad: largest shift in pixels; 0 leaves the image as it is.
    Returns:
      [height, width, channels] of the same dtype.
    """
    if pad == 0:
        return image
    wide = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1, jnp.int32)
    return jax.lax.dynamic_slice(wide, (row, column, jnp.int32(0)), image.shape)


def _areas(xp: Any, size: int, new: int) -> Any:
    """[new, size]: the share of each old pixel in the area of each new one."""
    scale = size / new
    low = xp.arange(new, dtype=xp.float32)[:, None] * scale
    pixel = xp.arange(size, dtype=xp.float32)[None, :]
    overlap = xp.minimum(low + scale, pixel + 1.0) - xp.maximum(low, pixel)
    return (xp.clip(overlap, 0.0, 1.0) / scale).astype(xp.float32)


def _as(image: Any, values: Any) -> Any:
    """Floats in the dtype of an image."""
    xp = image.__array_namespace__()
    return (xp.clip(xp.round(values), 0, 255) if image.dtype == xp.uint8 else values).astype(image.dtype)
