"""Sizes of TD-MPC2's networks, and its arithmetic of classes and of squashed actions (see `models.tdmpc2.networks`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Array, Box, Key, Params, Spec
from mbrl_jax.ops.transforms import symexp, symlog
from mbrl_jax.ops.two_hot import two_hot

LOG_STD = (-10.0, 2.0)  # bounds of the policy's log σ
VALUE_RANGE = 10.0  # outermost bins, in symlog space


class Widths(NamedTuple):
    """What a size stands for."""

    encoder: int
    units: int
    latent: int
    layers: int
    values: int


SIZES: dict[str, Widths] = {
    "nano": Widths(64, 64, 64, 2, 2),
    "1m": Widths(256, 384, 128, 2, 2),
    "5m": Widths(256, 512, 512, 2, 5),
    "19m": Widths(1024, 1024, 768, 3, 5),
    "48m": Widths(1792, 1792, 768, 4, 5),
    "317m": Widths(4096, 4096, 1376, 5, 8),
}
"""Sizes of the authors' code, and "nano" for small tasks on a CPU."""


@config
class TDMPCNetConfig:
    """Sizes of TD-MPC2's networks."""

    size: str = setting(default="5m", choices=tuple(SIZES), help="all widths at once; those below prevail over it")
    encoder: int = setting(default=0, low=0, help="width of the encoder's layers; 0 for the size's own, as below")
    units: int = setting(default=0, low=0, help="width of all other layers")
    latent: int = setting(default=0, low=0, help="entries of a latent, a multiple of group")
    layers: int = setting(default=0, low=0, help="layers of the encoder, 2 at least")
    values: int = setting(default=0, low=0, help="value networks, 2 at least")
    group: int = setting(default=8, low=2, help="entries of a simplex")
    bins: int = setting(default=101, low=3, help="classes of rewards and values")
    dropout: float = setting(default=0.01, low=0, below=1, help="rate in the first layer of the values, in training")
    tasks: int = setting(default=0, low=0, help="tasks that one network learns; 0 for one without an embedding")
    task_dim: int = setting(default=96, low=1, help="entries of a task's embedding")


def widths(cfg: TDMPCNetConfig) -> Widths:
    """The size's widths, with those that are given in their place.

    Raises:
      ValueError: fewer than two values or encoder layers.
    """
    made = Widths(*(getattr(cfg, name) or own for name, own in SIZES[cfg.size]._asdict().items()))
    for name in ("layers", "values"):
        if getattr(made, name) < 2:
            raise ValueError(f"{name} must be at least 2, got {getattr(made, name)}")
    return made


class Drawn(NamedTuple):
    """An action of the policy."""

    action: Array  # [A]
    mean: Array  # [A] tanh of the mean
    entropy: Array  # [] -log π(a), of the squashed action
    scaled_entropy: Array  # [] see `draw`


def squashed(key: Key, mean: Array, raw: Array, mask: Array) -> Drawn:
    """A squashed normal action, with its entropies.

        log σ = low + ½ (high - low) (tanh s + 1),   u = μ + σ ε,   a = tanh u
        log π(a) = log N(u) - Σ log(1 - a² + 1e-6),   scaled = -log π(a) · A log N(u) / log π(a) = -A log N(u)

    The authors' code computes the ratio, with 1e-8 added to its denominator; here it is cancelled, so that it cannot
    blow up near log π = 0.

    Args:
      key: used once.
      mean: [A] μ.
      raw: [A] s.
      mask: [A] 1 for the entries that count; the others are 0.
    """
    low, high = LOG_STD
    log_std = low + 0.5 * (high - low) * (jnp.tanh(raw) + 1.0)
    eps = jax.random.normal(key, mean.shape)
    mean, log_std, eps = mean * mask, log_std * mask, eps * mask
    action = jnp.tanh(mean + jnp.exp(log_std) * eps)
    normal = jnp.sum(mask * (-0.5 * jnp.square(eps) - log_std - 0.5 * math.log(2.0 * math.pi)))
    correction = jnp.sum(mask * jnp.log(jnp.maximum(1.0 - jnp.square(action), 0.0) + 1e-6))
    return Drawn(action, jnp.tanh(mean), correction - normal, -jnp.sum(mask) * normal)


def two_hot_symlog(x: Array, bins: Array) -> Array:
    """A number [] as weights [bins] on the two bins beside its symlog; beyond them it counts as the outermost."""
    return two_hot(symlog(x), bins)


def decode(logits: Array, bins: Array) -> Array:
    """The number [] that a softmax over bins stands for, symexp(Σ_i p_i b_i)."""
    return symexp(jax.nn.softmax(logits) @ bins)


def two_of(key: Key, values: Params) -> Params:
    """Two of the networks `values` [N, ...], drawn at random without repeating: [2, ...]."""
    count = jax.tree.leaves(values)[0].shape[0]
    return values if count == 2 else tree.take(values, jax.random.permutation(key, count)[:2])


def obs_size(spec: Spec) -> int:
    """Entries of the observation.

    Raises:
      ValueError: it is not a vector.
    """
    if not isinstance(spec.obs, Box) or len(spec.obs.shape) != 1:
        raise ValueError(f"{spec.name}: observations must be a vector (wrappers.flatten or one_hot), got {spec.obs}")
    return spec.obs.size


def action_size(spec: Spec) -> int:
    """Entries of the action.

    Raises:
      ValueError: it is not a vector in [-1, 1].
    """
    action = spec.action
    scaled = isinstance(action, Box) and np.all(np.asarray(action.low) == -1) and np.all(np.asarray(action.high) == 1)
    if not isinstance(action, Box) or len(action.shape) != 1 or not scaled:
        raise ValueError(f"{spec.name}: actions must be a vector in [-1, 1] (wrappers.scale_action), got {action}")
    return action.size
