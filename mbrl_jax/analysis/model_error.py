"""Errors of a model's open-loop predictions by the number of steps ahead, beside two predictions that need no model.

    persistence    nothing changes:   o_{t+h} = o_t
    linear         o' = o + W [1, o, a],  r = w [1, o, a],  by least squares; rolled out on its own predictions

All errors are in spreads: standard deviations of what really happened, of each entry. An error of 1 is that of
predicting the mean; entries that never change are left out. NumPy throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

STILL = 1e-6
"""Spread up to which an entry counts as one that never changes."""
QUANTILES = (0.1, 0.5, 0.9)


class Errors(NamedTuple):
    """Root mean square errors in spreads, by steps ahead; NaN where no start lasts so long."""

    names: tuple[str, ...]  # of the D entries that change
    starts: np.ndarray  # [H] starts that last so long
    rollouts: np.ndarray  # [H] of single rollouts, over entries
    mean: np.ndarray  # [H] of the mean of a start's rollouts
    entries: np.ndarray  # [H, D] of single rollouts, by entry
    members: np.ndarray  # [H, M] of the mean of a member's rollouts, over entries
    quantiles: np.ndarray  # [H, 3] `QUANTILES` over starts of the error of a start's rollouts
    baselines: dict[str, np.ndarray]  # name -> [H]


class Linear(NamedTuple):
    """A linear model of the change of an observation, and of the reward."""

    change: np.ndarray  # [1 + D + A, D]
    reward: np.ndarray  # [1 + D + A]


def spread(real: Any, alive: Any) -> np.ndarray:
    """Standard deviations [D] of what happened.

    Args:
      real: [N, H, D].
      alive: [N, H] bool: what counts.
    """
    real, alive = np.asarray(real, np.float64), np.asarray(alive, bool)
    return real[alive].std(axis=0) if alive.any() else np.zeros(real.shape[-1])


def horizon_errors(
    predicted: Any,
    real: Any,
    alive: Any,
    *,
    members: int = 1,
    names: Sequence[str] = (),
    scale: Any = None,
    baselines: dict[str, Any] | None = None,
) -> Errors:
    """Errors of open-loop predictions from N starts, by the number of steps ahead.

    Args:
      predicted: [N, R, H, D] R rollouts of each start, those of the first member first; R a multiple of `members`.
      real: [N, H, D] what happened.
      alive: [N, H] bool: False after the episode's end.
      members: M of the model.
      names: of the entries; "0", "1", ... by default.
      scale: [D] the spreads; those of `real` if None.
      baselines: name -> [N, H, D] predictions to compare with.
    Raises:
      ValueError: shapes that do not fit together.
    """
    predicted, real, alive = np.asarray(predicted, np.float64), np.asarray(real, np.float64), np.asarray(alive, bool)
    if predicted.ndim != 4 or predicted[:, 0].shape != real.shape or alive.shape != real.shape[:2]:
        shapes = f"{predicted.shape}, {real.shape} and {alive.shape}"
        raise ValueError(f"predicted, real and alive must be [N, R, H, D], [N, H, D] and [N, H], got {shapes}")
    if predicted.shape[1] % members:
        raise ValueError(f"members must divide the {predicted.shape[1]} rollouts, got {members}")
    scale = spread(real, alive) if scale is None else np.asarray(scale, np.float64)
    moves = scale > STILL
    shown = tuple(names) if names else tuple(str(i) for i in range(real.shape[-1]))
    off = (predicted - real[:, None])[..., moves] / scale[moves]
    grouped = off.reshape(len(off), members, -1, *off.shape[2:]).mean(axis=2)  # [N, M, H, D]
    of_start = np.sqrt(np.mean(np.square(off), axis=(1, 3))) if moves.any() else np.full(alive.shape, np.nan)
    return Errors(
        tuple(name for name, changes in zip(shown, moves, strict=True) if changes),
        alive.sum(axis=0),
        _root(np.mean(np.square(off), axis=(1, 3)), alive),
        _root(np.mean(np.square(off.mean(axis=1)), axis=2), alive),
        _root(np.mean(np.square(off), axis=1), alive),
        _root(np.mean(np.square(grouped), axis=3).swapaxes(1, 2), alive),
        _quantiles(of_start, alive),
        {
            name: _root(np.mean(np.square((np.asarray(guess) - real)[..., moves] / scale[moves]), axis=2), alive)
            for name, guess in (baselines or {}).items()
        },
    )


def _root(squares: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Roots of the means [H, ...] over the starts that last so long."""
    count = alive.sum(axis=0).astype(np.float64).reshape(-1, *[1] * (squares.ndim - 2))
    kept = np.where(alive.reshape(*alive.shape, *[1] * (squares.ndim - 2)), squares, 0.0)
    return np.sqrt(np.divide(kept.sum(axis=0), count, out=np.full(kept.shape[1:], np.nan), where=count > 0))


def _quantiles(of_start: np.ndarray, alive: np.ndarray) -> np.ndarray:
    rows = [
        np.quantile(of_start[alive[:, h], h], QUANTILES) if alive[:, h].any() else [np.nan] * 3
        for h in range(alive.shape[1])
    ]
    return np.asarray(rows, np.float64)


# Predictions that need no model --------------------------------------------------------------------------------------


def persistence(first: Any, horizon: int) -> np.ndarray:
    """The prediction that nothing changes, [N, H, D], from first observations [N, D]."""
    first = np.asarray(first, np.float64)
    return np.repeat(first[:, None], horizon, axis=1)


def fit_linear(obs: Any, action: Any, reward: Any, next_obs: Any) -> Linear:
    """The linear model with least squares of observations and rewards, of least norm where several are.

    Args:
      obs, next_obs: [B, D].
      action: [B, A]; one-hot where actions are discrete.
      reward: [B].
    Raises:
      ValueError: no rows.
    """
    x = _features(obs, action)
    if not len(x):
        raise ValueError("a linear model needs at least one row")
    change = np.asarray(next_obs, np.float64) - np.asarray(obs, np.float64)
    found = np.linalg.lstsq(x, np.column_stack([change, np.asarray(reward, np.float64)]), rcond=None)[0]
    return Linear(found[:, :-1], found[:, -1])


def roll_linear(model: Linear, first: Any, actions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Open-loop predictions of a linear model.

    Args:
      model: from `fit_linear`.
      first: [N, D] observations.
      actions: [N, H, A].
    Returns:
      observations [N, H, D] and rewards [N, H]; those of a model that grows without bound are cut off at ±1e12.
    """
    at, actions = np.asarray(first, np.float64), np.asarray(actions, np.float64)
    seen, rewards = [], []
    for h in range(actions.shape[1]):
        x = _features(at, actions[:, h])
        rewards.append(np.clip(x @ model.reward, -1e12, 1e12))
        at = np.clip(at + x @ model.change, -1e12, 1e12)
        seen.append(at)
    return np.stack(seen, axis=1), np.stack(rewards, axis=1)


def _features(obs: Any, action: Any) -> np.ndarray:
    obs, action = np.asarray(obs, np.float64), np.asarray(action, np.float64)
    return np.concatenate([np.ones((len(obs), 1)), obs, action.reshape(len(obs), -1)], axis=1)


# Tables --------------------------------------------------------------------------------------------------------------


def rows(errors: dict[str, Errors]) -> list[tuple[str, int, str, float]]:
    """Rows (kind, steps ahead, what, error) of a table; what is left out where no start lasts so long.

    Args:
      errors: of each kind of prediction: "observation", "reward", ...
    """
    found: list[tuple[str, int, str, float]] = []
    for kind, one in errors.items():
        columns: dict[str, np.ndarray] = {
            "starts": one.starts.astype(float),
            "rollouts": one.rollouts,
            "mean": one.mean,
        }
        columns |= {f"q{100 * q:.0f}": one.quantiles[:, i] for i, q in enumerate(QUANTILES)}
        columns |= one.baselines
        columns |= {f"entry {name}": one.entries[:, i] for i, name in enumerate(one.names)}
        if one.members.shape[1] > 1:
            columns |= {f"member {i}": one.members[:, i] for i in range(one.members.shape[1])}
        for what, values in columns.items():
            found += [(kind, h + 1, what, float(value)) for h, value in enumerate(values) if np.isfinite(value)]
    return found
