"""Disagreement of members: against NumPy, and what its unit is."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mbrl_jax.models.dynamics.disagreement import disagreement, usual


def test_disagreement_is_the_members_variance_beside_that_on_the_rows():
    rng = np.random.default_rng(0)
    rows, one = rng.normal(size=(50, 4, 3)), rng.normal(size=(4, 3))
    scale = np.mean([[np.var(row[:, d]) for d in range(3)] for row in rows], axis=0)
    np.testing.assert_allclose(usual(rows.astype(np.float32)), scale, rtol=1e-5)
    expected = sum(np.var(one[:, d]) / scale[d] for d in range(3)) / 3
    assert float(disagreement(one.astype(np.float32), scale.astype(np.float32))) == pytest.approx(expected, rel=1e-5)


def test_it_is_1_on_average_over_the_rows_in_any_units():
    means = jax.random.normal(jax.random.key(0), (100, 5, 2))
    for unit in (1.0, np.array([1e3, 1e-3], np.float32)):
        own = jax.vmap(disagreement, (0, None))(means * unit, usual(means * unit))
        assert float(own.mean()) == pytest.approx(1.0, rel=1e-4)


def test_an_entry_that_all_members_know_adds_nothing():
    means = jax.random.normal(jax.random.key(0), (20, 3, 2)).at[..., 1].set(7.0)
    assert float(disagreement(means[0], usual(means))) == pytest.approx(
        0.5 * float(np.var(means[0, :, 0]) / np.mean(np.var(means[..., 0], axis=1))), rel=1e-4
    )
