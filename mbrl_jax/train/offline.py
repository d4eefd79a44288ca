"""Offline runs whose evaluation is Python's: learning is the compiled loop, evaluation that of the host loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Agent, EnvironmentFailed, HostEnv, Key
from mbrl_jax.train import host_evaluate
from mbrl_jax.train.driver import CompiledDriver, Note, Started, Work
from mbrl_jax.train.loop import Loop, Report
from mbrl_jax.train.run import Job, seed_keys


class OfflineHostLoop(NamedTuple):
    """A run that learns from a data set and is evaluated in environments whose steps are Python."""

    loop: Loop  # without evaluation
    agent: Agent
    eval_env: HostEnv
    episodes: int  # after every chunk
    workers: int = 0  # processes that share the environments

    def driver(self, job: Job) -> OfflineHostDriver:
        """What trains the seeds of a job."""
        return OfflineHostDriver(self, job)


class OfflineHostDriver:
    """Drives the compiled loop, and plays evaluation episodes at the end of each chunk.

    Args:
      loop: of one seed.
      job: whose seeds are trained.
    """

    def __init__(self, loop: OfflineHostLoop, job: Job):
        self.loop, self.seeds = loop, job.seeds
        keys = seed_keys(job.seed, job.seeds)
        self.compiled = CompiledDriver(loop.loop, keys, job.wave, job.devices, job.groups or None)
        begin, act = host_evaluate.actors(loop.agent, loop.episodes)
        self.begin = jax.jit(jax.vmap(lambda key: begin(jax.random.fold_in(key, 0))))
        self.act = jax.jit(jax.vmap(act, (0, 0, 0, 0, None)))
        self.envs: Any = None

    def shapes(self) -> Work:
        return self.compiled.shapes()

    def start(self, work: Work | None) -> Started:
        if self.loop.episodes:
            self.envs = self.loop.eval_env.make(self.seeds * self.loop.episodes, self.loop.workers)
        return self.compiled.start(work)

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        work, report = self.compiled.piece(work)
        if report is None or not self.loop.episodes:
            return work, report
        try:
            returns, lengths = self._evaluate(work.state.key, work.state.learner)
        except EnvironmentFailed as error:
            error.work = work
            raise
        return work, report._replace(returns=jnp.asarray(returns), lengths=jnp.asarray(lengths))

    def _evaluate(self, keys: Key, learner: Any) -> tuple[Any, Any]:
        limit = self.loop.eval_env.spec.time_limit
        assert limit is not None
        return host_evaluate.play(self.act, learner, self.begin(keys), self.envs, limit)

    def note(self, work: Work) -> Note:
        return self.compiled.note(work)

    def drop(self, seeds: Any) -> None:
        """As that of the compiled driver."""
        self.compiled.drop(seeds)

    def not_resumed(self) -> str:
        return ""

    def seconds(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        if self.envs is not None:
            self.envs.close()
            self.envs = None
