"""What an agent is to learn: an environment, the agent's settings in it, and a data set where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from mbrl_jax.core.types import Env, HostEnv
from mbrl_jax.envs.registry import make_env, settle
from mbrl_jax.presets.builder import Preset, algorithm, preset, suited
from mbrl_jax.presets.offline import Data, check_use, given


class Task(NamedTuple):
    """An environment with all that a run takes from it."""

    name: str  # of the environment, as a run records it
    env: Any  # an `Env` or a `HostEnv`
    known: Preset  # the agent's settings where nothing is said of them
    data: Data | None = None  # rows that it learns from alone, or begins with

    @property
    def hosted(self) -> bool:
        """Whether the environment's steps are Python."""
        return isinstance(self.env, HostEnv)


def task(
    algo: str,
    env: str | Env | HostEnv | Callable[[], Env],
    env_args: Mapping[str, Any] | None = None,
    data: str = "",
    offline: bool = False,
    *,
    read: bool = True,
) -> Task:
    """What a run of an agent in an environment begins with.

    Args:
      algo: a name in `AGENTS`.
      env: a name, an environment, or a function that makes one.
      env_args: arguments of the environment that a name stands for.
      data: names a data set; "" for none.
      offline: whether it is all that an agent which could collect learns from.
      read: the data; without, only the settings mean something.
    Raises:
      ValueError: as `make_env`, `preset` and `data_for`.
    """
    asked = settle(env) if isinstance(env, str) else env if isinstance(env, HostEnv) else make_env(env)
    made: Any = make_env(asked, **(env_args or {})) if isinstance(asked, str) else asked
    found = data_for(algo, made, data, offline) if read else None
    rows = 0 if found is None or found.rows is None else found.rows.reward.shape[0]
    form = made if isinstance(made, HostEnv) or env_args else asked
    known = preset(algo, form, offline or algorithm(algo).offline, rows)
    return Task(asked if isinstance(asked, str) else made.spec.name, made, known, found)


def data_for(algo: str, env: Env | HostEnv, where: str, offline: bool, digest: str = "") -> Data | None:
    """The data set of a run; None where there is none.

    Args:
      algo: a name in `AGENTS`.
      env: the run's environment.
      where: names the data set; "" for none.
      offline: whether it is all that a run of an agent which could collect learns from.
      digest: of the data set that the run began with; "" where it begins now.
    Raises:
      ValueError: an agent without the data that it needs, or data that does not fit agent or environment.
    """
    entry, form = algorithm(algo), cast(Any, env)
    check_use(algo, where, offline)
    return given(where, offline or entry.offline, env.spec, suited(algo, form).spec, digest) if where else None


def of_data(data: Data | None) -> dict[str, Any]:
    """What a `Job` says of a run's data set.

    Args:
      data: the data set, or None.
    """
    return {} if data is None else {"data": data.file, "data_digest": data.digest, "offline": data.offline}
