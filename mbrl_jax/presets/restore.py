"""A finished or stopped run, taken up again to look at what it has learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mbrl_jax import __version__
from mbrl_jax.core import tree
from mbrl_jax.core.config import flat, replace
from mbrl_jax.core.types import Agent, Key
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets import builder
from mbrl_jax.presets.offline import Data
from mbrl_jax.presets.registry import AGENTS, import_agents
from mbrl_jax.train import checkpoint
from mbrl_jax.train.host import HostDriver, HostLoop
from mbrl_jax.train.loop import Loop, LoopConfig, env_steps
from mbrl_jax.train.offline import OfflineHostLoop
from mbrl_jax.train.run import Job, seed_keys
from mbrl_jax.train.run_files import read_json


class Loaded(NamedTuple):
    """A run's settings, and one of its seeds at the newest checkpoint."""

    algo: str
    name: str  # of the environment
    config: Any  # of the agent
    agent: Agent
    env: Any  # as the agent sees it: an `Env`, or a `HostEnv`
    state: Any  # `LoopState`, or `HostState`
    chunk: int  # that are complete; the state may be of the midst of the next one
    evaluation: Any  # what it is evaluated in, as the agent sees it
    env_steps: int  # of each seed, until the last complete chunk
    raw: Any = None  # the environment by its name, before it takes the agent's form
    checkpoint: str = ""  # by the name of its folder
    loop: LoopConfig = LoopConfig()


def load_run(folder: Path | str, seed: int = 0, checkpoint_name: str | int | None = None) -> Loaded:
    """Reads a run's settings and a checkpoint.

    Args:
      folder: of a run.
      seed: which of its seeds, counted from 0.
      checkpoint_name: of a kept checkpoint, as its folder is called: `12`, or "12.300"; None for the newest.
    Returns:
      the settings, and the seed's state.
    Raises:
      ValueError: there is no run in the folder, one of a version with other settings, no checkpoint, or no such seed.
    """
    return next(load_seeds(folder, [seed], checkpoint_name))


def load_seeds(
    folder: Path | str, seeds: Sequence[int] | None = None, checkpoint_name: str | int | None = None
) -> Iterator[Loaded]:
    """Reads a run's settings and a checkpoint once, for several of its seeds.

    Args:
      folder: of a run.
      seeds: which of its seeds, counted from 0; all if None.
      checkpoint_name: as for `load_run`.
    Returns:
      what `load_run` gives for each of them, one after the other.
    Raises:
      ValueError: as `load_run`.
    """
    folder = Path(folder)
    saved = saved_settings(folder)
    algo, name = saved["algo"], saved["env"]
    chosen = range(saved["seeds"]) if seeds is None else seeds
    for seed in chosen:
        if not 0 <= seed < saved["seeds"]:
            raise ValueError(f"seed must be from 0 to {saved['seeds'] - 1}, which {folder} holds, got {seed}")
    place = _chosen_place(folder, checkpoint_name)
    config, loop_cfg = saved_configs(folder, saved)
    made = make_env(name, **saved.get("env_args", {}))
    # The rows of a data set are no part of what is saved.
    data = Data(None, saved.get("offline", False)) if saved.get("data") else None
    loop: Any = builder.build(algo, made, config, loop_cfg, data=data)
    if isinstance(loop, OfflineHostLoop):
        loop = loop.loop
    keys = seed_keys(saved["seed"], saved["seeds"])
    like = HostDriver(loop, keys).shapes().state if isinstance(loop, HostLoop) else _shapes(loop, keys)
    states = checkpoint.restore(folder / "checkpoints", place, like)
    agent, env = builder.learner(algo, made, config)
    evaluation = builder.evaluation_env(algo, made)
    steps = env_steps(loop_cfg, place.chunk)
    for seed in chosen:
        state = jax.tree.map(lambda leaf, row=seed: leaf[row], states)
        yield Loaded(algo, name, config, agent, env, state, place.chunk, evaluation, steps, made, place.name, loop_cfg)


def _shapes(loop: Loop, keys: Key) -> Any:
    """The shapes of the state of all seeds, without a trace of the warm-up where the loop tells it apart."""
    warm_up = loop.warm_up
    start = None if warm_up is None or warm_up.whole is not loop.init else warm_up.start
    one = jax.eval_shape(lambda key: tree.strip_weak_types((start or loop.init)(key)), keys[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(keys), *leaf.shape), leaf.dtype), one)


def import_agent(saved: dict[str, Any]) -> None:
    """Imports the module of a run's agent, where it is a reader's own and not there yet.

    Args:
      saved: as `saved_settings` gives it.
    Raises:
      ValueError: there is no such module.
    """
    if saved.get("agent_module") is not None and saved["algo"] not in AGENTS:
        import_agents(saved["agent_module"])


def saved_configs(folder: Path, saved: dict[str, Any]) -> tuple[Any, LoopConfig]:
    """The settings of agent and loop of a run; the module of a reader's own agent is imported.

    Args:
      folder: of the run.
      saved: as `saved_settings` gives it.
    Raises:
      ValueError: a setting that this version does not know, or an agent that is not there.
    """
    import_agent(saved)
    entry, file = builder.algorithm(saved["algo"]), folder / "config.json"
    config = replace(entry.config(), _known(saved["agent"], entry.config(), "agent.", file))
    return config, replace(LoopConfig(), _known(saved["loop"], LoopConfig(), "loop.", file))


def _chosen_place(folder: Path, name: str | int | None) -> checkpoint.Place:
    found = checkpoint.places(folder / "checkpoints")
    if not found:
        raise ValueError(f"{folder} has no checkpoint; runs keep theirs in {folder / 'checkpoints'}")
    if name is None:
        return found[-1]
    names = {place.name: place for place in found}
    if str(name) not in names:
        raise ValueError(f"checkpoint must be one of {', '.join(names)}, which {folder} holds, got {str(name)!r}")
    return names[str(name)]


KINDS: dict[str, Any] = {"algo": str, "env": str, "seed": int, "seeds": int, "steps": int, "agent": dict, "loop": dict}
"""What `config.json` must hold, with the types in it."""


def saved_settings(folder: Path | str) -> dict[str, Any]:
    """The settings in a run's `config.json`.

    Args:
      folder: of a run.
    Raises:
      ValueError: there is no run in the folder, or its `config.json` is of another form.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(f"no run in {folder} (no config.json)")
    saved = read_json(path)
    for name, kind in KINDS.items():
        if type(saved.get(name)) is not kind:
            what = {str: "text", int: "a whole number", dict: "an object"}[kind]
            raise ValueError(f"{path}: {name} must be {what}, got {_shown(saved.get(name))}")
    if not 0 < saved["seeds"] <= 2**32 - saved["seed"] <= 2**32:
        raise ValueError(f"{path}: there cannot be {saved['seeds']} seeds from {saved['seed']} on")
    if not isinstance(saved.get("agent_module"), str | None):
        raise ValueError(f"{path}: agent_module must be text, got {_shown(saved['agent_module'])}")
    return saved


def check_resumable(folder: Path | str, algo: str, agent: Any, loop: LoopConfig) -> None:
    """Checks that this version knows every setting of a run that is to be resumed.

    Args:
      folder: of the run; nothing is checked where it holds none, or one of another agent.
      algo: the agent's name.
      agent: settings of the agent.
      loop: settings of the loop.
    Raises:
      ValueError: `config.json` is of another form, or names a setting that is not known.
    """
    path = Path(folder) / "config.json"
    if path.exists():
        saved = saved_settings(folder)
        for part, cfg in (("agent", agent), ("loop", loop)) if saved["algo"] == algo else ():
            _all_known(saved[part], cfg, f"{part}.", path)


def with_wave(job: Job, folder: Path | str) -> Job:
    """A job with the wave of the run that it goes on with, which decides the rounding.

    Args:
      job: whose wave nobody chose.
      folder: of the run; the job stays as it is where it holds none.
    """
    path = Path(folder) / "config.json"
    kept = read_json(path).get("wave") if path.exists() else None
    return job._replace(wave=kept) if type(kept) is int and kept > 0 else job


def _all_known(saved: dict[str, Any], cfg: Any, prefix: str, path: Path) -> None:
    known = flat(cfg)
    for name in saved:
        if name not in known:
            raise ValueError(
                f"{path}: {prefix}{name} is no setting of this version, {__version__}; "
                "a run needs the version that wrote it"
            )


def _known(saved: dict[str, Any], cfg: Any, prefix: str, path: Path) -> dict[str, Any]:
    """Saved settings in the types of a config; those that were added since keep their defaults."""
    _all_known(saved, cfg, prefix, path)
    defaults = flat(cfg)
    return {name: _as(value, defaults[name], f"{path}: {prefix}{name}") for name, value in saved.items()}


def _as(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, tuple):
        if isinstance(value, list) and all(type(item) is int for item in value):
            return tuple(value)
        raise ValueError(f"{name} must be a list of whole numbers, got {_shown(value)}")
    kinds = (float, int) if type(default) is float else (type(default),)
    if type(value) in kinds:
        return value
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    raise ValueError(f"{name} must be {words.get(type(default), type(default).__name__)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
