"""Data sets as runs take them: read, held against the environment, and put into the buffer that a run learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.buffers import datasets
from mbrl_jax.buffers.datasets import Dataset
from mbrl_jax.core.types import Box, DictSpace, Discrete, Spec, Transition
from mbrl_jax.presets.loops import OFFLINE
from mbrl_jax.presets.registry import AGENTS
from mbrl_jax.presets.seen import as_seen
from mbrl_jax.train.loop import LoopConfig

MINARI = "minari:"
"""What the names of Minari's data sets begin with."""

ROUNDING = 1e-5
"""How far an action may lie outside its bounds; it is clipped."""


class Data(NamedTuple):
    """What a run learns from besides its own steps."""

    rows: Transition | None  # [N, ...] in the form that the agent takes; None where only shapes matter
    offline: bool  # whether they are all it learns from
    file: str = ""  # path, made absolute, or "minari:ID"
    digest: str = ""  # of the data set
    about: dict[str, Any] = {}  # noqa: RUF012, how it was made; never written to


def read(where: str) -> Dataset:
    """A data set by name.

    Args:
      where: path of an npz file, or "minari:ID".
    Raises:
      ValueError: there is none, or it is of another form.
    """
    if where.startswith(MINARI):
        from mbrl_jax.buffers.minari import from_minari

        return from_minari(where.removeprefix(MINARI))
    return datasets.load(where)


def check_use(algo: str, where: str, offline: bool) -> None:
    """Refuses an agent without the data set that it learns from, and one that cannot learn from any.

    Args:
      algo: a name in `AGENTS`.
      where: names the data set; "" for none.
      offline: whether the run is to learn from it alone.
    Raises:
      ValueError: names the flag.
    """
    entry = AGENTS[algo]
    if not where:
        if entry.offline:
            raise ValueError(f"data must name a data set for {algo}, which learns from one, FILE.npz or minari:ID")
        if offline:
            raise ValueError("offline must come with data, the data set to learn from")
        return
    if entry.replay != "transitions" or entry.simulator:
        able = ", ".join(name for name, other in AGENTS.items() if other.replay == "transitions")
        raise ValueError(f"data must be empty for {algo}, which does not learn from single transitions; {able} do")


def rows_for(data: Dataset, raw: Spec, spec: Spec, where: str = "data") -> Transition:
    """The rows of a data set in the form that an agent takes.

    Args:
      data: the data set.
      raw: of the environment by its name.
      spec: of the environment in the agent's form; rows may be in either.
      where: names the data set in messages.
    Returns:
      [N, ...] transitions.
    Raises:
      ValueError: observations or actions are not the environment's; the message names field and row.
    """
    if isinstance(raw.obs, DictSpace) or isinstance(spec.obs, DictSpace):
        raise ValueError(f"{where}: data sets hold observations that are one array, those of {raw.name} are a dict")
    for name in ("obs", "next_obs"):
        array = getattr(data, name)
        if array.shape[1:] not in (raw.obs.shape, spec.obs.shape):
            shapes = dict.fromkeys(str([data.rows, *space.shape]) for space in (raw.obs, spec.obs))
            raise ValueError(
                f"{where}: {name} must be of shape {' or '.join(shapes)} for {raw.name}, got {list(array.shape)}"
            )
        if isinstance(raw.obs, Discrete) and array.ndim == 1:
            _need(where, name, array, (array >= 0) & (array < raw.obs.n), f"from 0 to {raw.obs.n - 1}", raw.name)
    if not spec.terminates and data.terminated.any():
        row = int(np.argmax(data.terminated))
        raise ValueError(
            f"{where}: terminated must be false in {raw.name}, which never terminates, got true in row {row}"
        )
    action = _actions(data.action, spec, where)
    form = jax.vmap(lambda obs: as_seen(obs, raw.obs, spec.obs))
    rows = datasets.transitions(data)
    return rows._replace(obs=form(rows.obs), next_obs=form(rows.next_obs), action=jnp.asarray(action))


def _actions(action: np.ndarray, spec: Spec, where: str) -> np.ndarray:
    """The actions in the dtype of the action space, once they lie in it."""
    space, count = spec.action, action.shape[0]
    if action.shape[1:] != space.shape:
        shape = [count, *space.shape]
        raise ValueError(f"{where}: action must be of shape {shape} for {spec.name}, got {list(action.shape)}")
    if isinstance(space, Box):
        low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
        inside = np.asarray((action >= low - ROUNDING) & (action <= high + ROUNDING))
        fits: np.ndarray = np.all(inside.reshape(count, -1), axis=1)
        _need(where, "action", action, fits, f"from {space.low} to {space.high}", spec.name)
        return np.clip(action, low, high).astype(space.dtype)
    most = np.asarray([space.n] if isinstance(space, Discrete) else space.nvec)
    each = action.reshape(count, -1)
    fits = np.all((each >= 0) & (each < most) & (each == np.floor(each)), axis=1)
    _need(where, "action", action, fits, f"whole numbers from 0 to {(most - 1).tolist()}", spec.name)
    return action.astype(space.dtype)


def _need(where: str, name: str, array: np.ndarray, fits: np.ndarray, what: str, env: str) -> None:
    if not fits.all():
        row = int(np.argmin(fits))
        raise ValueError(f"{where}: {name} must be {what} in {env}, got {array[row]} in row {row}")


def given(where: str, offline: bool, raw: Spec, spec: Spec, digest: str = "") -> Data:
    """A data set, read and held against an environment.

    Args:
      where: as for `read`.
      offline: whether a run is to learn from it alone.
      raw, spec: as for `rows_for`.
      digest: that it must have; "" for any.
    Raises:
      ValueError: as `read` and `rows_for`, or it is not the one that a run began with.
    """
    data = read(where)
    found = datasets.digest(data)
    if digest and found != digest:
        raise ValueError(f"data: {where} is not what it was when the run began: another data set, or a changed one")
    file = where if where.startswith(MINARI) else str(Path(where).absolute())
    return Data(rows_for(data, raw, spec, where), offline, file, found, data.about)


def check_loop(loop: LoopConfig) -> None:
    """Refuses settings of the loop that have no meaning where nothing is collected.

    Args:
      loop: of an offline run.
    Raises:
      ValueError: names the setting.
    """
    for name in ("num_envs", "unroll", "updates", "warmup", "hold", "overlap", "capacity"):
        got, value = getattr(loop, name), OFFLINE[name]
        if got != value:
            raise ValueError(f"loop.{name} must be {value} in an offline run, which collects no rows, got {got}")


def check_agent(agent: Any) -> None:
    """Refuses exploration where nothing is collected.

    Args:
      agent: configuration of an offline run's agent.
    Raises:
      ValueError: names the setting.
    """
    explorer = getattr(agent, "explorer", "none")
    if explorer != "none":
        raise ValueError(f"agent.explorer must be none in an offline run, which collects no rows, got {explorer}")


def placeholder(spec: Spec) -> Transition:
    """One row of zeros, where only the shapes of a run matter.

    Args:
      spec: in the agent's form.
    """
    zero = jnp.zeros((1,), jnp.float32)
    obs: Any = jnp.zeros((1, *spec.obs.shape), spec.obs.dtype)
    action = jnp.zeros((1, *spec.action.shape), spec.action.dtype)
    return Transition(obs, action, zero, zero, obs, jnp.zeros((1,), bool))
