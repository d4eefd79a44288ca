"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key
from mbrl_jax.nets.net import Net, as_net

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
}


def narrow_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Normal weights of standard deviation 1 / (2 √fan_in), truncated at two deviations (Chua et al. 2018, code)."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / (2.0 * jnp.sqrt(shape[0]))


def orthogonal_init(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """√2 times a random matrix with orthonormal columns, or rows if there are more columns (Saxe et al. 2014).

    √2 is the gain that keeps the scale of activations through a relu. A normal matrix is orthonormalised by
    Gram-Schmidt, each column twice, which is exact to rounding. LAPACK's QR is avoided: with several CPU cores as
    devices of their own its threads can deadlock.

    Args:
      key: used once.
      shape: rows and columns.
    Returns:
      [*shape].
    """
    rows, columns = max(shape), min(shape)
    drawn = jax.random.normal(key, (rows, columns), dtype)

    def one(j: Array, done: Array) -> Array:
        column = drawn[:, j]
        for _ in range(2):
            column = column - done @ (column @ done)
        return done.at[:, j].set(column / jnp.linalg.norm(column))

    basis = jax.lax.fori_loop(0, columns, one, jnp.zeros_like(drawn))
    return 2**0.5 * (basis if shape[0] >= shape[1] else basis.T)


INITS: dict[str, Callable[..., Array]] = {
    "lecun": nn.initializers.lecun_normal(),
    "narrow": narrow_init,
    "orthogonal": orthogonal_init,
}


class MLP(nn.Module):
    """Dense layers with an activation between them and none after the last; layer norm before each if asked for."""

    hidden: tuple[int, ...]
    out: int
    activation: str = "relu"
    kernel_init: str = "lecun"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=INITS[self.kernel_init])(x)
            x = ACTIVATIONS[self.activation](nn.LayerNorm()(x) if self.layer_norm else x)
        return nn.Dense(self.out, kernel_init=INITS[self.kernel_init])(x)


def mlp(
    size: int,
    hidden: tuple[int, ...],
    out: int,
    activation: str = "relu",
    kernel_init: str = "lecun",
    layer_norm: bool = False,
) -> Net:
    """An MLP over one vector [size], giving [out].

    Args:
      size: entries of the input vector.
      hidden: widths of the hidden layers.
      out: entries of the output vector.
      activation: a name in `ACTIVATIONS`.
      kernel_init: a name in `INITS`.
      layer_norm: normalise each hidden layer before its activation (Ba et al. 2016, arXiv 1607.06450).
    Returns:
      the network.
    Raises:
      ValueError: an unknown activation or initialiser, or a width below 1.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if kernel_init not in INITS:
        raise ValueError(f"kernel_init must be one of {', '.join(INITS)}, got {kernel_init!r}")
    if min(size, out, *hidden) < 1:
        raise ValueError(f"sizes of an MLP must be at least 1, got {(size, *hidden, out)}")
    return as_net(MLP(tuple(hidden), out, activation, kernel_init, layer_norm), jnp.zeros(size, jnp.float32))
