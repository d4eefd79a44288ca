"""Coverage, sharpness and likelihood against closed forms of normal distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mbrl_jax.analysis import calibration
from mbrl_jax.analysis.calibration import LEVELS, coverage, mixture_nll, mixture_transform, of_moments, of_samples


def predictions(std, rows=20_000, seed=0):
    """Standard normal outcomes [N, 2] and predictions N(0, std²) of one member."""
    real = np.random.default_rng(seed).normal(size=(rows, 2))
    return np.zeros((rows, 1, 2)), np.full((rows, 1, 2), std), real


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_coverage_of_a_normal_prediction_is_the_closed_form(std):
    """|y| <= std z_c with y ~ N(0, 1): coverage is 2 Φ(std z_c) - 1."""
    found = of_moments(*predictions(std))
    expected = 2 * stats.norm.cdf(std * stats.norm.ppf((1 + LEVELS) / 2)) - 1
    np.testing.assert_allclose(found.coverage, expected, atol=0.012)
    np.testing.assert_allclose(found.entries.mean(1), found.coverage)
    assert found.sharpness == pytest.approx(std, rel=0.02)
    assert found.error == pytest.approx(1.0, rel=0.02)
    assert found.rows == 20_000


def test_likelihood_is_the_cross_entropy_and_least_where_the_spread_is_right():
    """E[-log N(y; 0, s²)] = log s + log(2π) / 2 + 1 / (2 s²)."""
    found = {std: of_moments(*predictions(std)).nll for std in (0.5, 0.8, 1.0, 1.25, 2.0)}
    for std, value in found.items():
        assert value == pytest.approx(np.log(std) + 0.5 * np.log(2 * np.pi) + 0.5 / std**2, abs=0.03)
    assert min(found, key=found.__getitem__) == 1.0


def test_a_mixture_is_that_of_scipy():
    rng = np.random.default_rng(1)
    mean, std, real = rng.normal(size=(5, 3, 2)), rng.uniform(0.5, 2, size=(5, 3, 2)), rng.normal(size=(5, 2))
    cdf = np.mean([stats.norm.cdf(real, mean[:, i], std[:, i]) for i in range(3)], axis=0)
    np.testing.assert_allclose(mixture_transform(mean, std, real), cdf, rtol=1e-12)
    density = np.mean([stats.norm.pdf(real, mean[:, i], std[:, i]).prod(1) for i in range(3)], axis=0)
    np.testing.assert_allclose(mixture_nll(mean, std, real), -np.log(density), rtol=1e-12)


def test_members_without_noise_are_steps():
    mean, std = np.array([[[0.0], [1.0]]]), np.zeros((1, 2, 1))
    for real, below in ((-1.0, 0.0), (0.0, 0.25), (0.5, 0.5), (2.0, 1.0)):
        assert mixture_transform(mean, std, np.array([[real]]))[0, 0] == below
    rng = np.random.default_rng(2)
    found = of_moments(rng.normal(size=(50, 2, 1)), np.zeros((50, 2, 1)), rng.normal(size=(50, 1)))
    assert found.nll is None


def test_samples_of_the_truth_are_calibrated_and_narrow_ones_are_not():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(3000, 2))
    right = of_samples(rng.normal(size=(3000, 64, 2)), real)
    np.testing.assert_allclose(right.coverage, right.levels, atol=0.03)
    assert right.sharpness == pytest.approx(1.0, rel=0.05)
    sure = of_samples(0.3 * rng.normal(size=(3000, 64, 2)), real)
    assert (sure.coverage < sure.levels - 0.05).all()
    np.testing.assert_array_equal(coverage(calibration.sample_transform(np.ones((10, 4, 1)), np.ones((10, 1)))), 1.0)


def test_units_do_not_matter_and_what_never_changes_is_left_out():
    mean, std, real = predictions(1.5, rows=500)
    scaled = of_moments(*(np.concatenate([1000 * x, np.ones_like(x)], -1) for x in (mean, std, real)))
    plain = of_moments(mean, std, real)
    np.testing.assert_allclose(scaled.coverage, plain.coverage)
    assert scaled.nll == pytest.approx(plain.nll)
    assert scaled.entries.shape[1] == 2
    with pytest.raises(ValueError, match="an entry that changes"):
        of_samples(np.ones((5, 3, 1)), np.ones((5, 1)))


def test_bins_of_right_variances_lie_on_the_diagonal():
    rng = np.random.default_rng(3)
    std = np.exp(rng.uniform(-3, 1, 50_000))
    wide, off = calibration.variance_bins(std, std * rng.normal(size=std.shape))
    assert (np.diff(wide) > 0).all()
    np.testing.assert_allclose(off, wide, rtol=0.06)
