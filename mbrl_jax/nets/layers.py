"""Dense layers with a norm before the activation, as the Dreamers use them.

    Layer(x) = act(norm(W x + b)),     RMSNorm(x) = x / √(mean x² + 1e-4) · scale

Initial weights are normal with standard deviation 1.1368 √(1 / fan_in), truncated at two of them; biases start at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key, Params
from mbrl_jax.nets.mlp import ACTIVATIONS
from mbrl_jax.nets.net import Net, as_net

NORMS = ("rms", "layer", "none")


def scaled_init(scale: float = 1.0) -> Callable[..., Array]:
    """Normal weights with standard deviation 1.1368 scale √(1 / fan_in), truncated at two of them.

    Truncation leaves 0.88 of the standard deviation. All axes but the last count as inputs, including those of blocks
    and of a convolution's window.
    """

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        normal = jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
        return normal * (1.1368 * scale / math.sqrt(math.prod(shape[:-1])))

    return init


class RMSNorm(nn.Module):
    """x / √(mean x² + 1e-4) · scale over the last axis, computed in float32 (Zhang & Sennrich 2019)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (wide * (jax.lax.rsqrt(mean + 1e-4) * scale)).astype(x.dtype)


def norm(name: str) -> Callable[[Array], Array]:
    """The norm over the last axis of a name in `NORMS`; "layer" has an epsilon of 0.001, as in DreamerV2."""
    if name == "rms":
        return RMSNorm()
    return nn.LayerNorm(epsilon=1e-3) if name == "layer" else lambda x: x


class Layers(nn.Module):
    """Hidden layers with norm and activation, then a linear layer if `out` is above 0."""

    widths: tuple[int, ...]
    out: int = 0
    activation: str = "silu"
    norm: str = "rms"
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths:
            x = nn.Dense(width, kernel_init=scaled_init())(x)
            x = ACTIVATIONS[self.activation](norm(self.norm)(x))
        return nn.Dense(self.out, kernel_init=scaled_init(self.out_scale))(x) if self.out else x


class Joint(nn.Module):
    """Layers over two concatenated vectors; the second's part of the first product can be computed ahead."""

    sizes: tuple[int, int]
    widths: tuple[int, ...]
    out: int
    activation: str = "silu"
    norm: str = "rms"

    def setup(self) -> None:
        self.kernel = self.param("kernel", scaled_init(), (sum(self.sizes), self.widths[0]))
        self.bias = self.param("bias", nn.initializers.zeros, (self.widths[0],), jnp.float32)
        self.first_norm = norm(self.norm)
        self.rest = Layers(self.widths[1:], self.out, self.activation, self.norm)

    def ahead(self, y: Array) -> Array:
        return y @ self.kernel[self.sizes[0] :] + self.bias

    def __call__(self, x: Array, ahead: Array) -> Array:
        z = x @ self.kernel[: self.sizes[0]] + ahead
        return self.rest(ACTIVATIONS[self.activation](self.first_norm(z)))


class Staged(NamedTuple):
    """A network over a recurrent state and an input y that is known for all steps before a scan.

    `apply(params, *state, ahead(params, y))` is the whole network: `ahead`, which needs no state, runs for all steps
    at once, outside the scan.
    """

    init: Callable[[Key], Params]
    ahead: Callable[[Params, Array], Array]  # (params, y) -> what `apply` takes last
    apply: Callable[..., Array]  # (params, *state, ahead) -> output


def as_staged(module: Any, state: tuple[Array, ...], y: Array) -> Staged:
    """A flax module with methods `ahead` and `__call__` as a `Staged` network.

    Args:
      module: its `__call__` takes the parts of the state and the result of `ahead`.
      state: examples of the state's parts.
      y: an example of the input.
    """

    def whole(module: Any, state: tuple[Array, ...], y: Array) -> Array:
        return module(*state, module.ahead(y))

    return Staged(
        init=lambda key: module.init(key, state, y, method=whole),
        ahead=lambda params, y: module.apply(params, y, method="ahead"),
        apply=module.apply,
    )


def layers(
    size: int,
    widths: tuple[int, ...],
    out: int = 0,
    activation: str = "silu",
    norm: str = "rms",
    out_scale: float = 1.0,
) -> Net:
    """An MLP over one vector [size] with outputs [out], or those of the last hidden layer if `out` is 0.

    Args:
      size: entries of the input vector.
      widths: units of each hidden layer.
      out: outputs of a final linear layer; 0 for none.
      activation: a name in `mlp.ACTIVATIONS`.
      norm: a name in `NORMS`.
      out_scale: factor on the initial weights of the final layer; with 0 all outputs start at 0.
    Raises:
      ValueError: a name that is not in its table, or a size below its least.
    """
    check_names(activation, norm)
    if min(size, *widths, 1) < 1 or out < 0 or not (widths or out):
        raise ValueError(f"sizes of layers must be at least 1, got {(size, *widths, out)}")
    return as_net(Layers(tuple(widths), out, activation, norm, out_scale), jnp.zeros(size, jnp.float32))


def joint(
    sizes: tuple[int, int], widths: tuple[int, ...], out: int, activation: str = "silu", norm: str = "rms"
) -> Staged:
    """`layers` over two concatenated vectors, the second known ahead: `apply(params, x, ahead(params, y))`.

    Args:
      sizes: entries of x and of y.
      widths: units of each hidden layer, at least one layer.
      out: outputs of the final linear layer, at least 1.
      activation: a name in `mlp.ACTIVATIONS`.
      norm: a name in `NORMS`.
    Raises:
      ValueError: a name that is not in its table, or a size below 1.
    """
    check_names(activation, norm)
    if min(*sizes, out, *widths) < 1 or not widths:
        raise ValueError(f"sizes of layers must be at least 1, got {(*sizes, *widths, out)}")
    module = Joint(sizes, tuple(widths), out, activation, norm)
    return as_staged(module, (jnp.zeros(sizes[0], jnp.float32),), jnp.zeros(sizes[1], jnp.float32))


def check_names(activation: str, norm: str) -> None:
    """Refuses names of an activation or a norm that are not in their tables.

    Raises:
      ValueError: a name is not in its table.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
