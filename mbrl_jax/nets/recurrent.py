"""Recurrent cells of latent dynamics: from the deterministic state h, latent z and action a to the next h.

Both share the gates of Hafner et al. (2021): with [r, c, u] one product of the inputs,

    h' = σ(u - 1) tanh(σ(r) c) + (1 - σ(u - 1)) h

`gru` is the cell of the first two Dreamers, `block_gru` that of the third. Actions are known before a scan over a
sequence, so their part is computed outside it (see `layers.Staged`).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array
from mbrl_jax.nets.layers import Joint, Layers, Staged, as_staged, check_names, norm, scaled_init
from mbrl_jax.nets.mlp import ACTIVATIONS


class GRU(nn.Module):
    """x = act(W [z, a] + b), [r, c, u] = norm(V [x, h] + d), and the gates."""

    deter: int
    sizes: tuple[int, int]  # of z and a
    hidden: int
    activation: str
    norm: str

    def setup(self) -> None:
        self.inputs = Joint(self.sizes, (self.hidden,), 0, self.activation, "none")
        self.gates = nn.Dense(3 * self.deter, kernel_init=scaled_init())
        self.gates_norm = norm(self.norm)

    def ahead(self, action: Array) -> Array:
        return self.inputs.ahead(action)

    def __call__(self, h: Array, z: Array, ahead: Array) -> Array:
        x = self.inputs(z, ahead)
        parts = self.gates_norm(self.gates(jnp.concatenate([x, h], axis=-1)))
        return gated(h, *jnp.split(parts, 3, axis=-1))


class BlockGRU(nn.Module):
    """A GRU whose state h is G blocks; each gets itself and a shared summary of all inputs.

    x_0, x_1, x_2 = Layer(h), Layer(z), Layer(a)
    v = act(norm( block_g: W_g [h_g, x_0, x_1, x_2] + b ))
    [r, c, u] of block g = V_g v_g + d
    """

    deter: int
    sizes: tuple[int, int]  # of z and a
    hidden: int
    blocks: int
    activation: str
    norm: str

    def setup(self) -> None:
        part, width = self.deter // self.blocks, self.deter // self.blocks + 3 * self.hidden
        one = (self.hidden,)
        self.of_h, self.of_z, self.of_a = (Layers(one, 0, self.activation, self.norm) for _ in range(3))
        self.mix = self.param("mix", scaled_blocks, (self.blocks, width, part))
        self.mix_bias = self.param("mix_bias", nn.initializers.zeros, (self.deter,), jnp.float32)
        self.mix_norm = norm(self.norm)
        self.gates = self.param("gates", scaled_blocks, (self.blocks, part, 3 * part))
        self.gates_bias = self.param("gates_bias", nn.initializers.zeros, (3 * self.deter,), jnp.float32)

    def mixes(self) -> list[Array]:
        """The parts of W for a block's own state, for the summaries of h and z, and for that of a."""
        part = self.deter // self.blocks
        return jnp.split(self.mix, [part, part + 2 * self.hidden], axis=1)

    def ahead(self, action: Array) -> Array:
        return self.of_a(action) @ shared(self.mixes()[2]) + self.mix_bias

    def __call__(self, h: Array, z: Array, ahead: Array) -> Array:
        own, summary, _ = self.mixes()
        x = jnp.concatenate([self.of_h(h), self.of_z(z)], axis=-1)
        # What all blocks share is one product; only their own states need a product by blocks.
        mixed = by_blocks(h, own) + x @ shared(summary) + ahead
        mixed = ACTIVATIONS[self.activation](self.mix_norm(mixed))
        # One product per gate: splitting the result of a joint product costs as much as the product itself.
        bias = self.gates_bias.reshape(self.blocks, 3, -1)
        kernels = jnp.split(self.gates, 3, axis=-1)
        return gated(h, *(by_blocks(mixed, kernel) + bias[:, i].reshape(-1) for i, kernel in enumerate(kernels)))


def gated(h: Array, reset: Array, candidate: Array, update: Array) -> Array:
    """The next h [D] of a gated recurrent unit, u tanh(σ(reset) candidate) + (1 - u) h with u = σ(update - 1).

    Args:
      h: [D] recurrent state.
      reset: [D] pre-activation of the reset gate.
      candidate: [D] pre-activation of the candidate state.
      update: [D] pre-activation of the update gate.
    """
    keep = jax.nn.sigmoid(update - 1.0)
    return keep * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1.0 - keep) * h


def by_blocks(x: Array, kernel: Array) -> Array:
    """The product of each block of x [G I] with its own matrix of [G, I, O]: [G O]."""
    return jnp.einsum("gi,gio->go", x.reshape(kernel.shape[0], -1), kernel).reshape(-1)


def shared(kernel: Array) -> Array:
    """The matrix [I, G O] for an input shared by all blocks, from [G, I, O]."""
    return kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1)


scaled_blocks = scaled_init()


def gru(deter: int, stoch: int, action: int, hidden: int, activation: str = "elu", norm: str = "layer") -> Staged:
    """The cell of the first two Dreamers: a dense layer and a GRU, normalised in the second.

    Args:
      deter: D, size of h.
      stoch: size of z.
      action: size of a.
      hidden: units of the layer before the GRU.
      activation: of that layer.
      norm: of the GRU's pre-activations, a name in `layers.NORMS`.
    Returns:
      `ahead(params, action)` and `apply(params, h, z, ahead)` -> [D].
    Raises:
      ValueError: a size below 1, or a name that is not in its table.
    """
    check_names(activation, norm)
    _check(deter, stoch, action, hidden)
    module = GRU(deter, (stoch, action), hidden, activation, norm)
    return as_staged(
        module, (jnp.zeros(deter, jnp.float32), jnp.zeros(stoch, jnp.float32)), jnp.zeros(action, jnp.float32)
    )


def block_gru(
    deter: int, stoch: int, action: int, hidden: int, blocks: int = 8, activation: str = "silu", norm: str = "rms"
) -> Staged:
    """The block-diagonal cell of DreamerV3 (Hafner et al. 2023, and the authors' code).

    Args:
      deter: D, size of h, a multiple of `blocks`.
      stoch: size of z.
      action: size of a.
      hidden: units of the three layers before the blocks.
      blocks: G, number of blocks.
      activation: of all layers.
      norm: a name in `layers.NORMS`.
    Returns:
      `ahead(params, action)` and `apply(params, h, z, ahead)` -> [D].
    Raises:
      ValueError: a size below 1, a state that does not divide into blocks, or a name that is not in its table.
    """
    check_names(activation, norm)
    _check(deter, stoch, action, hidden, blocks)
    if deter % blocks:
        raise ValueError(f"deter must be a multiple of blocks ({blocks}), got {deter}")
    module = BlockGRU(deter, (stoch, action), hidden, blocks, activation, norm)
    return as_staged(
        module, (jnp.zeros(deter, jnp.float32), jnp.zeros(stoch, jnp.float32)), jnp.zeros(action, jnp.float32)
    )


def _check(*sizes: int) -> None:
    if min(sizes) < 1:
        raise ValueError(f"sizes of a cell must be at least 1, got {sizes}")
