"""The layers of TD-MPC2 (Hansen et al. 2024, arXiv 2310.16828), and latents on products of simplices.

    Layer(x) = mish(LN(drop(W x + b))),   mish(x) = x tanh(log(1 + eˣ))
    SimNorm(x) = softmax of each group of V entries                                    (Lavoie et al. 2023)

Weights start normal with a deviation of 0.02, biases at 0; the last layer's initial weights can be scaled.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key
from mbrl_jax.nets.images import Conv
from mbrl_jax.nets.net import Net, as_net

CONVOLUTIONS = ((7, 2), (5, 2), (3, 2), (3, 1))  # window and stride
INIT = nn.initializers.normal(0.02)
EPSILON = 1e-5  # added to the variance in LN


@jax.custom_jvp
def mish(x: Array) -> Array:
    """x tanh(log(1 + eˣ)), elementwise (Misra 2020), with one exponential and one division.

    With n = eˣ (eˣ + 2), f = tanh(log(1 + eˣ)) = n / (n + 2) and f' = 4 eˣ (eˣ + 1) / (n + 2)²; above 20 f is 1 to
    rounding.
    """
    return _mish(x)[0]


@mish.defjvp
def _mish_jvp(at: tuple[Array], along: tuple[Array]) -> tuple[Array, Array]:
    # The slope is computed with the value, so that nothing else is kept for the backward pass.
    value, slope = _mish(*at)
    return value, slope * along[0]


def _mish(x: Array) -> tuple[Array, Array]:
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    inverse = 1.0 / (n + 2.0)
    f = n * inverse
    return x * f, f + x * (4.0 * inverse) * (inverse * e * (e + 1.0))


@jax.custom_jvp
def standardize(x: Array) -> Array:
    """(x - mean x) / √(var x + 1e-5) of a vector [D]: layer norm before its scale and shift (Ba et al. 2016)."""
    return _standardize(x)[0]


@standardize.defjvp
def _standardize_jvp(at: tuple[Array], along: tuple[Array]) -> tuple[Array, Array]:
    # dy = (dx - mean dx - y mean(y dx)) / σ: its own transpose, so that only y and σ are kept for the backward pass.
    (dx,), (y, inverse) = along, _standardize(*at)
    return y, inverse * (dx - jnp.mean(dx) - y * jnp.mean(y * dx))


def _standardize(x: Array) -> tuple[Array, Array]:
    centred = x - jnp.mean(x)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred)) + EPSILON)
    return centred * inverse, inverse


def simnorm(x: Array, group: int = 8) -> Array:
    """Softmax within each group of `group` neighbours: [D] -> [D], each group summing to 1.

    Args:
      x: [D].
      group: V, a divisor of D.
    """
    return jax.nn.softmax(x.reshape(-1, group), axis=-1).reshape(x.shape)


def drop(key: Key, x: Array, rate: Array | float) -> Array:
    """Dropout: each entry 0 with chance `rate`, else divided by 1 - rate (Srivastava et al. 2014).

    Args:
      key: used once.
      x: any shape.
      rate: in [0, 1); rounded down to a multiple of 1 / 65536, which takes half the random bits.
    """
    dropped = jax.random.bits(key, x.shape, jnp.uint16) < jnp.asarray(rate * 65536.0, jnp.uint16)
    return jnp.where(dropped, 0.0, x / (1.0 - rate))


class Norm(nn.Module):
    """Layer norm with scale and shift."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape, jnp.float32)
        return standardize(x) * scale + self.param("bias", nn.initializers.zeros, x.shape, jnp.float32)


class NormedLayers(nn.Module):
    """Layers over the concatenation of several vectors; the last is linear, or has layer norm and SimNorm."""

    widths: tuple[int, ...]
    out: int
    group: int = 0  # V of SimNorm, 0 for a linear last layer
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, *parts: Array, key: Key | None = None, rate: Array | float = 0.0) -> Array:
        x = jnp.concatenate(parts)
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=INIT)(x)
            x = drop(key, x, rate) if key is not None and i == 0 else x
            x = mish(Norm()(x))
        x = nn.Dense(self.out, kernel_init=nn.initializers.normal(0.02 * self.out_scale))(x)
        return simnorm(Norm()(x), self.group) if self.group else x


class ImageLayers(nn.Module):
    """Convolutions with relus, a linear layer where their flat result is of another size, layer norm and SimNorm."""

    channels: int
    layers: tuple[tuple[int, int], ...]  # window and stride of each convolution
    out: int
    group: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, (size, stride) in enumerate(self.layers):
            x = Conv(self.channels, size, stride)(x if i == 0 else jax.nn.relu(x))
        x = x.reshape(-1)
        if x.shape[0] != self.out:
            x = Norm()(nn.Dense(self.out, kernel_init=INIT)(x))
        return simnorm(x, self.group)


def image_layers(shape: tuple[int, ...], channels: int, out: int, group: int) -> Net:
    """TD-MPC2's network over an image, o / 255 - ½; `apply(params, image)` gives [out].

    Four convolutions, 7 x 7, 5 x 5 and 3 x 3 of stride 2 and 3 x 3 of stride 1; below 48 pixels the first is left out.
    From 64 x 64, as from 32 x 32, they leave 4 x 4. The authors' code has no layer after them: their result is the
    latent. Here a linear layer and layer norm come between where it is of another size.

    Args:
      shape: [height, width, channels] of the images, at least 24 x 24.
      channels: of every convolution.
      out: dimension of the result, a multiple of `group`.
      group: V of SimNorm.
    Raises:
      ValueError: images that are too small.
    """
    if min(shape[:2]) < 24:
        raise ValueError(f"images must be at least 24 x 24 (wrappers.resize), got {list(shape)}")
    layers = CONVOLUTIONS if min(shape[:2]) >= 48 else CONVOLUTIONS[1:]
    net = as_net(ImageLayers(channels, layers, out, group), jnp.zeros(shape, jnp.float32))
    return Net(net.init, lambda params, obs: net.apply(params, obs.astype(jnp.float32) / 255.0 - 0.5))


def normed_layers(
    sizes: tuple[int, ...], widths: tuple[int, ...], out: int, group: int = 0, out_scale: float = 1.0
) -> Net:
    """TD-MPC2's network over several vectors; `apply(params, *vectors, key=None, rate=0.0)` gives [out].

    Args:
      sizes: dimensions of the vectors; 0 for an empty one.
      widths: of the hidden layers.
      out: dimension of the result.
      group: V, if above 0: the last layer has layer norm and SimNorm over groups of V entries; 0 for a linear one.
      out_scale: factor of the last layer's initial weights; with 0 the result is 0 at first.
    Returns:
      The network. With a `key`, as in training, the first layer has dropout at `rate`.
    Raises:
      ValueError: a size below its minimum, or an `out` that is no multiple of `group`.
    """
    if min(*sizes, 0) < 0 or sum(sizes) < 1 or not widths or min(*widths, out) < 1:
        raise ValueError(f"sizes of layers must be at least 1, got {(*sizes, *widths, out)}")
    if group and out % group:
        raise ValueError(f"out must be a multiple of group ({group}), got {out}")
    module = NormedLayers(tuple(widths), out, group, out_scale)
    return as_net(module, *(jnp.zeros(size, jnp.float32) for size in sizes))
