"""A search that prunes: trials whose scores stay behind end on their way, and others begin in their place.

Trials are asked of Optuna one by one. As many as `at_once` run side by side in a wave (`train.refilled`); after every
chunk Optuna is told the interquartile mean over the seeds of each trial's evaluation, and its pruner says which trials
end there. A trial that was asked for and whose integers and choices make another program waits for that: a wave runs on
until so many trials wait, or all have been asked for.

Everything is a function of what is on disk. Optuna's log only grows, so a checkpoint keeps how long it was; a search
that was killed cuts it back to that length and goes on as it would have.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl_jax.analysis import curves
from mbrl_jax.analysis import sweeps as tables
from mbrl_jax.analysis.statistics import interquartile_mean
from mbrl_jax.core.types import HostEnv
from mbrl_jax.presets.search import STUDY, Study, as_read, startup
from mbrl_jax.presets.sweep import Range, Sweep, is_float, joined, planned, side_by_side
from mbrl_jax.presets.sweep_run import PATIENCE, How, Outcome, check, write
from mbrl_jax.train.folder import claimed, remove_real
from mbrl_jax.train.log import Progress
from mbrl_jax.train.loop import chunks_for, env_steps
from mbrl_jax.train.refilled import DIVERGED, FINISHED, PRUNED, Standing, Trial, Wave
from mbrl_jax.train.run_files import read_json

PRUNERS = ("median", "halving")


class Pruning(NamedTuple):
    """When trials end on their way."""

    kind: str  # in `PRUNERS`
    after: int = 1  # chunks before which none does


def run(
    sweep: Sweep,
    grid: Mapping[str, Sequence[Any]],
    ranges: Mapping[str, Range],
    out: Path,
    at_once: int,
    pruning: Pruning,
    *,
    resume: bool = False,
    how: How | None = None,
) -> Outcome:
    """Searches for the best settings among `sweep.total` trials, `at_once` side by side.

    Args:
      sweep: without trials.
      grid, ranges: as in `search.run`.
      out: the sweep's folder.
      at_once: the most trials of a wave.
      pruning: when trials end on their way.
      resume: go on with the search there.
      how: to run it.
    Returns:
      how far it has come.
    Raises:
      ValueError: the folder cannot be used, a setting is wrong, or the environment's steps are Python.
    """
    how = how or How()
    check_pruning(sweep, [*grid, *ranges], pruning)
    check(sweep, out, resume)
    with claimed(out, wait=PATIENCE if resume else 0.0):
        check(sweep, out, resume)
        search = Search(sweep, grid, ranges, out, at_once, pruning)
        search.load() if resume else search.write()
        while search.under_way() or search.begin():
            if not search.work(how):
                return Outcome(False, stopped=True)
            tables.report(out)
        return Outcome(True)


def check_pruning(sweep: Sweep, varied: Sequence[str], pruning: Pruning) -> None:
    """Checks that trials can be pruned.

    Args:
      sweep: of the trials.
      varied: names of the settings in which they differ.
      pruning: as in `run`.
    Raises:
      ValueError: names the flag, and what is wrong with it.
    """
    if isinstance(sweep.made, HostEnv):
        raise ValueError(f"--prune must be none for {sweep.base.env}, whose steps are Python: its trials share no wave")
    for name in ("num_envs", "unroll", "inner", "cycles", "warmup"):
        if f"loop.{name}" in varied:
            raise ValueError(f"loop.{name} must not be varied with --prune, which compares trials after equal chunks")
    chunks = chunks_for(sweep.base.loop, sweep.base.steps)
    if pruning.after >= chunks:
        raise ValueError(f"--prune-after must be below the {chunks} chunks of a trial, got {pruning.after}")


class Search:
    """A search under way; the source of its waves' trials.

    `sweep.json` keeps, beside the trials, the programs' trials, how many programs have ended, and the mark to which a
    search goes back that was killed before the first checkpoint of a program.

    Args:
      sweep, grid, ranges, out, at_once, pruning: as in `run`.
    """

    def __init__(
        self, sweep: Sweep, grid: Mapping[str, Sequence[Any]], ranges: Mapping[str, Range], out: Path, at_once: int,
        pruning: Pruning,
    ):  # fmt: skip
        self.sweep, self.grid, self.ranges, self.out, self.at_once = sweep, grid, ranges, out, at_once
        self.pruning = pruning
        self.programs: list[list[int]] = []  # their trials, in the order in which they began
        self.ended = 0  # programs
        self.begun: list[int] = []  # the trials that the program under way began with
        self.devices = 1  # among which its rows are divided
        self.told: dict[str, Any] = {}  # the mark in `sweep.json`
        self.coming: list[int] = []  # trials that are to take slots before any other
        self.taken: dict[int, int] = {}  # environment steps of the trials that have ended
        self.opened: Study | None = None

    # What is on disk.

    def mark(self) -> dict[str, Any]:
        """How far the search has come, for `back`."""
        log = self.out / STUDY
        program = list(self.programs[-1]) if self.under_way() else []
        return {"log": log.stat().st_size if log.exists() else 0, "trials": len(self.sweep.trials), "program": program}

    def write(self, marked: bool = True) -> None:
        """Writes `sweep.json`.

        Args:
          marked: a search that is killed goes back to here; else to where it would have gone back before.
        """
        self.told = self.mark() if marked else self.told
        kept = {"ended": self.ended, "begun": self.begun, "devices": self.devices, "mark": self.told}
        write(self.sweep, self.out, self.programs, kept)

    def load(self) -> None:
        """Reads `sweep.json`; without a program under way, goes back to its mark."""
        told = read_json(self.out / "sweep.json")
        self.sweep = self.sweep._replace(trials=[as_read(values) for values in told["trials"].values()])
        self.programs, self.ended, self.begun = told["programs"], told["ended"], told["begun"]
        self.devices, self.told = told["devices"], told["mark"]
        for number in (number for program in self.programs for number in program):
            summary = self.out / self.sweep.name(number) / "summary.json"
            if summary.exists():
                self.taken[number] = read_json(summary)["env_steps"]
        if not self.under_way():
            self.back(None, ())

    def back(self, mark: Mapping[str, Any] | None, running: Sequence[int]) -> None:
        """Goes back to a mark: Optuna's log, the trials, and their files are as they were then.

        Args:
          mark: None for that of `sweep.json`.
          running: trials that were under way, whose rows are read from their files.
        Raises:
          ValueError: the log is shorter than it was.
        """
        mark = mark or self.told
        log, self.opened = self.out / STUDY, None
        size = log.stat().st_size if log.exists() else 0
        if size < mark["log"]:
            raise ValueError(f"{log} must have at least {mark['log']} bytes to go on, it has {size}: it was changed")
        if size > mark["log"]:
            os.truncate(log, mark["log"])
        if self.under_way():
            self.programs[-1] = list(mark["program"])
            self.coming = [] if running else list(self.begun)
        ended = {number for program in self.programs for number in program} - {*running, *self.coming}
        for number in range(len(self.sweep.trials)):
            if number not in ended:
                self.taken.pop(number, None)
                _emptied(self.out / self.sweep.name(number), keep=number in running)
        self.sweep = self.sweep._replace(trials=self.sweep.trials[: mark["trials"]])
        self.write(marked=False)

    @property
    def study(self) -> Study:
        """Optuna's study."""
        if self.opened is None:
            self.opened = Study(self.out, self.pruning.kind, self.pruning.after, startup(self.sweep))
        return self.opened

    # Programs.

    def under_way(self) -> bool:
        """Whether a program has begun and not ended."""
        return self.ended < len(self.programs)

    def waiting(self) -> list[int]:
        """The trials that were asked for and are in no program yet."""
        known = {number for program in self.programs for number in program}
        return [number for number in range(len(self.sweep.trials)) if number not in known]

    def begin(self) -> bool:
        """Begins the next program, with as many of the waiting trials as it can run; whether there are any."""
        while len(self.waiting()) < self.at_once and self._ask():
            pass
        waiting = self.waiting()
        if not waiting:
            return False
        groups, _ = planned(self.sweep._replace(trials=[self.sweep.trials[number] for number in waiting]))
        self.begun = [waiting[i] for i in max(groups, key=len)]
        self.programs.append(list(self.begun))
        self.coming, self.devices = list(self.begun), joined(self.sweep, self.begun).devices
        self.write()
        return True

    def work(self, how: How) -> bool:
        """Runs the program under way; returns whether it has come to its end."""
        folder = self.out / "programs" / str(len(self.programs) - 1)
        folder.mkdir(parents=True, exist_ok=True)
        job = joined(self.sweep, self.begun)
        job = job._replace(groups=self.devices, devices=math.gcd(self.devices, job.devices))
        base = self.sweep.base

        def draw(trial: Path) -> None:
            curves.draw(trial / "curve.png", [trial], None, base.threshold)

        title = f"{base.algo} {base.env}, program {len(self.programs)}"
        progress = Progress(title, self.steps()[1], base.seeds, how.quiet)
        wave = Wave(side_by_side(self.sweep, self.begun), job, self.out, folder, self, progress, draw)
        if not wave.run(how.checkpoint_seconds):
            return False
        self.ended += 1
        self.write()
        shutil.rmtree(folder)
        with suppress(OSError):  # another program is there
            folder.parent.rmdir()
        return True

    # The trials of a wave.

    def next(self) -> int | None:
        """The trial that takes the next slot: one that waits, or one that is asked for."""
        if self.coming:
            return self.coming.pop(0)
        while True:
            waiting = self.waiting()
            fixed = self.sweep.fixed(self.begun[0])
            number = next((number for number in waiting if self.sweep.fixed(number) == fixed), None)
            if number is not None:
                self.programs[-1].append(number)
                self.write(marked=False)
                return number
            if len(waiting) >= self.at_once or not self._ask():
                return None

    def _ask(self) -> bool:
        """Asks for a trial; False where all have been asked for."""
        if len(self.sweep.trials) >= self.sweep.total:
            return False
        values = self.study.ask(self.sweep, self.grid, self.ranges)
        self.sweep = self.sweep._replace(trials=[*self.sweep.trials, values])
        if self.under_way():
            self.write(marked=False)
        return True

    def trial(self, number: int) -> Trial:
        """A trial as a wave takes it."""
        values = {name: x for name, x in self.sweep.trials[number].items() if is_float(self.sweep.base.agent, name)}
        return Trial(self.sweep.name(number), self.sweep.job(number), values)

    def after(self, standings: Sequence[Standing]) -> list[str]:
        """Tells Optuna of a chunk, of all trials before it is asked which are to end."""
        fates = [DIVERGED if one.diverged else FINISHED if one.finished else "" for one in standings]
        for one, fate in zip(standings, fates, strict=True):
            score = _middle(one.scores)
            if fate != DIVERGED and math.isfinite(score):
                self.study.report(one.number, one.chunks, score)
            if fate:
                self.study.tell(one.number, math.nan if fate == DIVERGED else _middle(one.recent))
        for i, one in enumerate(standings):
            if not fates[i] and math.isfinite(_middle(one.scores)) and self.study.prune(one.number):
                fates[i] = PRUNED
            if fates[i]:
                self.taken[one.number] = one.env_steps
        return fates

    def steps(self) -> tuple[int, int]:
        """Environment steps of one seed that ended trials took, and that all take if none is pruned any more."""
        loop = self.sweep.base.loop
        left = self.sweep.total - len(self.taken)
        whole = env_steps(loop, chunks_for(loop, self.sweep.base.steps))
        return sum(self.taken.values()), sum(self.taken.values()) + left * whole


def _emptied(folder: Path, keep: bool) -> None:
    """Removes the files of a trial; those of its rows stay where it is to go on."""
    if keep:
        for name in ("summary.json", "curve.png", "config.json"):
            (folder / name).unlink(missing_ok=True)
        folder = folder / "checkpoints"
    if folder.exists():
        remove_real(folder, folder.parent)


def _middle(scores: Sequence[float | None]) -> float:
    """The interquartile mean over seeds; NaN where one has no score."""
    found = [math.nan if score is None else score for score in scores]
    return float(interquartile_mean(np.asarray(found, np.float64)))
