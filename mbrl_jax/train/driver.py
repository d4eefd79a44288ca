"""What `run` drives: a run as a row of short calls, with the whole state in between.

A run does not know what trains. It asks a `Driver` for one piece of work after the other, and sees to rows,
checkpoints, signals and progress between them. `CompiledDriver` drives the compiled loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Key, Tree
from mbrl_jax.train.interrupt import aside, begin
from mbrl_jax.train.loop import Loop, Pieces, Report
from mbrl_jax.train.sweep import advance_seeds, over_seeds, place, placed_shapes

SECONDS = 20.0
"""No call into compiled code should last longer, after the first of its kind and where its parts can be divided."""

GROWTH = 8
"""By how much longer than any before a call may be, in iterations."""


At: TypeAlias = tuple[Tree, Tree, Array]
"""A seed within a chunk: its state, the metrics so far, and whether it is to go on."""


class Work(NamedTuple):
    """All that a run needs to continue: what a checkpoint holds."""

    state: Tree  # [seeds, ...] as at the end of a chunk
    part: Tree = ()  # what else a chunk that has begun needs; () between chunks
    position: int = 0  # how far the chunk has come; 0 between chunks, and larger after every piece


class Started(NamedTuple):
    """A driver that is ready to go on."""

    work: Work
    compile_seconds: float
    run_seconds: float  # of what was run to get there: the warm-up
    lost: Mapping[str, Any] = {}  # what `train.loop.lost_in` says of the warm-up, [seeds] each; never written to


class Note(NamedTuple):
    """Where a chunk is."""

    iterations: int  # done in this chunk
    doing: str  # what comes next, for the progress line: "refresh 3 of 5"


class Driver(Protocol):
    """Trains all seeds of a job, a piece at a time. However long the pieces are, the numbers are the same.

    It may have a method `drop(seeds)`: seeds, counted from 0, on which it need not work any more from the next chunk
    on. What it reports of them is not read. It may have a method `whole(work)`, which gives the work of all seeds where
    its own holds some of them alone, and a method `stopping()`, which says whether the run is to stop as after a
    signal.
    """

    def shapes(self) -> Work:
        """The shapes of `Work.state`, and of `Work.part` in a chunk that has begun, to read a checkpoint by."""
        ...

    def start(self, work: Work | None) -> Started:
        """Makes ready, from the beginning (None) or from what a checkpoint held. Called once, before `piece`."""
        ...

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        """Works for at most about `SECONDS`. The memory of `work` is used up.

        Returns:
          what there is then; the report of all seeds [seeds, ...] if a chunk has ended with it.
        """
        ...

    def note(self, work: Work) -> Note:
        """Where the chunk is; called at any time between `start` and the end, for the progress line."""
        ...

    def not_resumed(self) -> str:
        """What of a run cannot be resumed exactly, in a line; "" where all of it can."""
        ...

    def seconds(self) -> dict[str, float]:
        """How the time since `start` was shared, by what it went to; empty where it cannot be told apart."""
        ...

    def close(self) -> None:
        """Called once, at the end of a run however it ends."""
        ...


class Around:
    """What a driver around another one leaves to it.

    Args:
      inner: the driver that does the work.
    """

    def __init__(self, inner: Driver):
        self.inner: Any = inner

    def note(self, work: Work) -> Note:
        return self.inner.note(work)

    def not_resumed(self) -> str:
        return self.inner.not_resumed()

    def seconds(self) -> dict[str, float]:
        return self.inner.seconds()

    def close(self) -> None:
        self.inner.close()


class CompiledDriver:
    """Drives a compiled loop over seeds, in calls of bounded length.

    One compiled program serves pieces of every length. The first chunk is cut small to learn how long its parts take;
    from then on a piece is as long as half of `SECONDS` allows, which for most runs is a chunk. A wave is left out once
    all its seeds are dropped.

    Args:
      loop: one seed's loop.
      keys: of the seeds, [seeds]; or a tree [seeds, ...] of whatever `loop.init` takes.
      wave, devices, groups: as in `over_seeds`.
    """

    def __init__(self, loop: Loop, keys: Key | Tree, wave: int, devices: int, groups: int | None = None):
        self.loop, self.keys, self.wave, self.devices = loop, keys, wave, devices
        self.pieces = pieces_of(loop)
        self.pace = Pace(self.pieces.units, self.pieces.blocks)
        self.gathered: Tree = ()  # memory for the metrics of the next chunk
        self.program: Any = None
        self.bounds: Any = None
        self._alive: Any = None  # `alive` on the devices
        self.groups, self.alive = groups, np.ones(jax.tree.leaves(keys)[0].shape[0], bool)
        first = over_seeds(watched(loop), wave, devices, groups)
        self._init = jax.jit(lambda keys: tree.strip_weak_types(first(keys)))
        self._gather = jax.jit(over_seeds(self.pieces.gather, wave, devices, groups))

    def shapes(self) -> Work:
        state, _ = jax.eval_shape(self._init, self.keys)
        return Work(state, jax.eval_shape(self._gather, state))

    def start(self, work: Work | None) -> Started:
        """Compiles a chunk, beside it the warm-up where that is still to come, and runs the latter."""
        began, lost = time.monotonic(), {}
        init = begin(self._init.lower(self.keys).compile) if work is None else None
        meshed = self.loop.place is not None
        program = None if meshed else begin(partial(_timed, self.lowered(self.shapes()).compile))
        if init is not None:
            warm_up = init()
            state, lost = aside(lambda: jax.block_until_ready(warm_up(self.keys)))
            work = Work(state)
        assert work is not None
        state = place(work.state, self.devices)
        if self.loop.place is not None:
            state = jax.jit(over_seeds(self.loop.place, self.wave, self.devices, self.groups))(state)
        self.gathered = self._gather(state) if work.position == 0 else place(work.part, self.devices)
        if program is None:  # the shapes do not tell where on the mesh the state lies
            program = begin(partial(_timed, self.lowered(Work(state, self.gathered)).compile))
        self.program, compiled = program()
        part = self.gathered if work.position else ()
        seconds = compiled - began, time.monotonic() - compiled
        return Started(Work(state, part, work.position), *seconds, jax.device_get(lost))

    def lowered(self, work: Work) -> Any:
        """The program of a chunk's pieces over all seeds, as `jax.stages.Lowered`; its first argument is donated.

        Args:
          work: shapes, as `shapes` gives them.
        """
        self.bounds = (jnp.int32(0), jnp.int32(self.pieces.units))  # of most calls

        def step(at: At, any_alive: Array, start: Array, stop: Array) -> tuple[At, Report]:
            state, gathered, report = self.pieces.advance(*at[:2], start, jnp.where(any_alive, stop, start))
            return (state, gathered, at[2]), report

        over = advance_seeds(step, self.wave, self.devices, self.groups, lambda at: jnp.any(at[2]))

        def each(at: At, start: Array, stop: Array) -> tuple[Tree, Tree, Report, Array]:
            (state, gathered, alive), report = over(at, start, stop)
            return state, gathered, report, alive

        alive = jax.eval_shape(lambda: jnp.asarray(self.alive))
        shapes = placed_shapes((work.state, work.part, alive), self.devices)
        where: Any = None  # as XLA chooses, which leaves arrays without numbers whole
        if self.loop.place is not None or self.devices > 1:  # the next call needs the state where this one takes it
            where = (*jax.tree.map(lambda leaf: leaf.sharding, shapes[:2]), None, None)
        return jax.jit(each, donate_argnums=0, out_shardings=where).lower(shapes, *self.bounds)

    def piece(self, work: Work, stop: int | None = None) -> tuple[Work, Report | None]:
        start = work.position
        stop = self.pace.stop(start) if stop is None else stop
        gathered = work.part if start else self.gathered
        began = time.monotonic()
        whole = (start, stop) == (0, self.pieces.units)
        bounds = self.bounds if whole else (np.int32(start), np.int32(stop))
        if self._alive is None:
            self._alive = place(jnp.asarray(self.alive), self.devices)
        done = self.program((work.state, gathered, self._alive), *bounds)
        state, gathered, report, self._alive = jax.block_until_ready(done)
        self.pace.took(start, stop, time.monotonic() - began)
        if stop < self.pieces.units:
            return Work(state, gathered, stop), None
        self.gathered = gathered
        return Work(state), report

    def drop(self, seeds: Sequence[int]) -> None:
        """Leaves seeds, counted from 0, out of all further work where their whole wave can be left out."""
        self.alive[list(seeds)] = False
        self._alive = None

    def not_resumed(self) -> str:
        return ""

    def seconds(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass

    def note(self, work: Work) -> Note:
        width, block = self.pieces.blocks + 1, self.pieces.block
        cycles = self.pieces.units // width
        if not cycles:
            return Note(0, "chunk")
        cycle, unit = divmod(work.position, width)
        if cycle == cycles:
            return Note(cycles * self.pieces.blocks * block, "evaluation")
        done = max(0, unit - 1) * block  # in this cycle
        doing = f"iteration {done + 1} of {self.pieces.blocks * block}, cycle" if unit else "refresh"
        return Note(cycle * self.pieces.blocks * block + done, f"{doing} {cycle + 1} of {cycles}")


def _timed(fn: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and when it was done."""
    return fn(), time.monotonic()


def watched(loop: Loop) -> Callable[[Any], tuple[Tree, dict[str, Array]]]:
    """A loop's `init` that also tells what `train.loop.lost_in` says of its warm-up, nothing where that is not known.

    Args:
      loop: one seed's loop.
    """
    if loop.warm_up is not None and loop.warm_up.whole is loop.init:
        return loop.warm_up.watched
    return lambda key: (loop.init(key), {})


def pieces_of(loop: Loop) -> Pieces:
    """The pieces of a loop's chunk; of one that cannot be divided the chunk is the only unit.

    Args:
      loop: one seed's loop.
    """
    if loop.pieces is not None and loop.pieces.whole is loop.chunk:
        return loop.pieces

    def advance(state: Tree, gathered: Tree, start: Array, stop: Array) -> tuple[Tree, Tree, Report]:
        shapes = jax.eval_shape(loop.chunk, state)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[1])
        state, report = jax.lax.fori_loop(start, stop, lambda _, at: loop.chunk(at[0]), (state, nothing))
        return state, gathered, report

    def gather(state: Tree) -> Tree:
        del state
        return ()

    return Pieces(1, 1, 1, gather, advance, loop.chunk)


class Pace:
    """How long the units of a chunk take, learned from the calls so far, and how many of them the next call may run.

    Args:
      units: in a chunk, as `train.loop.Pieces` counts them.
      blocks: of iterations in a cycle.
    """

    def __init__(self, units: int, blocks: int):
        self.units, self.blocks = units, blocks
        self.seconds: dict[str, float] = {}  # of a "refresh", a block of "iteration"s, the "evaluation"
        self.most = 0  # the most blocks of iterations that were run in one call

    def kind(self, unit: int) -> str:
        """What a unit is: "refresh", "iteration" or "evaluation"."""
        if unit == self.units - 1:
            return "evaluation"
        return "iteration" if unit % (self.blocks + 1) else "refresh"

    def stop(self, start: int) -> int:
        """The unit before which a call that begins with the unit `start` has to end."""
        kind = self.kind(start)
        if self.units == 1 or kind not in self.seconds:
            return start + 1
        rest = self.blocks + 1 - start % (self.blocks + 1)  # of this cycle
        if self.most * GROWTH < self.blocks or len(self.seconds) < 3:  # too little is known to predict more
            if kind != "iteration":
                return start + 1
            fit = int(SECONDS / 2 / max(self.seconds[kind], 1e-9))
            return start + max(1, min(rest, GROWTH * self.most, fit))
        budget, stop = SECONDS / 2, start
        if self.predicted(start, self.units) <= budget:
            return self.units
        while budget > 0 and stop < self.units:
            kind = self.kind(stop)
            count = self.blocks + 1 - stop % (self.blocks + 1) if kind == "iteration" else 1
            fit = min(count, int(budget / max(self.seconds[kind], 1e-9)))
            stop, budget = stop + fit, budget - fit * self.seconds[kind]
            if fit < count:
                break
        return max(stop, start + 1)

    def predicted(self, start: int, stop: int) -> float:
        """The seconds that the units from `start` to below `stop` should take."""
        return sum(count * self.seconds.get(kind, 0.0) for kind, count in self.count(start, stop).items())

    def count(self, start: int, stop: int) -> dict[str, int]:
        """How many units of each kind there are from `start` to below `stop`."""
        width, cycles_end = self.blocks + 1, self.units - 1
        first, last = min(start, cycles_end), min(stop, cycles_end)
        refreshes = -(-last // width) - -(-first // width)
        found = {"refresh": refreshes, "iteration": last - first - refreshes, "evaluation": stop - last}
        return {kind: count for kind, count in found.items() if count}

    def took(self, start: int, stop: int, seconds: float) -> None:
        """Learns from a call.

        Args:
          start, stop: the units that it ran.
          seconds: how long it took.
        """
        counts = self.count(start, stop)
        if len(counts) == 1:
            kind, count = next(iter(counts.items()))
            self.seconds[kind] = seconds / count
            if kind == "iteration":
                self.most = max(self.most, count)
            return
        ratio = seconds / max(self.predicted(start, stop), 1e-9)
        self.seconds = {kind: value * ratio if kind in counts else value for kind, value in self.seconds.items()}
