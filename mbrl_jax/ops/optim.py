"""A step of any optimiser, and the parts of DreamerV3's as optax transformations."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core.types import Array, Tree

P = TypeVar("P")


def descend(optimizer: optax.GradientTransformation, grads: Tree, state: Any, params: P) -> tuple[P, Any]:
    """One step of an optimiser.

    Args:
      optimizer: any optax transformation that ends in a step, such as `optax.adam(lr)`.
      grads: gradients, a tree like the parameters.
      state: the optimiser's, from `optimizer.init(params)` or the step before.
      params: any pytree.
    Returns:
      the new parameters and the optimiser's new state.
    """
    updates, state = optimizer.update(grads, state, params)  # pyright: ignore[reportArgumentType]
    return optax.apply_updates(params, updates), state  # pyright: ignore[reportArgumentType, reportReturnType]


def clip_by_tensor(clip: Array | float = 0.3, smallest: Array | float = 1e-3) -> optax.GradientTransformation:
    """Adaptive gradient clipping, tensor by tensor (Brock et al. 2021, arXiv 2102.06171; Hafner et al. 2023).

        g <- g / max(1, ‖g‖ / (clip max(smallest, ‖w‖)))

    with the norm over all of a tensor. `optax.adaptive_grad_clip` takes it over each output's weights instead, as Brock
    et al. do.

    Args:
      clip: largest ratio of a tensor's gradient norm to its weight norm, above 0.
      smallest: smaller weight norms count as this, so that weights that start at 0 can move.
    Returns:
      a transformation whose `update` needs the parameters.
    """

    def init(params: Tree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        if params is None:
            raise ValueError("clip_by_tensor needs the parameters: call update(grads, state, params)")

        def one(grad: Array, weight: Array) -> Array:
            limit = clip * jnp.maximum(smallest, _norm(weight))
            return grad / jnp.maximum(1.0, _norm(grad) / limit)

        return jax.tree.map(one, updates, params), state

    return optax.GradientTransformation(init, update)


def scale_by_laprop(
    b1: Array | float = 0.9, b2: Array | float = 0.999, eps: Array | float = 1e-20
) -> optax.GradientTransformation:
    """LaProp: momentum of normalised gradients, where Adam normalises momentum (Ziyin et al. 2020, arXiv 2002.04839).

        n <- b2 n + (1 - b2) g²,   u = g / (√(n / (1 - b2^t)) + eps)
        m <- b1 m + (1 - b1) u,    m / (1 - b1^t)

    Args:
      b1: decay of the momentum per step, in [0, 1).
      b2: decay of the squared gradients' mean per step, in [0, 1).
      eps: added to the root.
    Returns:
      a transformation without a learning rate.
    """
    return optax.chain(optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True), optax.ema(b1, debias=True))


def laprop(
    lr: Array | float, warmup: int = 1000, clip: Array | float = 0.3, b1: Array | float = 0.9,
    b2: Array | float = 0.999, eps: Array | float = 1e-20,
) -> optax.GradientTransformation:  # fmt: skip
    """DreamerV3's optimiser: clipping by tensor, LaProp, and a learning rate that rises linearly from 0.

    Args:
      lr: learning rate after the warm-up; may be traced.
      warmup: updates over which the learning rate rises, at least 1; the first update has rate 0.
      clip: see `clip_by_tensor`.
      b1, b2, eps: see `scale_by_laprop`.
    Returns:
      the optimiser; its `update` needs the parameters.
    Raises:
      ValueError: the warm-up is below 1.
    """
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1, got {warmup}")
    schedule = optax.linear_schedule(0.0, lr, warmup)  # pyright: ignore[reportArgumentType]
    return optax.chain(clip_by_tensor(clip), scale_by_laprop(b1, b2, eps), optax.scale_by_learning_rate(schedule))


def _norm(x: Array) -> Array:
    """Euclidean norm over all entries, [] in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))
