"""The tanh-normal against the change of variables written out in NumPy."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops import dists


def test_log_prob_is_the_change_of_variables():
    mean, log_std = np.array([0.3, -1.0]), np.array([-0.5, 0.2])
    dist = dists.tanh_normal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))
    action, log_prob = jax.jit(lambda key: dists.sample_and_log_prob(dist, key))(jax.random.key(1))
    u = np.arctanh(np.asarray(action, np.float64))
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    expected = (normal - np.log(1 - np.tanh(u) ** 2)).sum()
    assert float(log_prob) == pytest.approx(expected, rel=1e-4)


def test_density_integrates_to_one():
    dist = dists.tanh_normal(jnp.array([0.4]), jnp.array([-0.3]))
    grid = jnp.linspace(-0.9999, 0.9999, 20_001)[:, None]
    density = np.exp(jax.vmap(dist.log_prob)(grid))
    assert float(np.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("mean", [30.0, -30.0])
def test_saturated_actions_have_finite_log_probs_and_gradients(mean):
    """tanh(±30) is ±1 in float32, where log(1 - a²) is -inf; the density of u says what it should be."""

    def log_prob(mean):
        return dists.sample_and_log_prob(dists.tanh_normal(mean, jnp.array([-3.0])), jax.random.key(0))

    action, value = log_prob(jnp.array([mean]))
    assert abs(float(action[0])) == 1
    _, grad = jax.value_and_grad(lambda mean: log_prob(mean)[1])(jnp.array([mean]))
    drawn, centred = dists.sample_and_log_prob(dists.tanh_normal(jnp.zeros(1), jnp.array([-3.0])), jax.random.key(0))
    noise = np.arctanh(np.float64(drawn[0])) / np.exp(-3.0)
    normal = -0.5 * noise**2 + 3.0 - 0.5 * np.log(2 * np.pi)
    u = abs(mean + np.exp(-3.0) * noise)
    assert float(value) == pytest.approx(normal - 2 * (np.log(2) - u), rel=1e-5)  # log(1 - tanh²u) = 2 (log 2 - |u|)
    np.testing.assert_allclose(grad, [2 * np.sign(mean)], rtol=1e-5)  # the noise stays, and d/du of -log(1 - tanh²u)
    assert np.isfinite(centred)


def test_log_std_is_clipped():
    low = dists.tanh_normal(jnp.zeros(1), jnp.array([-50.0]))
    assert float(jnp.abs(dists.sample_and_log_prob(low, jax.random.key(0))[0][0])) < 1e-7
    wide, two = (dists.tanh_normal(jnp.zeros(1), jnp.array([x])) for x in (50.0, 2.0))
    a, b = (dists.sample_and_log_prob(d, jax.random.key(0))[0] for d in (wide, two))
    np.testing.assert_array_equal(a, b)


def test_normal_log_prob_entropy_and_mode():
    mean, log_std, x = np.array([0.3, -1.0]), np.array([-0.5, 0.2]), np.array([1.0, -3.0])
    dist = dists.normal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))
    expected = (-0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum()
    assert float(dist.log_prob(jnp.asarray(x, jnp.float32))) == pytest.approx(expected, rel=1e-5)
    assert float(dist.entropy()) == pytest.approx((log_std + 0.5 * np.log(2 * np.pi * np.e)).sum(), rel=1e-5)
    np.testing.assert_allclose(dist.mode(), mean, rtol=1e-6)
    draws, log_probs = jax.vmap(lambda key: dists.sample_and_log_prob(dist, key))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(draws.std(0), np.exp(log_std), rtol=0.03)
    np.testing.assert_allclose(log_probs, jax.vmap(dist.log_prob)(draws), rtol=1e-4, atol=1e-5)


def test_categorical_log_prob_and_frequencies():
    p = np.array([0.7, 0.2, 0.1])
    dist = dists.categorical(jnp.log(p) + 3.0)
    draws, log_probs = jax.vmap(lambda key: dists.sample_and_log_prob(dist, key))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    np.testing.assert_allclose(np.bincount(draws, minlength=3) / 20_000, p, atol=0.015)
    np.testing.assert_allclose(log_probs, np.log(p)[np.asarray(draws)], rtol=1e-4)
    assert int(dist.mode()) == 0


def test_categorical_entropy():
    assert float(dists.categorical_entropy(jnp.zeros(4))) == pytest.approx(np.log(4))
    p = np.array([0.7, 0.2, 0.1])
    assert float(dists.categorical_entropy(jnp.log(p))) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)


def test_a_vector_of_independent_choices():
    rng = np.random.default_rng(0)
    logits = [jnp.asarray(rng.normal(size=n), jnp.float32) for n in (3, 2, 4)]
    dist = dists.MultiCategorical(logits)
    chances = [np.exp(np.asarray(x, float)) / np.exp(np.asarray(x, float)).sum() for x in logits]
    values = list(np.ndindex(3, 2, 4))
    expected = [sum(np.log(p[i]) for p, i in zip(chances, value, strict=True)) for value in values]
    np.testing.assert_allclose(jax.jit(jax.vmap(dist.log_prob))(jnp.array(values)), expected, rtol=1e-5)
    assert float(dist.entropy()) == pytest.approx(-sum((p * np.log(p)).sum() for p in chances), rel=1e-5)
    assert dist.mode().tolist() == [int(p.argmax()) for p in chances]
    drawn, log_probs = jax.jit(jax.vmap(dist.sample_and_log_prob))(jax.random.split(jax.random.key(0), 4000))
    assert drawn.dtype == jnp.int32
    for i, p in enumerate(chances):
        np.testing.assert_allclose(np.bincount(drawn[:, i], minlength=p.size) / 4000, p, atol=0.03)
    joint = np.zeros((3, 2))
    np.add.at(joint, (drawn[:, 0], drawn[:, 1]), 1 / 4000)
    np.testing.assert_allclose(joint, np.outer(chances[0], chances[1]), atol=0.03)
    assert float(log_probs[5]) == pytest.approx(float(dist.log_prob(drawn[5])), rel=1e-6)


def test_the_first_distribution_of_a_process_may_be_made_in_a_trace():
    """The library behind it is imported then, and its constants must be numbers, not part of the trace."""
    code = (
        "import sys, jax, jax.numpy as jnp\nfrom mbrl_jax.ops import dists\nassert 'distrax' not in sys.modules\n"
        "def value(x): return dists.tanh_normal(x, x).log_prob(jnp.tanh(x)) + dists.categorical(x).entropy()\n"
        "x = jnp.array([0.1, -0.2])\nwith jax.checking_leaks(): traced = jax.jit(jax.grad(value))(x)\n"
        "assert 'distrax' in sys.modules\n"
        "assert jnp.allclose(traced, jax.grad(value)(x), atol=1e-6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
