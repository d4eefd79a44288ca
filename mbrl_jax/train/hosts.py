"""The seeds of one run on several machines, by `jax.distributed`: each process trains an equal share of them.

The first process runs the run: rows, checkpoints, signals. It has the others work by short orders, which all processes
get at once, so none goes ahead of the others; the seeds themselves need nothing of each other. What is computed side by
side is what one process with as many devices computes, so the numbers are the same. What processes exchange goes
through collective operations, which all of them must call in the same order; nothing else may call one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Tree
from mbrl_jax.train.driver import Around, CompiledDriver, Started, Work
from mbrl_jax.train.interrupt import Stop, aside
from mbrl_jax.train.loop import Loop, Report
from mbrl_jax.train.run import Job, seed_keys

T = TypeVar("T")

START, PIECE, WHOLE, DROP, END = range(5)
"""Orders of the first process, each with an integer as its argument."""

SHUTDOWN = 60
"""Seconds that a process waits at its end for the others to come to theirs."""

LEAST, MOST = 1 << 12, 1 << 24
"""Bytes that are exchanged at once: a power of 2 in between, so that few programs serve arrays of all sizes."""


class ProcessLost(OSError):
    """Another process of the run has ended before its time."""

    left = "--resume in all processes goes on from the last checkpoint"
    at_once = True

    def __init__(self) -> None:
        super().__init__(None, "another process of the run has ended", "--distributed")


def connect(text: str) -> None:
    """Makes this process one of several, before the first array is made.

    Args:
      text: "auto" where SLURM, a TPU pod or Open MPI tells who is who; else the address of the first process, the
        number of processes and this one's number: "10.0.0.1:1234,2,0".
    Raises:
      ValueError: it is not of that form.
    """
    if text == "auto":
        jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN)
        return
    address, *numbers = text.split(",")
    if ":" not in address or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"distributed must be auto or ADDRESS:PORT,PROCESSES,NUMBER, got {text!r}")
    count, number = map(int, numbers)
    if not number < count:
        raise ValueError(f"distributed must number processes from 0 to {count - 1}, got {text!r}")
    jax.distributed.initialize(address, count, number, shutdown_timeout_seconds=SHUTDOWN)


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


def agreed(check: Callable[[], None]) -> None:
    """Has the first process check something, and ends all where it fails.

    Args:
      check: called in the first process alone; raises ValueError.
    Raises:
      ValueError: what the check raised; in the other processes one that points at the first.
    """
    wrong: ValueError | None = None
    if is_first():
        try:
            check()
        except ValueError as error:
            wrong = error
    failed = _told(np.asarray([wrong is not None], np.int32))[0]
    if wrong is not None:
        raise wrong
    if failed:
        raise ValueError("--distributed: the first process cannot begin, and says why")


class Hosts:
    """What `run` takes in the first process, for a loop whose seeds several processes share.

    A context, at the end of which the other processes leave `follow`.

    Args:
      loop: one seed's.
    """

    def __init__(self, loop: Loop):
        self.loop, self.finished, self.busy = loop, False, False

    def driver(self, job: Job) -> HostsDriver:
        """Drives all seeds, with the other processes in `follow`."""
        return HostsDriver(self.loop, job, self)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *problem: object) -> None:
        if not self.busy:  # else the others wait for something else; that this process ends will end them
            _order(END, self.finished)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context in which all processes work; one that is left by an exception ends the run."""
        self.busy = True
        yield
        self.busy = False


class HostsDriver(Around):
    """The driver of the first process; its `Work` holds its own seeds, `whole` gives all.

    Args:
      loop: one seed's.
      job: with the seeds of all processes.
      hosts: whose driver it is.
    Raises:
      ValueError: the run's groups of seeds cannot be shared out evenly.
    """

    def __init__(self, loop: Loop, job: Job, hosts: Hosts):
        self.loop, self.job, self.hosts = loop, job, hosts
        self.groups = job.groups or job.devices
        if self.groups % jax.process_count():
            raise ValueError(
                f"distributed must have a number of processes that divides the {self.groups} groups in which the run "
                f"computes its seeds, got {jax.process_count()}"
            )
        super().__init__(_own(loop, job, self.groups))
        self.asked, self.dropped = False, set[int]()

    def shapes(self) -> Work:
        return _shapes(self.loop, self.job, self.groups)

    def start(self, work: Work | None) -> Started:
        with self.hosts.together():
            _order(START, self.groups)
            _order(START, -1 if work is None else work.position)
            started = self.inner.start(None if work is None else _scattered(work))
            return started._replace(lost=_gathered(jax.tree.map(jnp.asarray, started.lost)))

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        stop = self.inner.pace.stop(work.position)
        with self.hosts.together():
            _order(PIECE, stop)
            work, report, self.asked = _piece(self.inner, work, stop, False)
        return work, report

    def whole(self, work: Work) -> Work:
        """What a checkpoint holds: the seeds of all processes."""
        with self.hosts.together():
            _order(WHOLE, 0)
            return _gathered(work)

    def stopping(self) -> bool:
        """Whether another process has been asked to stop."""
        return self.asked

    def drop(self, seeds: Sequence[int]) -> None:
        with self.hosts.together():
            for seed in sorted(set(seeds) - self.dropped):
                _order(DROP, seed)
                _drop(self.inner, seed)
        self.dropped.update(seeds)

    def close(self) -> None:
        pass


def follow(loop: Loop, job: Job) -> bool:
    """Works as the first process orders until that ends. A signal makes that one stop as its own would.

    Args:
      loop: one seed's, as in the first process.
      job: likewise.
    Returns:
      whether the run reached its last chunk.
    Raises:
      ProcessLost: another process has ended before its time.
    """
    with Stop(lambda text: None) as stop:
        return aside(lambda: _follow(loop, job, stop))


def _follow(loop: Loop, job: Job, stop: Stop) -> bool:
    driver: Any = None
    work = Work(())
    while True:
        order, argument = _order()
        if order == END:
            return bool(argument)
        if order == START:
            driver = _own(loop, job, argument)
            _, position = _order()
            begun = None
            if position >= 0:
                like = _shapes(loop, job, argument)
                begun = _scattered(jax.tree.map(_zeros, like)._replace(position=position))
            started = driver.start(begun)
            _gathered(jax.tree.map(jnp.asarray, started.lost))
            work = started.work
        elif order == PIECE:
            work, _, _ = _piece(driver, work, argument, stop.asked)
        elif order == WHOLE:
            _gathered(work)
        elif order == DROP:
            _drop(driver, argument)


def _own(loop: Loop, job: Job, groups: int) -> CompiledDriver:
    """Drives the seeds of this process."""
    count, each = jax.process_count(), job.seeds // jax.process_count()
    keys = seed_keys(job.seed, job.seeds)[jax.process_index() * each :][:each]
    groups //= count
    return CompiledDriver(loop, keys, job.wave, math.gcd(groups, job.devices // count), groups)


def _shapes(loop: Loop, job: Job, groups: int) -> Work:
    """The shapes of the work of all seeds."""
    return CompiledDriver(loop, seed_keys(job.seed, job.seeds), job.wave, 1, groups).shapes()


def _piece(driver: CompiledDriver, work: Work, stop: int, asked: bool) -> tuple[Work, Report | None, bool]:
    """Works up to a unit that all processes agree on; the report of all seeds, and whether any process is to stop."""
    work, report = driver.piece(work, stop)
    anyone = bool(_rows(np.asarray([asked], np.int32)).any())
    return work, None if report is None else _gathered(report), anyone


def _drop(driver: CompiledDriver, seed: int) -> None:
    """Leaves a seed out of further work in the process that has it."""
    own = seed - jax.process_index() * len(driver.alive)
    if 0 <= own < len(driver.alive):
        driver.drop([own])


def _order(order: int = END, argument: int = 0) -> tuple[int, int]:
    """Gives an order of the first process to all; in the others what is passed counts for nothing."""
    found = _told(np.asarray([order, argument], np.int32))
    return int(found[0]), int(found[1])


def _gathered(tree: Tree) -> Tree:
    """The rows of all processes, in order; random keys included."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(one(jax.random.key_data(leaf))), impl=jax.random.key_impl(leaf))
        return _rows(np.asarray(leaf))

    return jax.tree.map(one, tree)


def _scattered(work: Work) -> Work:
    """This process's share of what a checkpoint held, which the first process has read."""
    count, index = jax.process_count(), jax.process_index()

    def one(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        each = leaf.shape[0] // count
        return jnp.array(_told(np.asarray(leaf))[index * each : (index + 1) * each], copy=True)

    part = jax.tree.map(one, work.part) if work.position else ()
    return Work(jax.tree.map(one, work.state), part, work.position)


def _zeros(leaf: Any) -> Any:
    """What a process passes to `_scattered` that has read nothing."""
    if not hasattr(leaf, "dtype"):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return np.zeros(leaf.shape, leaf.dtype)


def _told(array: Any) -> Any:
    """An array of the first process; in the others what is passed gives the shape alone."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return _exchanged(array, lambda some: np.asarray(broadcast_one_to_all(some))[None])[0]


def _rows(array: Any) -> Any:
    """The arrays [n, ...] of all processes, one after the other, [processes * n, ...]."""
    from jax.experimental.multihost_utils import process_allgather

    found = _exchanged(array, lambda some: np.asarray(process_allgather(some)))
    return found.reshape(found.shape[0] * array.shape[0], *array.shape[1:])


def _exchanged(array: Any, exchange: Callable[[Any], Any]) -> Any:
    """Has a collective operation on bytes, [k] to [P, k], work on an array of any type and size, [...] to [P, ...]."""
    data, found = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8), []
    for start in range(0, data.size, MOST):
        some = data[start : start + MOST]
        size = max(LEAST, 1 << (some.size - 1).bit_length())
        try:
            found.append(exchange(np.pad(some, (0, size - some.size)))[:, : some.size])
        except jax.errors.JaxRuntimeError as error:
            raise ProcessLost from error
    whole = np.concatenate(found, 1) if found else exchange(np.zeros(LEAST, np.uint8))[:, :0]
    return np.stack([np.frombuffer(row.tobytes(), array.dtype).reshape(array.shape) for row in whole])
