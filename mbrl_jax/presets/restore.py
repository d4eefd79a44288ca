"""A finished or stopped run, taken up again to look at what it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Agent, Env
from mbrl_jax.presets import builder
from mbrl_jax.presets.registry import AGENTS, import_agents
from mbrl_jax.train import checkpoint
from mbrl_jax.train.log import read_json
from mbrl_jax.train.loop import LoopConfig, LoopState
from mbrl_jax.train.run import seed_keys


class Loaded(NamedTuple):
    """A run's settings, and one of its seeds at the newest checkpoint."""

    algo: str
    name: str  # of the environment
    config: Any  # of the agent
    agent: Agent
    env: Env  # as the agent sees it
    state: LoopState
    chunk: int


def load_run(folder: Path | str, seed: int = 0) -> Loaded:
    """Reads a run's settings and its newest checkpoint.

    Args:
      folder: of a run.
      seed: which of its seeds, counted from 0.
    Raises:
      ValueError: there is no run in the folder, no checkpoint, or no such seed.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise ValueError(f"no run in {folder} (no config.json)")
    saved = read_json(folder / "config.json")
    algo, name, module = saved["algo"], saved["env"], saved.get("agent_module")
    if module is not None and algo not in AGENTS:
        import_agents(module)
    if not 0 <= seed < saved["seeds"]:
        raise ValueError(f"seed must be from 0 to {saved['seeds'] - 1}, which {folder} holds, got {seed}")
    chunk = checkpoint.latest(folder / "checkpoints")
    if chunk is None:
        raise ValueError(f"{folder} has no checkpoint; runs keep theirs in {folder / 'checkpoints'}")
    entry = builder.algorithm(algo)
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in saved["agent"].items()}
    config, loop_cfg = replace(entry.config(), known), LoopConfig(**saved["loop"])
    loop = builder.build(algo, name, config, loop_cfg)
    keys = seed_keys(saved["seed"], saved["seeds"])
    like = jax.eval_shape(lambda keys: tree.strip_weak_types(jax.vmap(loop.init)(keys)), keys)
    states = checkpoint.restore(folder / "checkpoints", chunk, like)
    state = jax.tree.map(lambda leaf: leaf[seed], states)
    agent, env = builder.learner(algo, name, config)
    return Loaded(algo, name, config, agent, env, state, chunk)
