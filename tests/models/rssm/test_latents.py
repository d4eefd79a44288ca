"""Latents: distributions by NumPy, samples by their frequencies, gradients by the documented formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.models.rssm.latents import categorical, gaussian

RAW = np.random.default_rng(0).normal(size=24).astype(np.float32) * 2

sizes = pytest.mark.parametrize("classes", [3, 12])  # few and many classes are computed in different orders


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@sizes
@pytest.mark.parametrize("unimix", [None, 0.1])
def test_categorical_probabilities_and_sample_frequencies(unimix, classes):
    family, raw = categorical(2, classes, unimix), RAW[: 2 * classes]
    expected = softmax(raw.reshape(2, classes))
    if unimix:
        expected = 0.9 * expected + 0.1 / classes
    dist = family.dist(jnp.asarray(raw))
    np.testing.assert_allclose(np.exp(dist), expected, rtol=1e-5)
    drawn = jax.jit(lambda key: jax.vmap(lambda n: family.sample(dist, n))(family.noise(key, 4000)))(jax.random.key(0))
    assert set(np.unique(np.round(drawn, 5))) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.sum(-1), np.ones((4000, 2)), atol=1e-6)
    np.testing.assert_allclose(drawn.mean(0), expected, atol=5 * 0.5 / 4000**0.5)
    joint = (drawn[:, 0, :, None] * drawn[:, 1, None, :]).mean(0)  # the two latents are independent
    np.testing.assert_allclose(joint, expected[0][:, None] * expected[1], atol=5 * 0.5 / 4000**0.5)


@sizes
def test_extreme_noise_samples_the_outer_classes(classes):
    family = categorical(2, classes)
    dist = family.dist(jnp.asarray(RAW[: 2 * classes]))
    drawn = family.sample(dist, jnp.array([0.0, 1.0 - 2**-24]))
    np.testing.assert_allclose(drawn, np.eye(classes)[[0, -1]], atol=1e-6)


@sizes
def test_the_gradient_of_a_categorical_sample_is_that_of_its_probabilities(classes):
    family, weights = categorical(2, classes, 0.1), jnp.arange(2.0 * classes).reshape(2, classes)
    noise, raw = jnp.array([0.3, 0.8]), RAW[: 2 * classes]
    through = jax.grad(lambda raw: jnp.sum(weights * family.sample(family.dist(raw), noise)))(jnp.asarray(raw))
    p = softmax(raw.reshape(2, classes))
    w = np.asarray(weights)
    expected = 0.9 * p * (w - (p * w).sum(-1, keepdims=True))
    np.testing.assert_allclose(through, expected.reshape(-1), rtol=1e-4, atol=1e-6)


def test_unimix_keeps_divergences_finite():
    far = jnp.array([200.0, 0.0, 0.0, 0.0, 0.0, 200.0])
    other = -far
    with_mix, without = categorical(2, 3, 0.01), categorical(2, 3)
    assert float(with_mix.kl(with_mix.dist(far), with_mix.dist(other))) < 2 * np.log(300)
    assert float(without.kl(without.dist(far), without.dist(other))) > 100


def test_gaussian_by_numpy():
    family = gaussian(3, least=0.2)
    raw = RAW[:6]
    dist = family.dist(jnp.asarray(raw))
    mean, std = raw[:3], np.log1p(np.exp(raw[3:])) + 0.2
    np.testing.assert_allclose(dist.std, std, rtol=1e-5)
    np.testing.assert_allclose(family.sample(dist, jnp.array([1.0, -1.0, 0.0])), mean + std * [1, -1, 0], rtol=1e-5)
    other = family.dist(jnp.asarray(raw[::-1].copy()))
    m, s = np.asarray(other.mean), np.asarray(other.std)
    expected = (np.log(s / std) + (std**2 + (mean - m) ** 2) / (2 * s**2) - 0.5).sum()
    assert float(family.kl(dist, other)) == pytest.approx(expected, rel=1e-4)
    noise = family.noise(jax.random.key(0), 4000)
    np.testing.assert_allclose(noise.mean(0), np.zeros(3), atol=0.08)
    np.testing.assert_allclose(noise.std(0), np.ones(3), atol=0.06)
