"""A wave whose trials begin and end on their own: where one has ended, the next begins in the same program.

The rows of a wave are divided into slots of one trial each. All slots work on a chunk at a time, in the program that
trains trials side by side. After it every trial has its rows, and the source of the trials says which of them end
there. They leave the folder of a run, and the next trials begin in their slots: the shapes are the same, so nothing is
compiled for them. What a trial comes to depends neither on when it began nor on those beside it.

A checkpoint holds the rows, which trial is in which slot, and what the source asks to be reminded of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.types import Array, Tree
from mbrl_jax.train import checkpoint
from mbrl_jax.train.compilation import notice
from mbrl_jax.train.driver import CompiledDriver, Work, watched
from mbrl_jax.train.interrupt import Stop, aside
from mbrl_jax.train.log import Progress, Record, plain
from mbrl_jax.train.loop import Report, chunks_for, env_steps, updates
from mbrl_jax.train.population import Row
from mbrl_jax.train.run import Job, leave, mean_known, seed_keys
from mbrl_jax.train.sweep import over_seeds, place
from mbrl_jax.train.swept import Swept

FORMAT = 1  # of what a checkpoint says of the slots

FINISHED, PRUNED, DIVERGED = "finished", "pruned", "diverged"


class Trial(NamedTuple):
    """A trial that takes a slot."""

    name: str  # of its folder
    job: Job  # as a run of its own
    values: Mapping[str, float]  # of the settings that the program takes as arrays


class Standing(NamedTuple):
    """Where a trial is after a chunk, of S seeds."""

    number: int  # of the trial
    chunks: int  # done
    env_steps: int
    scores: Sequence[float | None]  # [S] mean return of the chunk's evaluation, or of its training episodes
    recent: Sequence[float | None]  # [S] the same over the last chunks, as a run's summary has it
    finished: bool  # it was the last chunk
    diverged: bool  # a seed's numbers are none


class Source(Protocol):
    """Where the trials of a wave come from, and who is told of them.

    What it answers must depend on what it was told alone, and on what it is reminded of by `back`.
    """

    def next(self) -> int | None:
        """The number of the trial that takes the next free slot; None where there is none any more."""
        ...

    def trial(self, number: int) -> Trial:
        """A trial by its number."""
        ...

    def after(self, standings: Sequence[Standing]) -> list[str]:
        """Told of a chunk of all trials in slots.

        Returns:
          for each: FINISHED, PRUNED or DIVERGED where it ends here, "" where it goes on.
        """
        ...

    def steps(self) -> tuple[int, int]:
        """The environment steps of one seed that ended trials took, and that all trials take if none is pruned."""
        ...

    def mark(self) -> dict[str, Any]:
        """What `back` needs, in JSON's types."""
        ...

    def back(self, mark: Mapping[str, Any] | None, running: Sequence[int]) -> None:
        """Goes back to where `mark` was given, None: to the program's beginning, with these trials in slots."""
        ...


class Slot(NamedTuple):
    """A trial under way."""

    number: int
    trial: Trial
    record: Record
    chunks: int  # done
    began: float  # wall seconds of the wave at its beginning


class Wave:
    """Trains the trials of a source in a fixed number of slots.

    Args:
      swept: the program; its trials' values are those of any trials, one for each slot.
      job: of all its rows.
      out: the sweep's folder, in which every trial has its own.
      folder: of the checkpoints.
      source: of the trials.
      progress: shown between the pieces of work.
      draw: (folder of a trial) -> None, called when it has ended.
    """

    def __init__(
        self, swept: Swept, job: Job, out: Path, folder: Path, source: Source, progress: Progress,
        draw: Callable[[Path], Any] | None = None,
    ):  # fmt: skip
        driver = swept.driver(job)
        assert isinstance(driver, CompiledDriver)
        self.driver, self.seeds, self.keys = driver, swept.seeds, seed_keys(swept.seed, swept.seeds)
        self.job, self.out, self.folder, self.source = job, out, folder, source
        self.progress, self.draw = progress, draw
        self.slots: list[Slot | None] = [None] * swept.trials
        self.work = Work(())
        self.chunks, self.base, self.compile_seconds = 0, -time.monotonic(), 0.0  # chunks of the wave
        self.at, self.last = (0, 0), time.monotonic()  # of the newest checkpoint
        first = over_seeds(watched(swept.loop()), min(job.wave, swept.seeds))
        self._begun: Any = jax.jit(lambda row: tree.strip_weak_types(first(row)))
        self._ready = False  # it is compiled
        self._put = jax.jit(_put, donate_argnums=0)
        self._taken = jax.jit(lambda rows, at: jax.tree.map(lambda leaf: _slice(leaf, at, self.seeds), rows))

    def run(self, checkpoint_seconds: float) -> bool:
        """Trains until the source has no trial left, or a signal asks to stop.

        Args:
          checkpoint_seconds: least time between checkpoints; 0 saves one after every chunk, and none in the midst.
        Returns:
          whether all trials have come to their end; those that have not are in a checkpoint.
        """
        try:
            with Stop(self.progress.say) as stop:
                self._start()
                while any(self.slots) and not stop.asked:
                    self._piece()
                    whole, passed = self.work.position == 0, time.monotonic() - self.last
                    if any(self.slots) and (passed >= checkpoint_seconds if checkpoint_seconds else whole):
                        self._save()
                if any(self.slots):
                    self._save()
        finally:
            self.progress.close()
            self.driver.close()
        return not any(self.slots)

    def wall(self) -> float:
        """Seconds that the wave has taken, without compiling its chunk."""
        return self.base + time.monotonic()

    def _start(self) -> None:
        """Fills all slots, or takes up what was saved, and compiles the chunk."""
        checkpoints, found = self.folder / "checkpoints", None
        if checkpoint.places(checkpoints):
            like = self.driver.shapes()
            found = checkpoint.newest(checkpoints, like.state, like.part)
            for line in found.damaged:
                self.progress.say(line)
        self.progress.say(f"compiling {self.job.algo} on {self.job.env}, {len(self.slots)} trials side by side ...")
        if found is None:
            self.source.back(None, ())
            self.work = Work(self._fill(None))
        else:
            self._load(found)
        began = time.monotonic()
        with notice(f"{self.job.algo} {self.job.env}", self.progress.say) as compiled:
            started = self.driver.start(self.work)
            compiled(started.compile_seconds)
        self.work, self.compile_seconds = started.work, round(started.compile_seconds, 3)
        self.base -= time.monotonic() - began
        self._rest()
        self.progress.begin(self._steps())

    def _load(self, found: checkpoint.Found) -> None:
        """Takes up the trials of a checkpoint."""
        told = found.about["slots"]
        self.source.back(found.about["source"], [one["number"] for one in told if one])
        self.chunks, self.at = found.chunk, (found.chunk, found.position)
        self.base += float(found.about["wall_seconds"])
        for i, one in enumerate(told):
            if one is None:
                continue
            slot = self._slot(one["number"], one["began"])
            slot.record.load(env_steps(slot.trial.job.loop, one["chunks"]), one["chunks"], one["rows"])
            slot.record.diverged.update({int(seed): tuple(what) for seed, what in one["diverged"].items()})
            self.slots[i] = slot._replace(chunks=one["chunks"])
        self.work = Work(found.state, found.part, found.position)

    def _slot(self, number: int, began: float) -> Slot:
        trial = self.source.trial(number)
        folder = self.out / trial.name
        folder.mkdir(exist_ok=True)
        record = Record(folder, range(trial.job.seed, trial.job.seed + self.seeds))
        return Slot(number, trial, record, 0, began)

    def _fill(self, rows: Row | None) -> Row | None:
        """Begins the next trials in the free slots; all rows of the wave, at first None."""
        for i, slot in enumerate(self.slots):
            number = None if slot is not None else self.source.next()
            if number is None:
                continue
            values = self.source.trial(number).values
            row = Row({name: jnp.full(self.seeds, value, jnp.float32) for name, value in values.items()}, self.keys)
            begin = self._beginning(row)
            slot = self.slots[i] = self._slot(number, self.wall())
            new, lost = aside(lambda begin=begin, row=row: jax.block_until_ready(begin(row)))
            self._watch(slot, env_steps(self.job.loop, 0), {}, (), jax.device_get(lost), 0)
            if rows is None:
                rows = tree.take(new, jnp.arange(len(self.slots) * self.seeds) % self.seeds)
            rows = place(self._put(rows, new, i * self.seeds), self.driver.devices)
        return rows

    def _beginning(self, row: Row) -> Callable[[Row], tuple[Row, Any]]:
        """What begins the rows of a trial; compiled at the first call, which does not count as time of the wave."""
        if not self._ready:
            began = time.monotonic()
            self._begun, self._ready = aside(self._begun.lower(row).compile), True
            self.base -= time.monotonic() - began
        return self._begun

    def _rest(self) -> None:
        """Leaves the rows of slots without a trial out, where their whole wave can be."""
        free = [i for i, slot in enumerate(self.slots) if slot is None]
        self.driver.drop([row for i in free for row in range(i * self.seeds, (i + 1) * self.seeds)])

    def _watch(self, slot: Slot, at: int, metrics: Any, returns: Any, faults: Any, before: int) -> None:
        """Notes and says which seeds of a trial are no number any more."""
        per_iteration = self.job.loop.unroll * self.job.loop.num_envs
        for line in slot.record.watch(at, metrics, returns, faults, (before, per_iteration)):
            self.progress.say(f"{slot.trial.name}: {line}")

    def _steps(self) -> int:
        """Environment steps of one seed of all trials, those that ended before included; sets the progress's total."""
        loop, (taken, self.progress.total) = self.job.loop, self.source.steps()
        running = [env_steps(loop, slot.chunks) for slot in self.slots if slot is not None]
        per_iteration = loop.unroll * loop.num_envs
        within = self.driver.note(self.work).iterations * per_iteration if running else 0
        return taken + sum(running) + within * len(running)

    def _piece(self) -> None:
        """One call of the program, and what follows where a chunk has ended with it."""
        now = self.work
        self.work, report = aside(
            lambda: self.driver.piece(now), lambda: self.progress.wait(self._steps(), self.driver.note(now).doing)
        )
        if report is None:
            return
        self.chunks += 1
        every: Report = jax.device_get(report)
        for i, slot in enumerate(self.slots):
            if slot is not None:
                self.slots[i] = self._add(slot, jax.tree.map(lambda x, i=i: x[i * self.seeds :][: self.seeds], every))
        self._settle()
        live = [slot.record for slot in self.slots if slot is not None and slot.chunks]
        trained = [score for record in live for score in record.trained]
        self.progress.show(self._steps(), mean_known(trained), mean_known([x for r in live for x in r.scores[-1][1]]))

    def _add(self, slot: Slot, report: Report) -> Slot:
        """A trial with the rows of its next chunk."""
        (metrics, returns, lengths, faults), loop, chunks = report, self.job.loop, slot.chunks + 1
        at, wall = env_steps(loop, chunks), self.wall() - slot.began
        slot.record.add(at, updates(loop, chunks), wall, metrics, returns, lengths)
        self._watch(slot, at, metrics, returns, faults, env_steps(loop, slot.chunks))
        return slot._replace(chunks=chunks)

    def _settle(self) -> None:
        """Ends trials as the source says, and fills their slots."""
        loop, job = self.job.loop, self.job
        there = [(i, slot) for i, slot in enumerate(self.slots) if slot is not None]
        standings = []
        for _, (number, _, record, chunks, _) in there:
            recent = record.recent()
            recent = recent if any(score is not None for score in recent) else record.training()
            ended, lost = chunks >= chunks_for(loop, job.steps), bool(record.diverged)
            at = env_steps(loop, chunks)
            standings.append(Standing(number, chunks, at, record.scored[-1][1], recent, ended, lost))
        fates = self.source.after(standings)
        for (i, slot), fate in zip(there, fates, strict=True):
            if fate:
                self._end(i, slot, fate)
        if any(fates):
            self.work = self.work._replace(state=self._fill(self.work.state))
            self._rest()

    def _end(self, index: int, slot: Slot, fate: str) -> None:
        """Writes the files of a trial that has ended, and frees its slot."""
        own: Tree = self._taken(self.work.state.state, index * self.seeds)
        more = {} if fate == FINISHED else {"ended": fate}
        leave(slot.trial.job, slot.record, slot.chunks, own, self.compile_seconds, more)
        if self.draw is not None:
            self.draw(slot.record.folder)
        self.slots[index] = None
        loop = self.job.loop
        at, end = env_steps(loop, slot.chunks), env_steps(loop, chunks_for(loop, self.job.steps))
        what = FINISHED if fate == FINISHED else f"{fate} at {at:,} of {end:,} steps"
        self.progress.say(f"{slot.trial.name} {what}, return {mean_known(slot.record.scored[-1][1]):.2f}")

    def _save(self) -> None:
        """Writes the rows of the trials under way first, so that a checkpoint is never ahead of them."""
        if self.at == (self.chunks, self.work.position):
            return
        told: list[Any] = []
        for slot in self.slots:
            if slot is None:
                told.append(None)
                continue
            slot.record.write()
            told.append(
                {
                    "number": slot.number, "chunks": slot.chunks, "began": round(slot.began, 3),
                    "rows": slot.record.digests(), "diverged": slot.record.diverged,
                }
            )  # fmt: skip
        about = {"format": FORMAT, "slots": told, "source": self.source.mark(), "wall_seconds": round(self.wall(), 3)}
        where = checkpoint.Place(self.chunks, self.work.position)
        checkpoint.save(self.folder / "checkpoints", where, self.work.state, about=plain(about), part=self.work.part)
        self.at, self.last = (self.chunks, self.work.position), time.monotonic()


def _slice(leaf: Array, at: Array, count: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(leaf, at, count)


def _put(rows: Row, new: Row, at: Array) -> Row:
    """The rows of a wave with those from `at` on replaced."""
    return jax.tree.map(lambda old, some: jax.lax.dynamic_update_slice_in_dim(old, some, at, 0), rows, new)
