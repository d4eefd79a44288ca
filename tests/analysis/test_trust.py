"""Disagreement, its relation to errors, and distances, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_jax.analysis import model_pictures, trust
from mbrl_jax.analysis.calibration import of_samples, variance_bins
from mbrl_jax.analysis.model_error import horizon_errors


def test_disagreement_is_the_spread_of_members_means_in_spreads_of_entries():
    # Two members of two rollouts: their means are (1, 20) and (3, 60); the last entry never changes.
    drawn = np.array([[[0.0, 10.0, 7.0], [2.0, 30.0, 8.0], [2.0, 50.0, 9.0], [4.0, 70.0, 5.0]]])
    found = trust.disagreement(drawn, 2, [1.0, 10.0, 0.0])
    np.testing.assert_allclose(found, [np.sqrt((1.0**2 + 2.0**2) / 2)])
    alone = trust.disagreement(drawn[:, :2, :1], 1, [1.0])
    np.testing.assert_allclose(alone, [1.0])


def test_rank_correlation_sees_order_alone():
    x = np.arange(20.0)
    assert trust.rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert trust.rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    assert np.isnan(trust.rank_correlation(x, np.ones(20)))
    rng = np.random.default_rng(0)
    assert abs(trust.rank_correlation(rng.normal(size=4000), rng.normal(size=4000))) < 0.05


def test_errors_of_quantiles_are_those_of_sorted_parts():
    apart, error = np.array([4.0, 1.0, 3.0, 2.0]), np.array([40.0, 10.0, 30.0, 20.0])
    mean, off, rows = trust.by_quantile(apart, error, 2)
    np.testing.assert_allclose(mean, [1.5, 3.5])
    np.testing.assert_allclose(off, [np.sqrt(250.0), np.sqrt(1250.0)])
    np.testing.assert_array_equal(rows, [2, 2])
    assert len(trust.by_quantile(apart[:1], error[:1])[0]) == 1


def test_an_ensemble_of_lines_disagrees_where_it_has_not_been():
    """Least squares lines through bootstraps of noisy data on [-1, 1]: the spread grows with the distance from it."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, 60)
    y = np.sin(x) + 0.05 * rng.normal(size=60)
    lines = [np.polyfit(x[i], y[i], 3) for i in rng.integers(0, 60, (7, 60))]
    places = np.linspace(-3, 3, 121)
    predicted = np.stack([np.polyval(line, places) for line in lines], 1)[..., None]
    apart = trust.disagreement(predicted, 7, [1.0])
    error = np.abs(predicted.mean(1)[:, 0] - np.sin(places))
    assert trust.rank_correlation(apart, error) > 0.8
    distance = trust.distance_to_data(places[:, None], x[:, None], neighbours=1)
    outside = np.abs(places) > 1.2
    assert distance[outside].min() > distance[np.abs(places) < 0.9].max()
    assert trust.rank_correlation(distance[outside], apart[outside]) > 0.9


def test_distances_are_in_spreads_of_the_data():
    data = np.array([[0.0, 5.0], [2.0, 5.0]])  # spread 1, and an entry that never changes
    found = trust.distance_to_data(np.array([[3.0, -9.0], [0.0, 5.0]]), data, neighbours=2)
    np.testing.assert_allclose(found, [(1 + 3) / 2, (0 + 2) / 2])
    with pytest.raises(ValueError, match="an entry that changes"):
        trust.distance_to_data(data, np.ones((3, 2)))


def test_cells_are_means_and_the_widest_entries_are_shown():
    x, y, mean = trust.cells([0.0, 0.1, 1.0], [0.0, 0.1, 1.0], [1.0, 3.0, 5.0], bins=2)
    np.testing.assert_allclose(mean, [[2.0, np.nan], [np.nan, 5.0]])
    assert len(x) == len(y) == 3
    assert trust.moving_entries(np.array([[0.0, 0.0, 0.0], [1.0, 9.0, 5.0]])) == (1, 2)
    assert trust.moving_entries(np.array([[0.0], [1.0]])) == (0, 0)


def test_pictures_of_all_measures_are_drawn():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(6, 5, 2))
    drawn = real[:, None] + 0.1 * rng.normal(size=(6, 4, 5, 2))
    errors = horizon_errors(drawn, real, np.ones((6, 5), bool), members=2, baselines={"persistence": 0 * real})
    calibrated = of_samples(drawn[:, :, 0], real[:, 0])
    bins = variance_bins(drawn[:, :, 0].std(1), np.abs(drawn[:, :, 0].mean(1) - real[:, 0]), 3)
    found = trust.Trust(
        rng.uniform(0.1, 1, 6), rng.uniform(0.1, 1, 6), real[:, 0], np.array([0, 0, 0, 1, 1, 1]), ("a", "b"), 0.5
    )
    pictures = (
        model_pictures.errors_picture({"observation": errors, "reward": errors}),
        model_pictures.compared_picture({"one": {"observation": errors}, "two": {"reward": errors}}),
        model_pictures.calibration_picture({"1 step": calibrated}, {"1 step": bins}),
        model_pictures.trust_picture(found, np.arange(6.0)),
    )
    assert all(image.startswith(b"\x89PNG") and len(image) > 5_000 for image in pictures)
