"""Autoencoders against NumPy: encoders, losses with free nats, and vectors that are their own latents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.models.world_models.vae import Posterior, VAEConfig, sample_latent, vae, vae_loss
from mbrl_jax.nets.observations import CoderConfig

SIZE, Z = 3, 2
CODER = CoderConfig(units=4, layers=1, depth=0, norm="none", activation="tanh", squash=False)
KEY = jax.random.key(3)
SPACES = {"vector": Box((SIZE,)), "planes": Box((3, 3, 1), 0.0, 1.0), "image": Box((48, 48, 1), 0, 255, jnp.uint8)}


def drawn(init):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape) + 0.1, jnp.float32), shapes)


def dense(params, name, x):
    layer = params["params"][name]
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])


def observed(which):
    rng = np.random.default_rng(0)
    return rng.normal(size=SIZE) if which == "vector" else rng.integers(0, 2, (3, 3, 1)).astype(float)


def by_hand(which, params, obs, noise):
    """Mean, deviation, reconstruction error and KL, in float64."""
    out = dense(params.posterior, "Dense_0", np.tanh(dense(params.encoder, "Dense_0", obs.reshape(-1))))
    mean, std = out[:Z], np.exp(0.5 * out[Z:])
    decoder = {"params": params.decoder["params"]["inner"]}
    out = dense(decoder, "Dense_1", np.tanh(dense(decoder, "Dense_0", mean + std * noise)))
    flat = obs.reshape(-1)
    error = np.square(out - flat).sum() if which == "vector" else (np.log1p(np.exp(out)) - flat * out).sum()
    return mean, std, out, error, 0.5 * (std**2 + mean**2 - 1 - 2 * np.log(std)).sum()


@pytest.mark.parametrize("which", ["vector", "planes"])
def test_the_loss_is_the_error_and_the_nats_above_the_free_ones(which):
    obs, noise = observed(which), np.asarray(jax.random.normal(jax.random.split(KEY, 1)[0], (Z,)), np.float64)

    def of(tolerance):
        made = vae(VAEConfig(latent=Z, tolerance=tolerance, coder=CODER), SPACES[which])
        params, batch = drawn(made.init), jnp.asarray(obs, jnp.float32)[None]
        run = jax.value_and_grad(vae_loss, has_aux=True)
        (value, metrics), grads = run(params, KEY, batch, model=made, tolerance=tolerance)
        return made, params, (float(value), metrics), grads

    made, params, (total, metrics), _ = of(0.0)
    mean, std, out, error, kl = by_hand(which, params, obs, noise)
    assert total == pytest.approx(error + kl, rel=1e-4)
    assert float(metrics["reconstruction"]) == pytest.approx(error, rel=1e-4)
    assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-4)
    posterior = made.encode(params, jnp.asarray(obs, jnp.float32))
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(posterior.std, std, rtol=1e-4)
    picture = out if which == "vector" else (1 / (1 + np.exp(-out))).reshape(3, 3, 1)
    np.testing.assert_allclose(made.decode(params, jnp.asarray(mean + std * noise, jnp.float32)), picture, rtol=1e-3)
    # A KL below the free nats is constant: the gradient is the error's alone.
    free = 10 * kl / Z
    _, _, (total_free, _), grads_free = of(free)
    assert total_free == pytest.approx(error + 10 * kl, rel=1e-4)
    bias = lambda tree: np.asarray(tree.posterior["params"]["Dense_0"]["bias"])  # noqa: E731
    moved = [by_hand(which, shifted(params, i, h), obs, noise)[3] for i in range(2 * Z) for h in (1e-4, -1e-4)]
    slopes = (np.array(moved[::2]) - np.array(moved[1::2])) / 2e-4
    np.testing.assert_allclose(bias(grads_free), slopes, rtol=1e-2, atol=1e-3)


def shifted(params, i, h):
    """The same parameters with one bias of the posterior changed, in float64."""
    bias = np.array(params.posterior["params"]["Dense_0"]["bias"], np.float64)
    bias[i] += h
    return params._replace(posterior={"params": {"Dense_0": params.posterior["params"]["Dense_0"] | {"bias": bias}}})


def test_the_loss_is_the_mean_over_a_batch():
    made = vae(VAEConfig(latent=Z, coder=CODER), SPACES["vector"])
    params, batch = drawn(made.init), np.random.default_rng(5).normal(size=(3, SIZE))
    noise = [np.asarray(jax.random.normal(key, (Z,)), np.float64) for key in jax.random.split(KEY, 3)]
    parts = [by_hand("vector", params, *pair)[3:] for pair in zip(batch, noise, strict=True)]
    loss, metrics = vae_loss(params, KEY, jnp.asarray(batch, jnp.float32), model=made, tolerance=0.1)
    assert float(loss) == pytest.approx(np.mean([error + max(0.1 * Z, kl) for error, kl in parts]), rel=1e-4)
    assert float(metrics["kl"]) == pytest.approx(np.mean([kl for _, kl in parts]), rel=1e-4)
    with pytest.raises(ValueError, match="it has no loss"):
        vae_loss((), KEY, jnp.zeros((3, SIZE)), model=vae(VAEConfig(latent=0), SPACES["vector"]), tolerance=0.1)


def test_images_are_decoded_in_bytes():
    made = vae(VAEConfig(latent=8, tolerance=2.0, coder=CoderConfig(units=4, depth=2)), SPACES["image"])
    params = drawn(made.init)
    obs = jnp.asarray(np.random.default_rng(0).integers(0, 256, (48, 48, 1)), jnp.uint8)

    @jax.jit
    def run(params):
        z = sample_latent(jax.random.split(KEY, 1)[0], made.encode(params, obs))
        return vae_loss(params, KEY, obs[None], model=made, tolerance=2.0), made.decode(params, z)

    (total, terms), picture = run(params)
    error = np.square((np.asarray(picture, np.float64) - np.asarray(obs)) / 255).sum()
    assert float(total) == pytest.approx(error + max(16.0, float(terms["kl"])), rel=1e-4)
    assert float(np.std(picture)) > 1


def test_draws_have_the_posterior_mean_and_deviation():
    posterior = Posterior(jnp.array([1.0, -2.0]), jnp.array([0.5, 0.0]))
    draws = np.asarray(jax.vmap(sample_latent, (0, None))(jax.random.split(KEY, 4000), posterior))
    np.testing.assert_allclose(draws.mean(0), [1.0, -2.0], atol=0.03)
    np.testing.assert_allclose(draws.std(0), [0.5, 0.0], atol=0.02)


def test_without_a_latent_a_vector_is_scaled_by_the_unmasked_rows():
    made = vae(VAEConfig(latent=0), SPACES["vector"])
    assert (made.size, made.error) == (SIZE, None)
    rows = np.array([[0.0, 1.0, 5.0], [4.0, 3.0, 5.0], [100.0, 100.0, 100.0]], np.float32)
    assert made.calibrate is not None
    params = made.calibrate(made.init(KEY), jnp.asarray(rows), jnp.array([True, True, False]))
    posterior = made.encode(params, jnp.array([6.0, 2.0, 7.0]))
    np.testing.assert_allclose(posterior.mean, [2.0, 0.0, 2.0])  # a column that does not vary is only centred
    np.testing.assert_array_equal(posterior.std, 0.0)
    np.testing.assert_array_equal(sample_latent(KEY, posterior), posterior.mean)
    np.testing.assert_allclose(made.decode(params, posterior.mean), [6.0, 2.0, 7.0])


@pytest.mark.parametrize(
    ("cfg", "space", "message"),
    [
        (VAEConfig(latent=0), SPACES["planes"], "latent must be at least 1 where observations are no vectors, got 0"),
        (VAEConfig(tolerance=-1.0), SPACES["vector"], "tolerance must be at least 0, got -1.0"),
        (VAEConfig(latent=12), SPACES["image"], "deter must be a multiple of 8 to decode images, got 12"),
        (VAEConfig(), Discrete(3), "observations must be a vector, or planes or an image"),
    ],
)
def test_bad_settings_and_spaces_are_refused(cfg, space, message):
    with pytest.raises(ValueError, match=message):
        vae(cfg, space)
