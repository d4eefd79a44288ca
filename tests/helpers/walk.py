"""A random walk in place of a training run: chunks of microseconds, for tests of what surrounds them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import config, setting
from mbrl_jax.train.loop import Loop, LoopConfig, Report
from mbrl_jax.train.run import Job

CFG = LoopConfig(num_envs=2, unroll=3, updates=2, inner=5, cycles=2, warmup=4, eval_episodes=2)
WARMUP, CHUNK = 4 * 6, 10 * 6  # env steps


@config
class AgentConfig:
    lr: float = setting(default=1e-3, above=0)
    hidden: tuple[int, ...] = (8, 8)


class FakeState(NamedTuple):
    key: jax.Array
    count: jax.Array
    x: jax.Array


def make_loop() -> Loop:
    """A random walk whose evaluation return grows with the chunks."""

    def init(key):
        key, key_x = jax.random.split(key)
        return FakeState(key, jnp.int32(0), jax.random.normal(key_x, (3,)))

    def chunk(state):
        key, key_step = jax.random.split(state.key)
        x = state.x + jax.random.normal(key_step, (3,))
        count = state.count + 1
        metrics = {"return": x[0], "episodes": jnp.float32(2) * (count > 1), "loss": x[1] ** 2}
        report = Report(metrics, 10.0 * count + x[:2], jnp.full(2, 7) + count)
        return FakeState(key, count, x), report

    def train(key, chunks):
        return jax.lax.scan(lambda state, _: chunk(state), init(key), None, length=chunks)

    return Loop(init, chunk, train)


def make_job(**changes) -> Job:
    job = Job("fake", "Walk", AgentConfig(), CFG, steps=WARMUP + 4 * CHUNK, seed=3, seeds=2, threshold=20.0)
    return job._replace(command="python scripts/train.py fake --out x --steps 5", **changes)
