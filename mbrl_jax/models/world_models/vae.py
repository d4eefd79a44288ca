"""Variational autoencoders of observations: the vision model V of World Models (Ha & Schmidhuber 2018, 1803.10122).

    q(z|o) = N(μ(o), σ(o)²),   L = Σ (ô(z) - o)² + max(τ Z, KL(q ‖ N(0, I))),   z ~ q(·|o)

Squared errors are summed over all entries; planes of zeros and ones have a Bernoulli likelihood instead. The first τ
nats of KL for each of the Z entries of the latent are free (Kingma & Welling 2014; the tolerance is World Models' own).

A vector needs no autoencoder: with Z = 0 it is its own latent, scaled to mean 0 and deviation 1, without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Array, Box, Key, Metrics, Obs, ObsSpace, Params
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.observations import CoderConfig, decoder, encoder, kind
from mbrl_jax.ops.kl import gaussian_kl
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize


@config
class VAEConfig:
    """Settings of an autoencoder."""

    latent: int = setting(default=32, low=0, help="Z, dimension of the latent; 0 for scaled vectors without a network")
    tolerance: float = setting(default=0.5, low=0, help="τ, free nats of KL per entry of the latent")
    coder: CoderConfig = CoderConfig()


class VAEParams(NamedTuple):
    """Parameters of an autoencoder."""

    encoder: Params
    posterior: Params
    decoder: Params


class Posterior(NamedTuple):
    """The distribution of the latent, given an observation."""

    mean: Array  # [Z]
    std: Array  # [Z]; 0 for scaled vectors


class VAE(NamedTuple):
    """An autoencoder as pure functions of one observation."""

    init: Callable[[Key], Any]
    encode: Callable[[Any, Obs], Posterior]
    decode: Callable[[Any, Array], Array]  # (params, z [Z]) -> an observation, as floats
    size: int  # Z
    error: Callable[[Any, Array, Obs], Array] | None = None  # (params, z [Z], obs) -> [] reconstruction; None: no loss
    calibrate: Callable[[Any, Array, Array], Any] | None = None  # (params, rows [N, ...], mask [N]) -> params


def sample_latent(key: Key, posterior: Posterior) -> Array:
    """A draw of the latent [Z]: μ + σ ε."""
    return posterior.mean + posterior.std * jax.random.normal(key, posterior.mean.shape, jnp.float32)


def vae_loss(params: Any, key: Key, obs: Obs, *, model: VAE, tolerance: Array | float) -> tuple[Array, Metrics]:
    """The autoencoder's loss: reconstruction error and the KL above its free nats (Ha & Schmidhuber 2018, A.1).

        L = mean over the batch of  error(z, o) + max(τ Z, KL(q(·|o) ‖ N(0, I))),   z ~ q(·|o)

    Args:
      params: of the autoencoder.
      key: draws the latents.
      obs: [B, ...].
      model: the autoencoder.
      tolerance: τ, free nats per entry of the latent, at least 0.
    Returns:
      the loss []; metrics "reconstruction", the error, and "kl", in nats.
    Raises:
      ValueError: the model has nothing that is learned by gradient.
    """
    error = model.error
    if error is None:
        raise ValueError("a latent of 0 entries is the scaled observation itself: it has no loss")

    def one(key: Key, obs: Obs) -> tuple[Array, Metrics]:
        posterior = model.encode(params, obs)
        of_obs = error(params, sample_latent(key, posterior), obs)
        kl = gaussian_kl(*posterior, jnp.zeros(model.size, jnp.float32), jnp.ones(model.size, jnp.float32))
        return of_obs + jnp.maximum(tolerance * model.size, kl), {"reconstruction": of_obs, "kl": kl}

    return jax.tree.map(jnp.mean, jax.vmap(one)(jax.random.split(key, obs.shape[0]), obs))


def vae(cfg: VAEConfig, space: ObsSpace) -> VAE:
    """An autoencoder of observations, or their scaling where `cfg.latent` is 0.

    Args:
      cfg: settings; floats may be traced.
      space: vectors, planes or images (see `nets.observations.kind`).
    Raises:
      ValueError: a setting out of range, observations of no such kind, a latent of 0 entries for other observations
        than vectors, or one for images that is no multiple of 8.
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
    # The decoder is made for a memory and a latent: an image's has a branch for each, and the latent takes both.
    both = cfg.latent if which == "image" else 0
    picture = decoder(space, both, cfg.latent, cfg.coder)

    def init(key: Key) -> VAEParams:
        keys = jax.random.split(key, 3)
        return VAEParams(eye.net.init(keys[0]), posterior.init(keys[1]), picture.net.init(keys[2]))

    def encode(params: VAEParams, obs: Obs) -> Posterior:
        mean, log_var = jnp.split(posterior.apply(params.posterior, eye.net.apply(params.encoder, obs)), 2)
        return Posterior(mean, jnp.exp(0.5 * log_var))

    def predict(params: VAEParams, z: Array) -> Array:
        return picture.net.apply(params.decoder, z if both else jnp.zeros(0, jnp.float32), z)

    def error(params: VAEParams, z: Array, obs: Obs) -> Array:
        return picture.loss(predict(params, z), obs)

    return VAE(init, encode, lambda params, z: picture.mode(predict(params, z)), cfg.latent, error)


def _scaled(size: int) -> VAE:
    """Vectors as their own latents."""

    def encode(params: Normalizer, obs: Obs) -> Posterior:
        z = normalize(params, jnp.asarray(obs, jnp.float32))
        return Posterior(z, jnp.zeros_like(z))

    def calibrate(params: Normalizer, rows: Array, mask: Array) -> Normalizer:
        del params
        return fit_normalizer(rows.astype(jnp.float32), mask)

    return VAE(lambda key: identity_normalizer(size), encode, denormalize, size, calibrate=calibrate)
