"""A run of milliseconds whose numbers depend on the order of all that happens, and on every key."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Agent, Box, Discrete, Env, Spec
from mbrl_jax.core.config import config
from mbrl_jax.train.driver import CompiledDriver, Pace
from mbrl_jax.train.folder import DiskError
from mbrl_jax.train.loop import Loop, LoopConfig, env_steps, make_loop
from mbrl_jax.train.run import Job, run, seed_keys

CFG = LoopConfig(num_envs=2, unroll=1, updates=2, inner=4, cycles=3, warmup=2, eval_episodes=2, capacity=64)
UNITS = 3 * 5 + 1
REFUSED = 3
"""The exit code of a child that says what is wrong, in a file beside the run's folder."""


@config
class AgentConfig:
    lr: float = 1e-3


def agent_and_env() -> tuple[Agent, Env]:
    def act(key, learner, carry, obs, explore):
        return jax.random.randint(key, (), 0, 2), carry, ()

    def update(key, learner, replay):
        new = 0.9 * learner + jax.random.normal(key, (3,))
        return new, {"first": new[0]}, ()

    def refresh(key, learner, replay):
        new = jnp.tanh(learner) * 2 + 0.1 * jax.random.normal(key, (3,)) + replay.size / 64
        return new, {"fit": new[1]}

    def step(key, state, action):
        new = state["count"] + 1
        return state | {"count": new}, new, jnp.float32(action) + jax.random.uniform(key), jnp.float32(1), new[0] >= 5

    # Arrays without numbers are parts of some states: they must pass through devices and checkpoints too.
    reset = lambda key: ({"count": jnp.zeros(1), "nothing": jnp.zeros(0)}, jnp.zeros(1))  # noqa: E731
    env = Env(Spec(Box((1,)), Discrete(2), 5, False, "count"), reset, step)
    return Agent(lambda key: jax.random.normal(key, (3,)), lambda: (), act, update, refresh), env


def loop_of(cfg: LoopConfig = CFG) -> Loop:
    return make_loop(*agent_and_env(), uniform(64), cfg)


def job_of(chunks: int = 3, cfg: LoopConfig = CFG, **changes: Any) -> Job:
    job = Job("ordered", "count", AgentConfig(), cfg, steps=env_steps(cfg, chunks), seed=3, seeds=3)
    return job._replace(command="python scripts/train.py ordered --steps 5", **changes)


def driver(seeds: int = 2) -> CompiledDriver:
    return CompiledDriver(loop_of(), seed_keys(3, seeds), 1, 1)


def numbers(state: Any) -> list[np.ndarray]:
    """The leaves of a tree, keys as integers."""
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(state)]


def same(a: Any, b: Any) -> None:
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_array_equal(x, y)


def rows(folder: Path, name: str) -> list[list[str]]:
    """The cells of a CSV without the wall-clock times."""
    lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    return [[cell for cell, column in zip(line, lines[0], strict=True) if column != "wall_seconds"] for line in lines]


def child(out: str, chunks: int, resume: bool, delay: float = 0.0) -> None:
    """What another process does: a run whose pieces are short, each with a checkpoint.

    Args:
      out: the run's folder.
      chunks: how long it is.
      resume: go on with the run there.
      delay: seconds that every piece takes longer.
    """

    def short(self, start):
        time.sleep(delay)
        return min(self.units, start + 5)

    Pace.stop = short
    try:
        run(loop_of(), job_of(chunks, seeds=2), out, resume=resume, quiet=True, checkpoint_seconds=1e-9)
    except (ValueError, DiskError) as error:
        Path(f"{out}.said").write_text(str(error))
        sys.exit(REFUSED)
