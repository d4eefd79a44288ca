"""Autoencoders against NumPy: encoders, the free nats, and vectors that are their own latents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.models.world_models.vae import Seen, VAEConfig, draw, vae
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
    told = dense(params.posterior, "Dense_0", np.tanh(dense(params.encoder, "Dense_0", obs.reshape(-1))))
    mean, std = told[:Z], np.exp(0.5 * told[Z:])
    decoder = {"params": params.decoder["params"]["inner"]}
    out = dense(decoder, "Dense_1", np.tanh(dense(decoder, "Dense_0", mean + std * noise)))
    flat = obs.reshape(-1)
    error = np.square(out - flat).sum() if which == "vector" else (np.log1p(np.exp(out)) - flat * out).sum()
    return mean, std, out, error, 0.5 * (std**2 + mean**2 - 1 - 2 * np.log(std)).sum()


@pytest.mark.parametrize("which", ["vector", "planes"])
def test_the_loss_is_the_error_and_the_nats_above_the_free_ones(which):
    obs, noise = observed(which), np.asarray(jax.random.normal(KEY, (Z,)), np.float64)

    def of(tolerance):
        made = vae(VAEConfig(latent=Z, tolerance=tolerance, coder=CODER), SPACES[which])
        assert made.loss is not None
        params = drawn(made.init)
        value, grads = jax.value_and_grad(lambda p: made.loss(p, KEY, jnp.asarray(obs, jnp.float32))[0])(params)
        return made, params, float(value), grads

    made, params, total, _ = of(0.0)
    mean, std, out, error, kl = by_hand(which, params, obs, noise)
    assert total == pytest.approx(error + kl, rel=1e-4)
    told = made.encode(params, jnp.asarray(obs, jnp.float32))
    np.testing.assert_allclose(told.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(told.std, std, rtol=1e-4)
    picture = out if which == "vector" else (1 / (1 + np.exp(-out))).reshape(3, 3, 1)
    np.testing.assert_allclose(made.decode(params, jnp.asarray(mean + std * noise, jnp.float32)), picture, rtol=1e-3)
    # Below the free nats they cost what is free, and move nothing: the gradient is the error's alone.
    free = 10 * kl / Z
    _, _, total_free, grads_free = of(free)
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


def test_images_are_told_from_their_latent_in_bytes():
    made = vae(VAEConfig(latent=8, tolerance=2.0, coder=CoderConfig(units=4, depth=2)), SPACES["image"])
    params = drawn(made.init)
    obs = jnp.asarray(np.random.default_rng(0).integers(0, 256, (48, 48, 1)), jnp.uint8)

    @jax.jit
    def told(params):
        assert made.loss is not None
        z = draw(KEY, made.encode(params, obs))
        return made.loss(params, KEY, obs), made.decode(params, z)

    (total, terms), picture = told(params)
    error = np.square((np.asarray(picture, np.float64) - np.asarray(obs)) / 255).sum()
    assert float(total) == pytest.approx(error + max(16.0, float(terms["kl"])), rel=1e-4)
    assert float(np.std(picture)) > 1


def test_draws_have_the_mean_and_deviation_told():
    seen = Seen(jnp.array([1.0, -2.0]), jnp.array([0.5, 0.0]))
    draws = np.asarray(jax.vmap(draw, (0, None))(jax.random.split(KEY, 4000), seen))
    np.testing.assert_allclose(draws.mean(0), [1.0, -2.0], atol=0.03)
    np.testing.assert_allclose(draws.std(0), [0.5, 0.0], atol=0.02)


def test_without_a_latent_a_vector_is_scaled_by_the_rows_that_count():
    made = vae(VAEConfig(latent=0), SPACES["vector"])
    assert (made.size, made.loss) == (SIZE, None)
    rows = np.array([[0.0, 1.0, 5.0], [4.0, 3.0, 5.0], [100.0, 100.0, 100.0]], np.float32)
    assert made.calibrate is not None
    params = made.calibrate(made.init(KEY), jnp.asarray(rows), jnp.array([True, True, False]))
    seen = made.encode(params, jnp.array([6.0, 2.0, 7.0]))
    np.testing.assert_allclose(seen.mean, [2.0, 0.0, 2.0])  # a column that does not vary is only centred
    np.testing.assert_array_equal(seen.std, 0.0)
    np.testing.assert_array_equal(draw(KEY, seen), seen.mean)
    np.testing.assert_allclose(made.decode(params, seen.mean), [6.0, 2.0, 7.0])


@pytest.mark.parametrize(
    ("cfg", "space", "message"),
    [
        (VAEConfig(latent=0), SPACES["planes"], "latent must be at least 1 where observations are no vectors, got 0"),
        (VAEConfig(tolerance=-1.0), SPACES["vector"], "tolerance must be at least 0, got -1.0"),
        (VAEConfig(latent=12), SPACES["image"], "deter must be a multiple of 8 to decode images, got 12"),
        (VAEConfig(), Discrete(3), "observations must be a vector, or planes or an image"),
    ],
)
def test_what_does_not_fit_is_refused(cfg, space, message):
    with pytest.raises(ValueError, match=message):
        vae(cfg, space)
