"""Normalisers against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: lambda x, m: jax.vmap(f)(x[None], m[None])])
def test_statistics_are_those_of_the_masked_rows(wrap):
    rows = RNG.normal([3.0, -50.0, 0.1], [2.0, 0.5, 1e-3], (40, 3)).astype(np.float32)
    mask = RNG.random(40) < 0.6
    poisoned = np.where(mask[:, None], rows, np.nan).astype(np.float32)
    got = wrap(fit_normalizer)(jnp.asarray(poisoned), jnp.asarray(mask))
    kept = rows[mask].astype(np.float64)
    np.testing.assert_allclose(np.squeeze(got.mean), kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.squeeze(got.std), kept.std(0), rtol=1e-3)


def test_two_passes_keep_a_small_deviation_beside_a_large_mean():
    # One pass, E[x^2] - E[x]^2, gives about 0 or worse than 1e5 * eps here.
    rows = jnp.asarray(1e4 + np.array([[-0.5], [0.5]] * 50, np.float32))
    got = fit_normalizer(rows, jnp.ones(100, bool))
    np.testing.assert_allclose(got.std, [0.5], rtol=1e-2)


def test_a_constant_column_and_no_rows_have_deviation_one():
    got = fit_normalizer(jnp.full((5, 2), 7.0), jnp.ones(5, bool))
    np.testing.assert_array_equal(got.mean, [7.0, 7.0])
    np.testing.assert_array_equal(got.std, [1.0, 1.0])
    none = fit_normalizer(jnp.full((5, 2), jnp.nan), jnp.zeros(5, bool))
    np.testing.assert_array_equal(none.mean, [0.0, 0.0])
    np.testing.assert_array_equal(none.std, [1.0, 1.0])


def test_normalize_and_denormalize_are_inverse():
    scale = Normalizer(jnp.array([1.0, -2.0]), jnp.array([4.0, 0.5]))
    np.testing.assert_allclose(normalize(scale, jnp.array([5.0, -3.0])), [1.0, -2.0])
    np.testing.assert_allclose(denormalize(scale, jnp.array([1.0, -2.0])), [5.0, -3.0])
    np.testing.assert_array_equal(normalize(identity_normalizer(2), jnp.array([5.0, -3.0])), [5.0, -3.0])


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        normalize(identity_normalizer(3), jnp.zeros(2))
    with pytest.raises(AssertionError):
        fit_normalizer(jnp.zeros((3, 2)), jnp.ones(4, bool))
