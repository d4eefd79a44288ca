"""Data sets of recorded steps: what they hold, what is checked, and how they are kept in NumPy's npz files.

A data set is N steps in the order in which they were taken, with these arrays:

    obs         [N, ...]  o, before the step
    action      [N, ...]  a, in the environment's action space: [-1, 1] where actions are continuous
    reward      [N]       r
    terminated  [N] bool  whether the step ends the episode for good: no value follows. Or `discount` [N], 0 or 1
    truncated   [N] bool  whether the episode is cut off after the step, by a time limit say. Or `last` [N] bool, an
                          end of either kind
    next_obs    [N, ...]  o', the true successor, also at the end of an episode

A file holds them by name, and `about`, text in JSON: how the data set was made.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Transition

FIELDS = ("obs", "action", "reward", "terminated", "truncated", "next_obs")
INSTEAD = {"terminated": "discount", "truncated": "last"}
"""Fields that may stand for others."""


class Dataset(NamedTuple):
    """N recorded steps, as NumPy arrays."""

    obs: Any  # [N, ...]
    action: Any  # [N, ...]
    reward: Any  # [N] float32
    terminated: Any  # [N] bool
    truncated: Any  # [N] bool
    next_obs: Any  # [N, ...]
    about: dict[str, Any] = {}  # noqa: RUF012, how it was made; never written to

    @property
    def rows(self) -> int:
        """N."""
        return self.reward.shape[0]


def checked(arrays: Mapping[str, Any], where: str = "data", about: Mapping[str, Any] | None = None) -> Dataset:
    """A data set of arrays by name, once everything about them has been checked.

    Args:
      arrays: the fields, `discount` and `last` in place of `terminated` and `truncated` if need be; others are ignored.
      where: begins every message: the file's name.
      about: how it was made.
    Returns:
      the data set; numbers are float32, int32, bool or uint8.
    Raises:
      ValueError: a field that is missing, of another length or kind, not finite, or at odds with another; no rows.
    """
    found = {name: np.asarray(arrays[name]) for name in (*FIELDS, *INSTEAD.values()) if name in arrays}
    for name in FIELDS:
        if name not in found and INSTEAD.get(name) not in found:
            also = f" (or {INSTEAD[name]})" if name in INSTEAD else ""
            raise ValueError(f"{where}: {name}{also} is missing; a data set has {', '.join(FIELDS)}")
    rows = found["reward"].shape[0] if found["reward"].ndim else 0
    for name, array in found.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{where}: {name} must hold numbers, got {array.dtype}")
        if array.ndim < 1 or array.shape[0] != rows:
            raise ValueError(f"{where}: {name} must have the {rows} rows of reward, got shape {list(array.shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array.reshape(rows, -1)).all(1))[0, 0])
            raise ValueError(f"{where}: {name} must be finite, got {array[row]} in row {row}")
    if rows == 0:
        raise ValueError(f"{where}: a data set needs at least one row, got none")
    for name in ("reward", *INSTEAD, *INSTEAD.values()):
        if name in found and found[name].ndim != 1:
            raise ValueError(f"{where}: {name} must be of shape [{rows}], got {list(found[name].shape)}")
    if found["obs"].shape != found["next_obs"].shape:
        shapes = f"{list(found['obs'].shape)} and {list(found['next_obs'].shape)}"
        raise ValueError(f"{where}: obs and next_obs must be of one shape, got {shapes}")
    terminated = found["terminated"] if "terminated" in found else 1 - _binary(found["discount"], "discount", where)
    terminated = _binary(terminated, "terminated", where).astype(bool)
    if "truncated" in found:
        truncated = _binary(found["truncated"], "truncated", where).astype(bool)
    else:
        last = _binary(found["last"], "last", where).astype(bool)
        if (terminated & ~last).any():
            row = int(np.argmax(terminated & ~last))
            raise ValueError(f"{where}: last must be true where the step terminates, got false in row {row}")
        truncated = last & ~terminated
    obs, action, next_obs = (_narrow(found[name]) for name in ("obs", "action", "next_obs"))
    reward = found["reward"].astype(np.float32)
    return Dataset(obs, action, reward, terminated, truncated, next_obs, dict(about or {}))


def _binary(array: np.ndarray, name: str, where: str) -> np.ndarray:
    """The array as int32, once all its entries are 0 or 1."""
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{where}: {name} must be 0 or 1, got {array[row]} in row {row}")
    return array.astype(np.int32)


def _narrow(array: np.ndarray) -> np.ndarray:
    """The array in one of the dtypes that the library computes with."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return array if array.dtype in (np.bool_, np.uint8) else array.astype(np.int32)


def load(path: Path | str) -> Dataset:
    """Reads a data set from an npz file.

    Args:
      path: of the file.
    Raises:
      ValueError: there is no such file, it is no npz file, or its arrays are not those of a data set.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data: there is no file {path}")
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with found as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an npz file of plain arrays: {' '.join(str(error).split())[:100]}") from error
    about = arrays.pop("about", None)
    return checked(arrays, str(path), {} if about is None else _about(str(about), path))


def _about(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: about must be JSON, got {text[:40]!r}") from error
    return found if isinstance(found, dict) else {"about": found}


def save(path: Path | str, data: Dataset) -> None:
    """Writes a data set to an npz file, compressed; the file appears when it is complete.

    Args:
      path: of the file, ending in ".npz".
      data: what to write.
    Raises:
      ValueError: another ending, or no such folder.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"out must end in .npz, got {path}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"out: there is no folder {path.parent}")
    file = io.BytesIO()
    arrays = {name: getattr(data, name) for name in FIELDS}
    np.savez_compressed(file, about=np.array(json.dumps(data.about)), **arrays)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_bytes(file.getvalue())
    os.replace(half, path)


def digest(data: Dataset) -> str:
    """A checksum of all arrays of a data set, 32 hexadecimal digits; `about` does not count."""
    whole = hashlib.blake2b(digest_size=16)
    for name in FIELDS:
        array = np.ascontiguousarray(getattr(data, name))
        whole.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return whole.hexdigest()


def concatenate(parts: Sequence[Dataset], about: Mapping[str, Any] | None = None) -> Dataset:
    """Several data sets of one environment, one after the other.

    The last row of each part is marked as truncated unless it terminates, so that no episode goes on in the next part.

    Args:
      parts: at least one, with observations and actions of one shape.
      about: how the whole was made.
    Raises:
      ValueError: no parts, or parts of different shapes.
    """
    if not parts:
        raise ValueError("parts must hold at least one data set, got none")
    shapes = [(part.obs.shape[1:], part.action.shape[1:]) for part in parts]
    if len(set(shapes)) > 1:
        raise ValueError(f"parts must have observations and actions of one shape, got {shapes}")
    cut = [part._replace(truncated=_cut(part)) for part in parts]
    arrays = {name: np.concatenate([getattr(part, name) for part in cut]) for name in FIELDS}
    return Dataset(**arrays, about=dict(about or {}))


def _cut(data: Dataset) -> np.ndarray:
    """`truncated`, with the last row's set unless it terminates."""
    truncated = data.truncated.copy()
    truncated[-1] = ~data.terminated[-1]
    return truncated


def episodes(data: Dataset) -> list[slice]:
    """The rows of each episode: one ends where it says so, or where the next row begins at another observation.

    Observations that differ by rounding are the same: a compiled program may compute one twice.
    """
    same = np.isclose(data.next_obs[:-1], data.obs[1:], rtol=1e-4, atol=1e-5)
    goes_on = same.reshape(data.rows - 1, -1).all(1)
    ends = np.append((data.terminated | data.truncated)[:-1] | ~goes_on, True)
    stops = (np.flatnonzero(ends) + 1).tolist()
    return [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def returns(data: Dataset) -> np.ndarray:
    """The undiscounted return of each complete episode, [E]; one that is cut off without `truncated` is left out."""
    ended = data.terminated | data.truncated
    return np.array([data.reward[rows].sum() for rows in episodes(data) if ended[rows.stop - 1]], np.float32)


def transitions(data: Dataset) -> Transition:
    """A data set as the rows [N, ...] that agents learn from."""
    last = data.terminated | data.truncated
    discount = 1 - data.terminated.astype(np.float32)
    return Transition(*map(jnp.asarray, (data.obs, data.action, data.reward, discount, data.next_obs, last)))
