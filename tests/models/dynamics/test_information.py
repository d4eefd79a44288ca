"""Bits that are lost in a step where members disagree, against sums by hand and against samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.models.dynamics import information


def test_members_are_fused_by_their_precision():
    means, stds = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[1.0, 2.0], [2.0, 1.0]])
    step = information.fused(jnp.array(means), jnp.array(stds))
    np.testing.assert_allclose(step.noise, [1.6, 1.6], rtol=1e-6)  # 1 / mean(1, 1/4)
    np.testing.assert_allclose(step.mean, [1.4, 5.0], rtol=1e-6)  # 1.6 · mean(1, 3/4)
    np.testing.assert_allclose(step.doubt, [(0.16 + 2.56) / 2, 0.0], rtol=1e-5, atol=1e-12)


def test_what_is_left_open_is_the_entropy_given_the_noisy_step():
    """The variance of s given s + noise, from samples: the residual of a regression on what was seen."""
    rng = np.random.default_rng(0)
    noise, doubt = 0.7, 2.1
    true = rng.normal(0, noise**0.5, 400_000)
    seen = true + rng.normal(0, doubt**0.5, 400_000)
    residual = true - seen * (true @ seen) / (seen @ seen)
    of = information.Fused(jnp.zeros(1), jnp.array([noise]), jnp.array([doubt]))
    np.testing.assert_allclose(information.left(of), 0.5 * np.log2(2 * np.pi * np.e * residual.var()), atol=0.01)


def test_agreeing_members_lose_nothing_however_noisy_and_more_doubt_loses_more():
    agreeing = information.fused(jnp.ones((4, 1)), jnp.full((4, 1), 9.0))
    assert float(information.lost(agreeing, jnp.array([-3.0]))[0]) == 0
    doubts = [information.Fused(jnp.zeros(1), jnp.ones(1), jnp.full(1, w)) for w in (0.01, 0.1, 1.0, 10.0)]
    bits = [float(information.lost(step, jnp.array([-3.0]))[0]) for step in doubts]
    assert bits == sorted(bits)
    np.testing.assert_allclose(bits[2], 0.5 * np.log2(2 * np.pi * np.e * 0.5) + 3, rtol=1e-6)


def test_the_allowance_is_set_by_the_quantiles_of_real_rows():
    rng = np.random.default_rng(1)
    means, stds = rng.normal(size=(500, 3, 2)), rng.uniform(0.5, 2, size=(500, 3, 2))
    for q in (0.95, 0.05):
        most = information.allowance(jnp.array(means), jnp.array(stds), quantile=q, budget=7.0)
        steps = jax.vmap(information.fused)(jnp.array(means), jnp.array(stds))
        bits = information.lost(steps, most.width)
        np.testing.assert_allclose(np.quantile(bits, 0.05, axis=0), [1, 1], rtol=1e-4)
        np.testing.assert_allclose(np.mean(bits > most.step, axis=0), [0.05, 0.05], atol=0.003)
        np.testing.assert_array_equal(most.total, [7, 7])
