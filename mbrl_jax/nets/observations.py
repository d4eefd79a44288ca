"""Encoders and decoders of observations: vectors, planes of zeros and ones, and images.

    vectors  x = Layers(symlog o);                                    L = Σ (ŷ - symlog o)²
    planes   x = Layer(flat Layer(windows 3 x 3));                    L = Σ CE(logit, o)           Bernoulli
    images   x = flat of stages that halve height and width;          L = Σ (σ(ŷ) - o / 255)²

A dict of arrays has an encoder and a decoder for each: tokens are concatenated, losses summed.

Sums over all entries, without a factor ½ (Hafner et al. 2023, and the authors' code, for vectors and images; planes are
not among theirs). Images enter as o / 255 - ½. A stage of an image is one of

    stride   norm and activation of Conv 4 x 4 of stride 2, until a side is below 8 (Ha & Schmidhuber 2018, and
             DreamerV3's first version), as matrix products (`nets.images`)
    pool     norm and activation of max-pool of Conv 5 x 5, four times (DreamerV3's newest code)

and a decoder has the transposes in reverse: it starts from the sum of a block-wise linear map of h and a two-layer MLP
of z.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.images import is_image
from mbrl_jax.core.types import Array, Box, DictSpace, Key, Obs, ObsSpace, Params
from mbrl_jax.nets.images import Down, Up, windows
from mbrl_jax.nets.layers import NORMS, Layers, layers, norm, scaled_init
from mbrl_jax.nets.mlp import ACTIVATIONS
from mbrl_jax.nets.net import Net, as_net
from mbrl_jax.nets.recurrent import by_blocks
from mbrl_jax.ops.transforms import symexp, symlog

STAGES = (2, 3, 4, 4)  # channels of an image's stages with pooling, in units of `depth`
STRIDED = (2, 4, 8)  # of those with a stride; the last goes for all further ones
SIDES = (32, 256)  # least and most pixels of an image's side
GROUPS = 8


class Encoder(NamedTuple):
    """A network from an observation to a vector, the token."""

    net: Net  # apply(params, obs) -> [size]
    size: int


class Decoder(NamedTuple):
    """A network from a model state back to an observation."""

    net: Net  # apply(params, h [D], z [S] flat) -> prediction
    loss: Callable[[Any, Obs], Array]  # (prediction, observation) -> [] L
    mode: Callable[[Any], Any]  # (prediction) -> the most likely observation in its own units, as floats


@config
class CoderConfig:
    """Sizes of encoders and decoders; the defaults are DreamerV3's smallest."""

    units: int = setting(default=64, low=1, help="units of every hidden layer")
    layers: int = setting(default=3, low=1, help="hidden layers over vectors")
    depth: int = setting(
        default=4, low=0, help="base number of channels: x 4 for planes, x 2 to 4 for images; 0 flattens planes"
    )
    activation: str = setting(default="silu", choices=tuple(ACTIVATIONS), help="activation of every hidden layer")
    norm: str = setting(default="rms", choices=NORMS, help="norm of every hidden layer")
    squash: bool = setting(default=True, help="whether vectors pass through symlog")
    images: str = setting(
        default="stride", choices=("stride", "pool"),
        help="what halves images: convolutions 4 x 4 of stride 2, or 5 x 5 with max-pooling, for accelerators",
    )  # fmt: skip


def stages(cfg: CoderConfig, space: Box) -> list[int]:
    """The channels of an image's stages, from the image on; each stage halves height and width.

    Args:
      cfg: sizes.
      space: of the images.
    """
    if cfg.images == "pool":
        return [times * cfg.depth for times in STAGES]
    height, width = space.shape[:2]
    count = 0
    while min(height, width) >= 8 and height % 2 == width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return [STRIDED[min(i, len(STRIDED) - 1)] * cfg.depth for i in range(count)]


class PlaneEncoder(nn.Module):
    """A 3 x 3 convolution as one product over all windows (see `nets.images`), norm, activation and a dense layer."""

    cfg: CoderConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.cfg
        x = nn.Dense(4 * cfg.depth, kernel_init=scaled_init())(windows(x, 3, 1))
        x = ACTIVATIONS[cfg.activation](norm(cfg.norm)(x)).reshape(-1)
        return Layers((cfg.units,), 0, cfg.activation, cfg.norm)(x)


class ImageEncoder(nn.Module):
    """Convolution stages that each halve height and width."""

    cfg: CoderConfig
    channels: tuple[int, ...]  # of each stage

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for depth in self.channels:
            if self.cfg.images == "stride":
                x = Down(depth)(x)
            else:
                x = nn.Conv(depth, (5, 5), kernel_init=scaled_init())(x)
                height, width, channels = x.shape
                x = jnp.max(x.reshape(height // 2, 2, width // 2, 2, channels), axis=(1, 3))
            x = ACTIVATIONS[self.cfg.activation](norm(self.cfg.norm)(x))
        return x.reshape(-1)


class ImageDecoder(nn.Module):
    """The encoder's stages in reverse, each doubling height and width, to values before the sigmoid."""

    cfg: CoderConfig
    shape: tuple[int, int, int]
    stages: tuple[int, ...]  # channels of the encoder's stages

    @nn.compact
    def __call__(self, h: Array, z: Array) -> Array:
        cfg, act, scale = self.cfg, ACTIVATIONS[self.cfg.activation], 2 ** len(self.stages)
        rows, columns, channels = self.shape[0] // scale, self.shape[1] // scale, self.stages[-1]
        cells = rows * columns * channels
        kernel = self.param("blocks", scaled_init(), (GROUPS, h.shape[0] // GROUPS, cells // GROUPS))
        of_h = by_blocks(h, kernel) + self.param("blocks_bias", nn.initializers.zeros, (cells,), jnp.float32)
        # Each block of h has its own channels at every position.
        of_h = of_h.reshape(GROUPS, rows, columns, -1).transpose(1, 2, 0, 3).reshape(rows, columns, channels)
        of_z = Layers((2 * cfg.units,), cells, cfg.activation, cfg.norm)(z)
        x = act(norm(cfg.norm)(of_h + of_z.reshape(rows, columns, channels)))
        for depth in (*self.stages[-2::-1], None):
            if cfg.images == "stride":
                x = Up(depth or self.shape[2])(x)
            else:
                x = nn.Conv(depth or self.shape[2], (5, 5), kernel_init=scaled_init())(x.repeat(2, 0).repeat(2, 1))
            x = act(norm(cfg.norm)(x)) if depth else x
        return x


class BothLayers(nn.Module):
    """Layers over h and z, concatenated."""

    inner: Layers

    @nn.compact
    def __call__(self, h: Array, z: Array) -> Array:
        return self.inner(jnp.concatenate([h, z]))


def kind(space: ObsSpace) -> str:
    """The kind of an observation: "vector", "planes", or "image", which is of bytes.

    Raises:
      ValueError: none of them, or an image whose sides are not multiples of 16 from 32 to 256.
    """
    if isinstance(space, Box) and len(space.shape) == 1:
        return "vector"
    if not isinstance(space, Box) or len(space.shape) != 3:
        raise ValueError(f"observations must be a vector, or planes or an image [height, width, channels], got {space}")
    if not is_image(space):
        if min(space.shape[:2]) < 3:
            raise ValueError(f"planes must be at least 3 x 3, got {space}")
        return "planes"
    if any(side % 16 or not SIDES[0] <= side <= SIDES[1] for side in space.shape[:2]):
        allowed = f"multiples of 16 from {SIDES[0]} to {SIDES[1]} (wrappers.resize)"
        raise ValueError(f"the sides of an image must be {allowed}, got {space}")
    return "image"


def encoder(space: ObsSpace, cfg: CoderConfig) -> Encoder:
    """An encoder for one observation space; a token is as wide as the last layer, or as the image's last stage.

    Raises:
      ValueError: observations that `kind` refuses, or a setting out of its range.
    """
    check(cfg)
    if isinstance(space, DictSpace):
        parts = {name: encoder(leaf, cfg) for name, leaf in sorted(space.spaces.items())}
        return Encoder(_side_by_side(parts), sum(part.size for part in parts.values()))
    which = kind(space)
    assert isinstance(space, Box)
    if which == "image":
        _need_depth(cfg)
        channels = stages(cfg, space)
        net = as_net(ImageEncoder(cfg, tuple(channels)), jnp.zeros(space.shape, jnp.float32))
        size = math.prod(side // 2 ** len(channels) for side in space.shape[:2]) * channels[-1]
        return Encoder(_before(net, lambda obs: _floats(obs) / 255.0 - 0.5), size)
    if which == "planes" and cfg.depth:
        return Encoder(_before(as_net(PlaneEncoder(cfg), jnp.zeros(space.shape, jnp.float32)), _floats), cfg.units)
    net = layers(space.size, (cfg.units,) * cfg.layers, 0, cfg.activation, cfg.norm)
    squash = symlog if cfg.squash and which == "vector" else lambda x: x
    return Encoder(_before(net, lambda obs: squash(_floats(obs).reshape(-1))), cfg.units)


def decoder(space: ObsSpace, deter: int, stoch: int, cfg: CoderConfig, half: bool = False) -> Decoder:
    """A decoder for one observation space.

    Args:
      space: observation space.
      deter: D, size of h, for images a multiple of 8.
      stoch: S, size of z, flat.
      cfg: sizes, as of the encoder.
      half: whether squared errors have a factor ½, as the first two Dreamers' have.
    Raises:
      ValueError: observations that `kind` refuses, or a setting out of its range.
    """
    check(cfg)
    if isinstance(space, DictSpace):
        return _all_decoders({name: decoder(leaf, deter, stoch, cfg, half) for name, leaf in space.spaces.items()})
    which = kind(space)
    assert isinstance(space, Box)
    scale = (lambda loss: 0.5 * loss) if half else (lambda loss: loss)
    state = jnp.zeros(deter, jnp.float32), jnp.zeros(stoch, jnp.float32)
    if which == "image":
        _need_depth(cfg)
        if deter % GROUPS:
            raise ValueError(f"deter must be a multiple of {GROUPS} to decode images, got {deter}")
        net = as_net(ImageDecoder(cfg, space.shape, tuple(stages(cfg, space))), *state)  # pyright: ignore[reportArgumentType]
        return Decoder(
            net,
            lambda out, obs: scale(jnp.sum(jnp.square(jax.nn.sigmoid(out) - _floats(obs) / 255.0))),
            lambda out: 255.0 * jax.nn.sigmoid(out),
        )
    inner = Layers((cfg.units,) * cfg.layers, space.size, cfg.activation, cfg.norm)
    net = as_net(BothLayers(inner), *state)
    if which == "planes":
        return Decoder(
            net,
            lambda out, obs: jnp.sum(jax.nn.softplus(out) - _floats(obs).reshape(-1) * out),
            lambda out: jax.nn.sigmoid(out).reshape(space.shape),
        )
    squash, widen = (symlog, symexp) if cfg.squash else (lambda x: x, lambda x: x)
    return Decoder(net, lambda out, obs: scale(jnp.sum(jnp.square(out - squash(_floats(obs))))), widen)


def _side_by_side(parts: dict[str, Encoder]) -> Net:
    """The tokens of all arrays of a dict, one after the other in the order of their names."""

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(parts))
        return {name: part.net.init(key) for (name, part), key in zip(parts.items(), keys, strict=True)}

    def apply(params: Params, obs: Obs) -> Array:
        return jnp.concatenate([part.net.apply(params[name], obs[name]) for name, part in parts.items()])

    return Net(init, apply)


def _all_decoders(parts: dict[str, Decoder]) -> Decoder:
    """A prediction of every array of a dict; the loss is the sum of theirs."""

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(parts))
        return {name: part.net.init(key) for (name, part), key in zip(parts.items(), keys, strict=True)}

    def apply(params: Params, h: Array, z: Array) -> dict[str, Array]:
        return {name: part.net.apply(params[name], h, z) for name, part in parts.items()}

    def loss(out: dict[str, Array], obs: Obs) -> Array:
        return sum((part.loss(out[name], obs[name]) for name, part in parts.items()), jnp.float32(0))

    def mode(out: dict[str, Array]) -> dict[str, Array]:
        return {name: part.mode(out[name]) for name, part in parts.items()}

    return Decoder(Net(init, apply), loss, mode)


def _need_depth(cfg: CoderConfig) -> None:
    if cfg.depth < 2 or cfg.depth % 2:  # the decoder's first 4 x depth channels divide among 8 blocks
        raise ValueError(f"depth must be even and at least 2 for images, got {cfg.depth}")


def _floats(obs: Obs) -> Array:
    return jnp.asarray(obs, jnp.float32)


def _before(net: Net, transform: Callable[[Any], Array]) -> Net:
    """The network after a fixed transform of its input, computed in the type of its parameters."""

    def apply(params: Any, obs: Obs) -> Array:
        return net.apply(params, transform(obs).astype(jax.tree.leaves(params)[0].dtype))

    return Net(net.init, apply)
