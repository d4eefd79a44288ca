"""Stochastic latents of recurrent state-space models: Gaussian, or groups of categoricals.

    Gaussian (Hafner et al. 2020):     z ~ N(μ, σ²),  σ = softplus(raw) + least
    categorical (Hafner et al. 2021):  z_g one-hot ~ p_g = (1 - ε) softmax(l_g) + ε / C,   gradient of z + p - sg(p)

The uniform share ε ("unimix") is DreamerV3's (Hafner et al. 2023); it keeps KL divergences finite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key
from mbrl_jax.ops.kl import categorical_kl, gaussian_kl

FEW = 8  # classes; with no more than these, categoricals are computed class by class


class Normal(NamedTuple):
    """The distribution of Gaussian latents."""

    mean: Array  # [S]
    std: Array  # [S] above 0


class Latents(NamedTuple):
    """A family of distributions over latents. Sampling takes its noise as input: a scan's noise is drawn at once."""

    shape: tuple[int, ...]  # of a sample: [S] or [S, C]
    outputs: int  # network outputs that parametrise a distribution
    dist: Callable[[Array], Any]  # (outputs) -> `Normal` or log-probabilities [S, C]
    noise: Callable[[Key, int], Array]  # (key, T) -> [T, S]
    sample: Callable[[Any, Array], Array]  # (dist, noise [S]) -> z [*shape]
    kl: Callable[[Any, Any], Array]  # (q, p) -> KL(q ‖ p), [] in nats


def gaussian(stoch: int, least: float = 0.1) -> Latents:
    """S independent Gaussians with reparametrised samples.

    Args:
      stoch: S.
      least: lower bound of the standard deviation, above 0.
    """

    def dist(raw: Array) -> Normal:
        mean, std = jnp.split(raw.astype(jnp.float32), 2)
        return Normal(mean, jax.nn.softplus(std) + least)

    return Latents(
        (stoch,),
        2 * stoch,
        dist,
        lambda key, steps: jax.random.normal(key, (steps, stoch), jnp.float32),
        lambda dist, noise: dist.mean + dist.std * noise,
        lambda p, q: gaussian_kl(*p, *q),
    )


def categorical(stoch: int, classes: int, unimix: Array | float | None = None) -> Latents:
    """S independent categoricals of C classes as one-hot rows with straight-through gradients.

    Args:
      stoch: S.
      classes: C.
      unimix: ε in (0, 1), may be traced; None for plain softmax.
    """

    few = classes <= FEW  # then a row of classes is shorter than a vector register: work on columns instead

    def dist(raw: Array) -> Array:
        logits = raw.astype(jnp.float32).reshape(stoch, classes)
        logits, axis = (logits.T, 0) if few else (logits, 1)
        if unimix is None:
            out = jax.nn.log_softmax(logits, axis)
        else:
            out = jnp.log((1.0 - unimix) * jax.nn.softmax(logits, axis) + unimix / classes)
        return out.T if few else out

    def sample(dist: Array, noise: Array) -> Array:
        """By inverting the cumulative distribution: one random number per latent, where Gumbel noise needs C."""
        if few:
            probs = jnp.exp(dist.T)
            cumulative = list(itertools.accumulate(probs[:-1]))
            chosen = sum((noise >= bound for bound in cumulative), jnp.zeros(stoch, jnp.int32))
            return (jax.nn.one_hot(chosen, classes, axis=0, dtype=jnp.float32) + probs - jax.lax.stop_gradient(probs)).T
        probs = jnp.exp(dist)
        cumulative = probs @ jnp.triu(jnp.ones((classes, classes), jnp.float32))  # faster than a cumsum
        chosen = jnp.sum(noise[:, None] >= cumulative[:, :-1], axis=1)
        return jax.nn.one_hot(chosen, classes, dtype=jnp.float32) + probs - jax.lax.stop_gradient(probs)

    return Latents(
        (stoch, classes),
        stoch * classes,
        dist,
        lambda key, steps: jax.random.uniform(key, (steps, stoch), jnp.float32),
        sample,
        categorical_kl,
    )
