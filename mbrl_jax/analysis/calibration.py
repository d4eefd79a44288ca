"""Whether a model's predicted distributions are right: coverage, sharpness and log-likelihood.

    u = F(y)             the probability integral transform: uniform where the prediction F is calibrated
    coverage(c)          share of outcomes in the central interval of level c, |u - 1/2| <= c/2;  c where calibrated
    sharpness            mean predicted standard deviation, in spreads of what happened: the narrower, the more is said
    NLL                  -log p(y), nats per entry: rewards both

Forecasts should be as sharp as calibration allows (Gneiting, Balabdaoui & Raftery 2007). NumPy throughout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LEVELS = np.linspace(0.1, 0.9, 9)


class Calibration(NamedTuple):
    """How well predicted distributions cover what happened."""

    levels: Any  # [L] of central intervals, in [0, 1]
    coverage: Any  # [L] share of entries inside them; equal to `levels` where the model is calibrated
    rows: int
    entries: Any = None  # [L, D] the same, by entry
    sharpness: float | None = None  # mean predicted standard deviation, in spreads
    error: float | None = None  # root mean square error of the predicted mean, in spreads
    nll: float | None = None  # nats per entry, of entries in spreads; None where there is no density


def mixture_transform(mean: Any, std: Any, real: Any) -> np.ndarray:
    """The probability integral transform [N, D] of mixtures of M normal distributions, entry by entry.

    Args:
      mean, std: [N, M, D] of the members, which count alike; a std of 0 is a step.
      real: [N, D] what happened.
    """
    from scipy.special import ndtr

    mean, std, real = (np.asarray(x, np.float64) for x in (mean, std, real))
    off = real[:, None] - mean
    point = (off > 0) + 0.5 * (off == 0)
    return np.mean(np.where(std > 0, ndtr(off / np.where(std > 0, std, 1.0)), point), axis=1)


def sample_transform(drawn: Any, real: Any) -> np.ndarray:
    """The probability integral transform [N, D] by rank among K samples; ties count half.

    Args:
      drawn: [N, K, D] predictions.
      real: [N, D] what happened.
    """
    drawn, real = np.asarray(drawn, np.float64), np.asarray(real, np.float64)[:, None]
    return np.mean(drawn < real, axis=1) + 0.5 * np.mean(drawn == real, axis=1)


def coverage(transform: Any, levels: Any = LEVELS) -> np.ndarray:
    """The share of outcomes in central intervals, by level and entry, [L, D].

    Args:
      transform: [N, D] probability integral transforms.
      levels: [L] in [0, 1].
    """
    distance = np.abs(np.asarray(transform, np.float64) - 0.5)
    return np.array([np.mean(distance <= level / 2, axis=0) for level in levels])


def mixture_nll(mean: Any, std: Any, real: Any) -> np.ndarray:
    """-log of the density of mixtures of M diagonal normal distributions at what happened, [N] nats.

    Args:
      mean, std: [N, M, D] of the members, which count alike; std above 0.
      real: [N, D].
    """
    from scipy.special import logsumexp

    mean, std, real = (np.asarray(x, np.float64) for x in (mean, std, real))
    z = (real[:, None] - mean) / std
    log_density = np.sum(-0.5 * np.square(z) - np.log(std) - 0.5 * np.log(2 * np.pi), axis=2)
    return -logsumexp(log_density, axis=1, b=1.0 / mean.shape[1])


def of_moments(mean: Any, std: Any, real: Any, levels: Any = LEVELS) -> Calibration:
    """Calibration of mixtures of normal distributions.

    Args:
      mean, std: [N, M, D] of the members.
      real: [N, D] what happened; entries that never change are left out.
      levels: [L] in [0, 1].
    Returns:
      the calibration; without `nll` where a standard deviation is 0.
    Raises:
      ValueError: no entry changes.
    """
    mean, std, real = _in_spreads(real, mean, std)
    shares = coverage(mixture_transform(mean, std, real), levels)
    whole = np.sqrt(np.mean(np.square(std), axis=1) + np.var(mean, axis=1))
    nll = float(np.mean(mixture_nll(mean, std, real)) / real.shape[1]) if np.all(std > 0) else None
    error = float(np.sqrt(np.mean(np.square(mean.mean(axis=1) - real))))
    return Calibration(levels, shares.mean(axis=1), len(real), shares, float(whole.mean()), error, nll)


def of_samples(drawn: Any, real: Any, levels: Any = LEVELS) -> Calibration:
    """Calibration of predictions that can only be sampled; there is no log-likelihood.

    Args:
      drawn: [N, K, D] predictions of each row.
      real: [N, D] what happened; entries that never change are left out.
      levels: [L] in [0, 1].
    Raises:
      ValueError: no entry changes.
    """
    drawn, _, real = _in_spreads(real, drawn, np.zeros_like(drawn))
    shares = coverage(sample_transform(drawn, real), levels)
    error = float(np.sqrt(np.mean(np.square(drawn.mean(axis=1) - real))))
    sharpness = float(drawn.std(axis=1).mean())
    return Calibration(levels, shares.mean(axis=1), len(real), shares, sharpness, error)


def _in_spreads(real: Any, mean: Any, std: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, std and what happened in spreads, without entries that never change."""
    from mbrl_jax.analysis.model_error import STILL

    mean, std, real = (np.asarray(x, np.float64) for x in (mean, std, real))
    scale = real.std(axis=0)
    moves = scale > STILL
    if not moves.any():
        raise ValueError("calibration needs an entry that changes, got none")
    return mean[..., moves] / scale[moves], std[..., moves] / scale[moves], real[:, moves] / scale[moves]


def variance_bins(std: Any, error: Any, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Mean predicted standard deviation and root mean square error in bins of equal size, from narrow to wide.

    Args:
      std: [N] predicted standard deviations.
      error: [N] errors of the predicted means.
      bins: B.
    Returns:
      std [B] and error [B]; equal where predicted variances are right.
    """
    std, error = np.ravel(np.asarray(std, np.float64)), np.ravel(np.asarray(error, np.float64))
    parts = np.array_split(np.argsort(std, kind="stable"), min(bins, len(std)))
    return np.array([std[i].mean() for i in parts]), np.array([np.sqrt(np.mean(np.square(error[i]))) for i in parts])
