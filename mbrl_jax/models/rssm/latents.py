"""Latent variables of recurrent state-space models: Gaussian ones, and groups of categorical ones.

    Gaussian (Hafner et al. 2020):     z ~ N(μ, σ²),  σ = softplus(raw) + least
    categorical (Hafner et al. 2021):  z_g one-hot ~ p_g = (1 - ε) softmax(l_g) + ε / C,   gradient by z + p - sg(p)

The share ε of uniform chances is DreamerV3's (Hafner et al. 2023); it keeps divergences finite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key
from mbrl_jax.ops.kl import categorical_kl, gaussian_kl

FEW = 8  # classes


class Normal(NamedTuple):
    """The distribution of Gaussian latents."""

    mean: Array  # [S]
    std: Array  # [S]


class Latents(NamedTuple):
    """A family of distributions over latents. Noise is drawn apart, so that a scan can be handed all of it at once."""

    shape: tuple[int, ...]  # of a sample
    outputs: int  # numbers of a network that tell a distribution
    dist: Callable[[Array], Any]  # [outputs] -> `Normal` or log-probabilities [S, C]
    noise: Callable[[Key, int], Array]  # (key, T) -> [T, S]
    sample: Callable[[Any, Array], Array]  # (dist, noise [S]) -> [*shape]
    kl: Callable[[Any, Any], Array]  # of two distributions, [] in nats


def gaussian(stoch: int, least: float = 0.1) -> Latents:
    """S independent Gaussians; the gradient flows through the sample.

    Args:
      stoch: S.
      least: the smallest deviation, above 0.
    """

    def dist(raw: Array) -> Normal:
        mean, std = jnp.split(raw.astype(jnp.float32), 2)
        return Normal(mean, jax.nn.softplus(std) + least)

    return Latents(
        (stoch,),
        2 * stoch,
        dist,
        lambda key, steps: jax.random.normal(key, (steps, stoch)),
        lambda dist, noise: dist.mean + dist.std * noise,
        lambda p, q: gaussian_kl(*p, *q),
    )


def categorical(stoch: int, classes: int, unimix: Array | float | None = None) -> Latents:
    """S independent categoricals of C classes as one-hot rows; the gradient goes straight through.

    Args:
      stoch: S.
      classes: C.
      unimix: ε, above 0 and below 1, may be traced; None for none.
    """

    few = classes <= FEW  # then rows of classes are too short for a processor's vectors, and columns are taken

    def dist(raw: Array) -> Array:
        logits = raw.astype(jnp.float32).reshape(stoch, classes)
        logits, axis = (logits.T, 0) if few else (logits, 1)
        if unimix is None:
            out = jax.nn.log_softmax(logits, axis)
        else:
            out = jnp.log((1.0 - unimix) * jax.nn.softmax(logits, axis) + unimix / classes)
        return out.T if few else out

    def sample(dist: Array, noise: Array) -> Array:
        """By the inverse of the cumulated chances: one number per latent, where Gumbel noise needs C."""
        if few:
            probs = jnp.exp(dist.T)
            upto = list(itertools.accumulate(probs[:-1]))
            chosen = sum((noise >= chance for chance in upto), jnp.zeros(stoch, jnp.int32))
            return (jax.nn.one_hot(chosen, classes, axis=0) + probs - jax.lax.stop_gradient(probs)).T
        probs = jnp.exp(dist)
        upto = probs @ jnp.triu(jnp.ones((classes, classes)))  # in one product: quicker than a cumulated sum
        chosen = jnp.sum(noise[:, None] >= upto[:, :-1], axis=1)
        return jax.nn.one_hot(chosen, classes) + probs - jax.lax.stop_gradient(probs)

    return Latents(
        (stoch, classes),
        stoch * classes,
        dist,
        lambda key, steps: jax.random.uniform(key, (steps, stoch)),
        sample,
        categorical_kl,
    )
