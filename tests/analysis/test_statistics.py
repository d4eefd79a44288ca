"""Statistics over seeds against scipy and hand-computed numbers."""

import numpy as np
import pytest
from scipy import stats

from mbrl_jax.analysis.statistics import bootstrap_interval, interquartile_mean, median_steps, steps_to_threshold


@pytest.mark.parametrize("n", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    scores = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=0), rtol=1e-12)
    np.testing.assert_allclose(interquartile_mean(scores.T, axis=1), interquartile_mean(scores), rtol=1e-12)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([100, 1, 2, 3, 4, -100, 5, 6]) == 3.5  # of 2, 3, 4, 5
    assert interquartile_mean([0, 1, 5]) == 2  # too few to drop any


def test_a_seed_without_a_number_is_not_dropped_as_the_best():
    assert np.isnan(interquartile_mean([np.nan, 1, 2, 3]))
    found = interquartile_mean([[1, np.nan], [2, 5], [3, 6], [9, 7]], axis=0)
    np.testing.assert_array_equal(found, [2.5, np.nan])


def test_bootstrap_interval_agrees_with_scipy():
    scores = np.random.default_rng(0).normal(10, 3, size=40)
    ours = bootstrap_interval(scores, statistic=np.mean, resamples=20_000)
    theirs = stats.bootstrap(
        (scores,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    half = 1.96 * scores.std() / np.sqrt(40)  # the normal interval around the mean
    np.testing.assert_allclose(ours, [scores.mean() - half, scores.mean() + half], atol=0.1)


def test_bootstrap_interval_of_curves():
    scores = np.random.default_rng(0).normal(size=(8, 5)) + np.arange(5)
    low, high = bootstrap_interval(scores, resamples=300)
    assert low.shape == high.shape == (5,)
    one = bootstrap_interval(scores[:, 2], resamples=300)
    np.testing.assert_allclose([low[2], high[2]], one)  # every column sees the same draws of seeds
    middle = interquartile_mean(scores)
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert bootstrap_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)
    narrow, wide = (bootstrap_interval(scores[:, 0], level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_steps_to_threshold():
    scores = [[0, 5, 4, 9], [1, 2, 3, 4], [7, 0, 0, 0], [np.nan, np.nan, 5, np.nan]]
    assert steps_to_threshold([10, 20, 30, 40], scores, 5) == [20, None, 10, 30]
    assert steps_to_threshold([10, 20, 30, 40], scores, 100) == [None] * 4


def test_median_steps():
    assert median_steps([10, None, 30]) == 30
    assert median_steps([10, 20]) == 15
    assert median_steps([None, None, 5]) == np.inf
