"""Statistics over seeds (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice").

NumPy throughout. The seeds are the leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def interquartile_mean(scores: Any, axis: int = 0) -> Any:
    """The mean of the middle half of the scores.

    The ⌊n/4⌋ lowest and the ⌊n/4⌋ highest are dropped entirely, as rliable and `scipy.stats.trim_mean` do, so results
    compare with published ones. If n is not a multiple of 4, that keeps slightly more than half (fractional weights at
    the edges would keep exactly half); with fewer than 4 scores it is the mean.

    Args:
      scores: [..., n, ...], of one task, or normalised; the mean of any that holds NaN is NaN.
      axis: the axis of the n scores.
    Returns:
      the scores' shape without that axis.
    """
    # Sorting puts NaN above every number: a seed that diverged would be dropped as the best.
    scores = np.asarray(scores, np.float64)
    ordered = np.where(np.isnan(scores).any(axis=axis, keepdims=True), np.nan, np.sort(scores, axis=axis))
    n = ordered.shape[axis]
    cut = n // 4
    return np.mean(np.take(ordered, np.arange(cut, n - cut), axis=axis), axis=axis)


def bootstrap_interval(
    scores: Any,
    statistic: Callable[..., Any] = interquartile_mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Any, Any]:
    """A percentile bootstrap confidence interval over seeds.

    Seeds, with their whole curves, are resampled with replacement; the interval is between the (1 - level) / 2 and the
    (1 + level) / 2 quantile of the statistic over the resamples.

    Args:
      scores: [S] or [S, T].
      statistic: (values, axis) -> the values without that axis.
      level: confidence level, in (0, 1).
      resamples: number of resamples, at least 1.
      seed: of the random numbers.
    Returns:
      low, high: [] or [T].
    """
    scores = np.asarray(scores, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(scores), (resamples, len(scores)))
    columns = scores.reshape(len(scores), -1).T
    # One column at a time: [resamples, S] numbers in memory, however long the curve.
    resampled = np.stack([statistic(column[draws], axis=1) for column in columns], axis=1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low.reshape(scores.shape[1:])[()], high.reshape(scores.shape[1:])[()]


def steps_to_threshold(steps: Sequence[int] | Any, scores: Any, threshold: float) -> list[int | None]:
    """The steps at which each seed's curve first reaches a threshold.

    Args:
      steps: [T] environment steps, ascending.
      scores: [S, T]; NaN counts as below.
      threshold: the score to reach.
    Returns:
      S entries, None where the threshold is never reached.
    """
    above = np.asarray(scores) >= threshold
    return [int(steps[int(np.argmax(row))]) if row.any() else None for row in above]


def median_steps(reached: Sequence[int | None]) -> float:
    """The median over seeds of the steps to a threshold; a seed that never reached it counts as infinite.

    Args:
      reached: as `steps_to_threshold` returns them.
    """
    return float(np.median([np.inf if step is None else step for step in reached]))


def probability_of_improvement(scores: Any, others: Any) -> float:
    """The probability that a score of one group is above one of another; ties count half (Agarwal et al. 2021).

        P(X > Y) + P(X = Y) / 2 = U / (n m),   U of Mann and Whitney

    Args:
      scores: [n] of the one.
      others: [m] of the other.
    Raises:
      ValueError: a group without scores.
    """
    from scipy.stats import mannwhitneyu

    scores, others = np.asarray(scores, np.float64), np.asarray(others, np.float64)
    if not scores.size or not others.size:
        raise ValueError("both groups must have scores")
    with np.errstate(all="ignore"):  # of the p-value, where all scores are the same
        found: Any = mannwhitneyu(scores, others, method="asymptotic")
    return float(found.statistic / (scores.size * others.size))
