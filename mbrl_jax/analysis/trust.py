"""Where a model can be trusted: disagreement of its members, or distance to its data, against its true error.

    disagreement    RMS over entries of the standard deviation of the members' means, in spreads
    rank correlation of disagreement and error (Spearman): 1 where it orders states by their error, 0 where it is blind

NumPy throughout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Trust(NamedTuple):
    """Disagreement and error of N predictions."""

    disagreement: np.ndarray  # [N] in spreads
    error: np.ndarray  # [N] of the mean prediction, in spreads
    place: np.ndarray  # [N, D] observations where the predictions start
    source: np.ndarray  # [N] int: which episodes they are from
    sources: tuple[str, ...]  # names of the sources
    correlation: float  # Spearman's, NaN where one of them is constant


def disagreement(predicted: Any, members: int, scale: Any) -> np.ndarray:
    """How far apart a model's members are, [N].

    Args:
      predicted: [N, R, D] R rollouts of each start, those of the first member first; of a model of one member the
        spread of its rollouts stands for it.
      members: M, a divisor of R.
      scale: [D] spreads; entries with a spread of 0 are left out.
    """
    predicted, scale = np.asarray(predicted, np.float64), np.asarray(scale, np.float64)
    apart = predicted if members == 1 else predicted.reshape(len(predicted), members, -1, predicted.shape[2]).mean(2)
    moves = scale > 0
    return np.sqrt(np.mean(np.square(apart.std(axis=1)[:, moves] / scale[moves]), axis=1))


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation of two lists [N]; NaN where one is constant or shorter than 2."""
    from scipy.stats import spearmanr

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def by_quantile(of: Any, error: Any, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Root mean square errors in bins of equal size of another quantity, from its smallest to its largest values.

    Args:
      of: [N] disagreement, or a distance.
      error: [N].
      bins: B; fewer where there are fewer rows.
    Returns:
      the quantity's mean in each bin [B], the errors [B], and the rows of each [B].
    """
    of, error = np.asarray(of, np.float64), np.asarray(error, np.float64)
    parts = np.array_split(np.argsort(of, kind="stable"), max(1, min(bins, len(of))))
    return (
        np.array([of[i].mean() for i in parts]),
        np.array([np.sqrt(np.mean(np.square(error[i]))) for i in parts]),
        np.array([len(i) for i in parts]),
    )


def distance_to_data(places: Any, data: Any, neighbours: int = 5) -> np.ndarray:
    """The mean distance [N] of places to their nearest rows of data, in spreads of the data.

    Args:
      places: [N, D].
      data: [B, D]; entries that do not change in it are left out.
      neighbours: rows that count, at most B.
    Raises:
      ValueError: no entry of the data changes.
    """
    from scipy.spatial import KDTree

    from mbrl_jax.analysis.model_error import STILL

    places, data = np.asarray(places, np.float64), np.asarray(data, np.float64)
    scale = data.std(axis=0)
    moves = scale > STILL
    if not moves.any():
        raise ValueError("distances need data with an entry that changes, got none")
    count = min(neighbours, len(data))
    found, _ = KDTree(data[:, moves] / scale[moves]).query(places[:, moves] / scale[moves], k=count)
    return np.asarray(found, np.float64).reshape(len(places), -1).mean(axis=1)


def cells(x: Any, y: Any, values: Any, bins: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of values over a grid of a plane.

    Args:
      x, y: [N] places.
      values: [N].
      bins: cells of each side.
    Returns:
      edges [bins + 1] of x and of y, and means [bins, bins], NaN where there is no value.
    """
    from scipy.stats import binned_statistic_2d

    found: Any = binned_statistic_2d(x, y, values, "mean", bins)
    return found.x_edge, found.y_edge, found.statistic


def moving_entries(places: Any) -> tuple[int, int]:
    """The two entries of observations [N, D] with the largest range; one of them twice where D is 1."""
    wide = np.argsort(-np.ptp(np.asarray(places, np.float64), axis=0), kind="stable")
    return int(wide[0]), int(wide[min(1, len(wide) - 1)])
