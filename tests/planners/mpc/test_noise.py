"""Coloured noise: its variance, its spectrum, and independence of its sequences."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mbrl_jax.planners.mpc.noise import coloured

N = 20_000


@pytest.mark.parametrize("horizon", [1, 2, 7, 30])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_unit_variance_at_every_step_and_mean_zero(horizon, beta):
    noise = np.asarray(coloured(jax.random.key(0), beta, (N,), horizon))
    assert noise.shape == (N, horizon)
    np.testing.assert_allclose(noise.var(0), 1.0, atol=6 * np.sqrt(2 / N))
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=6 / np.sqrt(N))


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("horizon", [31, 32])
def test_power_falls_with_frequency_to_the_minus_beta(horizon, beta):
    noise = np.asarray(coloured(jax.random.key(1), beta, (N,), horizon))
    power = (np.abs(np.fft.rfft(noise)) ** 2).mean(0)
    frequency = np.fft.rfftfreq(horizon)
    slope = np.polyfit(np.log(frequency[1:]), np.log(power[1:]), 1)[0]
    assert abs(slope + beta) < 0.02
    # the lowest frequency has the power of 1 / H
    np.testing.assert_allclose(power[0], power[1], rtol=0.06)


def test_beta_zero_is_white():
    noise = np.asarray(coloured(jax.random.key(2), 0.0, (N,), 6))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(6), atol=6 / np.sqrt(N))


def test_larger_beta_keeps_its_sign_longer():
    flips = [
        float((np.diff(np.sign(coloured(jax.random.key(3), beta, (2000,), 20))) != 0).mean())
        for beta in (0.0, 1.0, 3.0)
    ]
    assert abs(flips[0] - 0.5) < 0.02
    assert flips[0] > flips[1] + 0.1 > flips[2] + 0.2


def test_sequences_are_independent_and_beta_may_be_traced():
    noise = np.asarray(coloured(jax.random.key(4), 2.0, (N, 2), 5))
    assert noise.shape == (N, 2, 5)
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 1, 0])[0, 1]) < 6 / np.sqrt(N)
    traced = jax.jit(coloured, static_argnums=(2, 3))(jax.random.key(4), 2.0, (N, 2), 5)
    np.testing.assert_allclose(traced, noise, rtol=1e-4, atol=1e-5)


def test_a_horizon_below_one_is_refused():
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        coloured(jax.random.key(0), 1.0, (3,), 0)
