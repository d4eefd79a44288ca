"""Variational autoencoders of observations: what World Models see (Ha & Schmidhuber 2018, arXiv 1803.10122).

    q(z|o) = N(μ(o), σ(o)²),   L = Σ (ô(z) - o)² + max(τ Z, KL(q ‖ N(0, I))),   z ~ q(·|o)

The squares are summed over all entries, planes of zeros and ones have a Bernoulli likelihood instead, and τ nats for
each of the Z entries of the latent cost nothing (Kingma & Welling 2014; the tolerance is World Models' own).

A vector needs no such thing: with Z = 0 it is taken as it is, scaled to mean 0 and deviation 1, without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Array, Box, Key, Metrics, Obs, Params, Space
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.observations import CoderConfig, decoder, encoder, kind
from mbrl_jax.ops.kl import gaussian_kl
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize


@config
class VAEConfig:
    """Settings of an autoencoder."""

    latent: int = setting(default=32, low=0, help="Z, entries of the latent; 0 takes vectors as they are, scaled")
    tolerance: float = setting(default=0.5, low=0, help="τ, nats of KL that each entry of the latent may cost")
    coder: CoderConfig = CoderConfig()


class VAEParams(NamedTuple):
    encoder: Params
    posterior: Params
    decoder: Params


class Seen(NamedTuple):
    """What an observation tells of the latent."""

    mean: Array  # [Z]
    std: Array  # [Z], 0 where nothing is uncertain


class VAE(NamedTuple):
    """An autoencoder as pure functions over one observation."""

    init: Callable[[Key], Any]
    encode: Callable[[Any, Obs], Seen]
    decode: Callable[[Any, Array], Array]  # (params, z [Z]) -> an observation, as floats
    size: int  # Z
    loss: Callable[[Any, Key, Obs], tuple[Array, Metrics]] | None = None  # None where nothing is learned by gradient
    calibrate: Callable[[Any, Array, Array], Any] | None = None  # (params, rows [N, ...], mask [N]) -> params


def draw(key: Key, seen: Seen) -> Array:
    """A latent [Z] of those that an observation may stand for: μ + σ ε."""
    return seen.mean + seen.std * jax.random.normal(key, seen.mean.shape)


def vae(cfg: VAEConfig, space: Space) -> VAE:
    """An autoencoder for what is observed, or the scaled vector itself where `cfg.latent` is 0.

    Args:
      cfg: settings; floats may be traced.
      space: vectors, planes or images (see `nets.observations.kind`).
    Raises:
      ValueError: a setting out of range, observations it cannot take, a latent of 0 entries for what is no vector, or
        one for images that is no multiple of 8.
    """
    check(cfg)
    which = kind(space)
    assert isinstance(space, Box)
    if cfg.latent == 0:
        if which != "vector":
            raise ValueError(f"latent must be at least 1 where observations are no vectors, got 0 for {space}")
        return _scaled(space.size)
    eye = encoder(space, cfg.coder)
    posterior = layers(eye.size, (), 2 * cfg.latent)
    # A decoder of memory and latent: an image's has a branch for each, and the latent takes both.
    both = cfg.latent if which == "image" else 0
    picture = decoder(space, both, cfg.latent, cfg.coder)

    def init(key: Key) -> VAEParams:
        keys = jax.random.split(key, 3)
        return VAEParams(eye.net.init(keys[0]), posterior.init(keys[1]), picture.net.init(keys[2]))

    def encode(params: VAEParams, obs: Obs) -> Seen:
        mean, log_var = jnp.split(posterior.apply(params.posterior, eye.net.apply(params.encoder, obs)), 2)
        return Seen(mean, jnp.exp(0.5 * log_var))

    def predict(params: VAEParams, z: Array) -> Array:
        return picture.net.apply(params.decoder, z if both else jnp.zeros(0), z)

    def loss(params: VAEParams, key: Key, obs: Obs) -> tuple[Array, Metrics]:
        seen = encode(params, obs)
        of_obs = picture.loss(predict(params, draw(key, seen)), obs)
        kl = gaussian_kl(*seen, jnp.zeros(cfg.latent), jnp.ones(cfg.latent))
        return of_obs + jnp.maximum(cfg.tolerance * cfg.latent, kl), {"reconstruction": of_obs, "kl": kl}

    return VAE(init, encode, lambda params, z: picture.mode(predict(params, z)), cfg.latent, loss)


def _scaled(size: int) -> VAE:
    """Vectors as their own latents."""

    def encode(params: Normalizer, obs: Obs) -> Seen:
        z = normalize(params, jnp.asarray(obs, jnp.float32))
        return Seen(z, jnp.zeros_like(z))

    def calibrate(params: Normalizer, rows: Array, mask: Array) -> Normalizer:
        del params
        return fit_normalizer(rows.astype(jnp.float32), mask)

    return VAE(lambda key: identity_normalizer(size), encode, denormalize, size, calibrate=calibrate)
