"""The seeds of one run on several machines, by `jax.distributed`: each process trains an equal share of them.

The first process runs the run: rows, checkpoints, signals. It has the others work by short orders, which all processes
get at once, so none goes ahead of the others; the seeds themselves need nothing of each other. What is computed side by
side is what one process with as many devices computes, so the numbers are the same.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Tree
from mbrl_jax.train.driver import CompiledDriver, Note, Started, Work
from mbrl_jax.train.loop import Loop, Report
from mbrl_jax.train.run import Job, seed_keys

START, PIECE, WHOLE, END = range(4)
"""Orders of the first process: an integer, its argument, and which seeds are still trained."""


def connect(text: str) -> None:
    """Makes this process one of several, before the first array is made.

    Args:
      text: "auto" where SLURM, a TPU pod or Open MPI tells who is who; else the address of the first process, the
        number of processes and this one's number: "10.0.0.1:1234,2,0".
    Raises:
      ValueError: it is not of that form.
    """
    if text == "auto":
        jax.distributed.initialize()
        return
    address, *numbers = text.split(",")
    if ":" not in address or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"distributed must be auto or ADDRESS:PORT,PROCESSES,NUMBER, got {text!r}")
    count, number = map(int, numbers)
    if not number < count:
        raise ValueError(f"distributed must number processes from 0 to {count - 1}, got {text!r}")
    jax.distributed.initialize(address, count, number)


def is_first() -> bool:
    """Whether this process is the one that runs the run."""
    return jax.process_index() == 0


def shared(job: Job, most: int = 0) -> Job:
    """A job whose seeds are shared out over all processes and the devices of each.

    Args:
      job: what is to run.
      most: devices of a process; 0: all.
    Raises:
      ValueError: seeds that do not divide evenly, or more devices than a process has.
    """
    from mbrl_jax.train.devices import devices_for

    count = jax.process_count()
    if job.seeds % count:
        raise ValueError(f"seeds must be a multiple of the {count} processes, got {job.seeds}")
    return job._replace(devices=count * devices_for(most, job.seeds // count))


class Hosts:
    """What `run` takes in the first process, for a loop whose seeds several processes share.

    Args:
      loop: one seed's.
    """

    def __init__(self, loop: Loop):
        self.loop = loop

    def driver(self, job: Job) -> HostsDriver:
        """Drives all seeds, with the other processes in `follow`."""
        return HostsDriver(self.loop, job)


class HostsDriver:
    """The driver of the first process; its `Work` holds its own seeds, `whole` gives all.

    Args:
      loop: one seed's.
      job: with the seeds of all processes.
    """

    def __init__(self, loop: Loop, job: Job):
        self.loop, self.job = loop, job
        self.groups = job.groups or job.devices
        self.inner = _own(loop, job, self.groups)
        self.alive = np.ones(job.seeds, bool)

    def shapes(self) -> Work:
        keys = seed_keys(self.job.seed, self.job.seeds)
        return CompiledDriver(self.loop, keys, self.job.wave, 1, self.groups).shapes()

    def start(self, work: Work | None) -> Started:
        _order(START, self.groups, self.alive)
        _order(-1 if work is None else work.position, 0, self.alive)
        started = self.inner.start(None if work is None else _scattered(work, self.shapes()))
        return started._replace(lost=_gathered(jax.tree.map(jnp.asarray, started.lost)))

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        stop = self.inner.pace.stop(work.position)
        _order(PIECE, stop, self.alive)
        return _piece(self.inner, work, stop, self.alive)

    def whole(self, work: Work) -> Work:
        """What a checkpoint holds: the seeds of all processes."""
        _order(WHOLE, 0, self.alive)
        return _gathered(work)

    def drop(self, seeds: Sequence[int]) -> None:
        self.alive[list(seeds)] = False

    def note(self, work: Work) -> Note:
        return self.inner.note(work)

    def not_resumed(self) -> str:
        return self.inner.not_resumed()

    def seconds(self) -> dict[str, float]:
        return self.inner.seconds()

    def close(self) -> None:
        _order(END, 0, self.alive)


def follow(loop: Loop, job: Job) -> None:
    """Works as the first process orders until it ends; signals are left to that one.

    Args:
      loop: one seed's, as in the first process.
      job: likewise.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    driver: Any = None
    work = Work(())
    nobody = np.zeros(job.seeds, bool)
    while True:
        order, argument, alive = _order(0, 0, nobody)
        if order == END:
            return
        if order == START:
            driver = _own(loop, job, argument)
            position, _, _ = _order(0, 0, nobody)
            like = HostsDriver(loop, job._replace(groups=argument)).shapes()
            zeros = jax.tree.map(_zeros, like)._replace(position=max(position, 0))
            begun = None if position < 0 else _scattered(zeros, like)
            started = driver.start(begun)
            _gathered(jax.tree.map(jnp.asarray, started.lost))
            work = started.work
        elif order == PIECE:
            work, _ = _piece(driver, work, argument, alive)
        elif order == WHOLE:
            _gathered(work)


def _own(loop: Loop, job: Job, groups: int) -> CompiledDriver:
    """Drives the seeds of this process."""
    count, each = jax.process_count(), job.seeds // jax.process_count()
    keys = seed_keys(job.seed, job.seeds)[jax.process_index() * each :][:each]
    return CompiledDriver(loop, keys, job.wave, job.devices // count, groups // count)


def _piece(driver: CompiledDriver, work: Work, stop: int, alive: Any) -> tuple[Work, Report | None]:
    """Works up to a unit that all processes agree on; gathers the report of all seeds."""
    each = len(driver.alive)
    own = alive[jax.process_index() * each :][:each]
    if (own != driver.alive).any():
        driver.drop(np.flatnonzero(~own).tolist())
    work, report = driver.piece(work, stop)
    return work, None if report is None else _gathered(report)


def _order(order: int, argument: int, alive: Any) -> tuple[int, int, Any]:
    """Gives an order of the first process to all; in the others what is passed counts for nothing."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    found = broadcast_one_to_all(np.asarray([order, argument, *alive], np.int32))
    return int(found[0]), int(found[1]), np.asarray(found[2:]) > 0


def _gathered(tree: Tree) -> Tree:
    """The rows of all processes, in order; random keys included."""
    from jax.experimental.multihost_utils import process_allgather

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(one(jax.random.key_data(leaf))), impl=jax.random.key_impl(leaf))
        return np.asarray(process_allgather(np.asarray(leaf), tiled=True))

    return jax.tree.map(one, tree)


def _scattered(work: Work, like: Work) -> Work:
    """This process's share of what a checkpoint held, which the first process has read."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    count, index = jax.process_count(), jax.process_index()

    def one(leaf: Any, shape: Any) -> Any:
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            data = broadcast_one_to_all(np.asarray(jax.random.key_data(leaf)))
            return jax.random.wrap_key_data(own(data), impl=jax.random.key_impl(leaf))
        return own(broadcast_one_to_all(np.asarray(leaf)))

    def own(leaf: Any) -> Any:
        each = leaf.shape[0] // count
        return jnp.array(leaf[index * each : (index + 1) * each], copy=True)

    part = jax.tree.map(one, work.part, like.part) if work.position else ()
    return Work(jax.tree.map(one, work.state, like.state), part, work.position)


def _zeros(leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)
