"""Data sets of Minari, Farama's library and format of offline data: read and written. The one file that knows it.

Continuous actions are scaled from the bounds of Minari's action space to [-1, 1], which is what the library's
environments take; what is written here has these bounds already. Needs the extra `minari`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mbrl_jax.buffers import datasets
from mbrl_jax.buffers.datasets import Dataset
from mbrl_jax.core.types import Box, Discrete, Spec


def from_minari(name: str) -> Dataset:
    """Reads one of Minari's data sets from its folder on this machine; nothing is downloaded.

    Args:
      name: its id, "pendulum/expert-v0".
    Raises:
      ValueError: Minari is not installed, it has no such data set, or one of observations or actions that are no plain
        arrays.
    """
    minari, where = _minari(), f"minari:{name}"
    try:
        found = minari.load_dataset(name, download=False)
    except (ValueError, FileNotFoundError, OSError) as error:
        have = ", ".join(sorted(minari.list_local_datasets())) or "none"
        raise ValueError(
            f"data: {where} is not on this machine, which has {have}; minari download NAME fetches one"
        ) from error
    parts: dict[str, list[Any]] = {field: [] for field in datasets.FIELDS}
    for episode in found.iterate_episodes():
        if isinstance(episode.observations, dict | tuple) or isinstance(episode.actions, dict | tuple):
            raise ValueError(f"{where}: observations and actions must be one array each, got dicts or tuples of them")
        observations = np.asarray(episode.observations)
        parts["obs"].append(observations[:-1])
        parts["next_obs"].append(observations[1:])
        parts["action"].append(_unit(np.asarray(episode.actions), found.action_space, where))
        parts["reward"].append(np.asarray(episode.rewards))
        parts["terminated"].append(np.asarray(episode.terminations))
        parts["truncated"].append(np.asarray(episode.truncations))
    if not parts["reward"]:
        raise ValueError(f"{where}: a data set needs at least one row, got none")
    about = _about(found.storage.metadata.get("description"))
    return datasets.checked({field: np.concatenate(arrays) for field, arrays in parts.items()}, where, about)


def to_minari(data: Dataset, name: str, spec: Spec) -> None:
    """Writes a data set as one of Minari's, to its folder on this machine.

    Args:
      data: the data set; where an episode's rows stop without an end, Minari's episode ends truncated.
      name: the id, ending in a version: "pendulum/expert-v0".
      spec: of the environment, with one array as observation.
    Raises:
      ValueError: Minari is not installed, has a data set of this name, or takes no such name.
    """
    minari = _minari()
    if name in minari.list_local_datasets():
        raise ValueError(f"out: minari:{name} is there already; choose another version")
    buffers = []
    for i, rows in enumerate(datasets.episodes(data)):
        truncated = data.truncated[rows].copy()
        truncated[-1] = truncated[-1] or not data.terminated[rows][-1]
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=i,
                observations=np.concatenate([data.obs[rows], data.next_obs[rows][-1:]]),
                actions=data.action[rows],
                rewards=data.reward[rows].astype(np.float64),
                terminations=data.terminated[rows],
                truncations=truncated,
                infos=None,
            )
        )
    try:
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=_space(spec.obs), action_space=_space(spec.action),
            description=json.dumps(data.about), algorithm_name=str(data.about.get("algo", "")),
            author="mbrl_jax", author_email="", code_permalink="",
        )  # fmt: skip
    except (ValueError, AttributeError) as error:
        raise ValueError(f"out: minari:{name}: {' '.join(str(error).split())[:200]}") from error


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise ValueError('minari: data sets need the extra: pip install "mbrl_jax[minari]"') from error
    return minari


def _unit(action: np.ndarray, space: Any, where: str) -> np.ndarray:
    """Continuous actions scaled to [-1, 1]; others as they are, numbered from 0."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        return action - getattr(space, "start", 0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"{where}: actions must have finite bounds, got {space}")
    if np.all(low == -1) and np.all(high == 1):
        return action
    return (2 * (action - low) / (high - low) - 1).astype(np.float32)


def _space(space: Any) -> Any:
    from gymnasium import spaces

    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, Box):
        low, high = (np.broadcast_to(np.asarray(bound, space.dtype), space.shape) for bound in (space.low, space.high))
        return spaces.Box(low, high, space.shape, np.dtype(space.dtype).type)
    return spaces.MultiDiscrete(list(space.nvec))


def _about(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"description": text}
    return found if isinstance(found, dict) else {"description": text}
