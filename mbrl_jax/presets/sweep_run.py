"""Runs the programs of a sweep, by one process or by several that share its folder.

Every program is claimed by the process that runs it, with a lock of the operating system (`train.folder.claimed`),
which ends with the process. Who comes next to a program that was left goes on from its checkpoint.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mbrl_jax.analysis import curves
from mbrl_jax.presets.sweep import Sweep, joined, planned, program
from mbrl_jax.train import run as runs
from mbrl_jax.train.folder import InUse, claimed
from mbrl_jax.train.log import Progress, plain, write_json
from mbrl_jax.train.loop import chunks_for, env_steps
from mbrl_jax.train.run_files import read_json
from mbrl_jax.train.swept import finished, part

FORMAT = 1  # of `sweep.json`

CLAIMS = ".claims"
"""The folder of the programs' locks, within a sweep's."""

PATIENCE = 600.0
"""Seconds to wait for another process that writes `sweep.json`."""


class How(NamedTuple):
    """What does not decide a sweep's numbers."""

    quiet: bool = False
    checkpoint_seconds: float = 30.0  # least between checkpoints; 0 saves one after every chunk
    env_workers: int = 0  # processes that share environments whose steps are Python
    first: int = 0  # the program to begin with; those before it come last


class Outcome(NamedTuple):
    """How far a sweep has come."""

    done: bool  # all programs have come to their end
    stopped: bool = False  # by a signal
    elsewhere: tuple[str, ...] = ()  # programs that other processes have claimed, and which


class Lines(Progress):
    """Progress of a program; what it says of rows is in words of trials and seeds.

    Args:
      title: of the program.
      jobs: its trials.
      names: of their folders.
      quiet: print nothing.
    """

    def __init__(self, title: str, jobs: Sequence[runs.Job], names: Sequence[str], quiet: bool):
        job = jobs[0]
        self.job, self.names = job, names
        super().__init__(title, env_steps(job.loop, chunks_for(job.loop, job.steps)), len(jobs) * job.seeds, quiet)

    def say(self, text: str) -> None:
        seeds = self.job.seeds
        if len(self.names) > 1:
            text = text.replace(f"{self.seeds} seeds ...", f"{len(self.names)} trials of {seeds} seeds ...")
            if found := re.match(r"seeds? ([\d, ]+) (?=diverged)", text):
                rows = [int(row) for row in found[1].split(",")]
                where = ", ".join(f"{self.names[row // seeds]} seed {self.job.seed + row % seeds}" for row in rows)
                text = f"{where} {text[found.end() :]}"
        super().say(text)


def check(sweep: Sweep, out: Path, resume: bool) -> None:
    """Checks that a sweep can start or go on in a folder; writes nothing.

    Args:
      sweep: what is to run.
      out: its folder.
      resume: whether a sweep there is to be continued.
    Raises:
      ValueError: the folder holds something else, or a sweep of other settings, which are named.
    """
    path = out / "sweep.json"
    if not resume:
        if path.exists():
            raise ValueError(f"--out {out} holds another sweep; choose a new folder, or add --resume to continue it")
        if out.exists() and (not out.is_dir() or any(not file.name.startswith(".") for file in out.iterdir())):
            raise ValueError(f"--out {out} must be a new or an empty folder")
        return
    if not path.exists():
        raise ValueError(f"--resume needs a sweep in --out {out}, and there is none (no sweep.json)")
    saved, new = read_json(path), plain(sweep.asked)
    if saved.get("format", 0) > FORMAT:
        raise ValueError(f"{path} has format {saved['format']}, of a newer version; this one knows up to {FORMAT}")
    old = saved.get("asked", {})
    names = [*new, *(name for name in old if name not in new)]
    pairs = [(name, old.get(name), new.get(name)) for name in names]
    differ = [f"{name} is {there!r} there, {here!r} here" for name, there, here in pairs if there != here]
    if differ:
        raise ValueError(f"--resume needs the settings of the sweep in {out}: {'; '.join(differ)}")


def begin(sweep: Sweep, out: Path, resume: bool, how: How, join: bool = False) -> str:
    """Writes `sweep.json` of a new sweep; checks that of one to be continued.

    Args:
      sweep: what is to run.
      out: its folder.
      resume: whether a sweep there is to be continued.
      how: it is run.
      join: begin it, or continue one that another process has begun just now.
    Returns:
      a line on memory, "" for a sweep that was begun before.
    Raises:
      ValueError: the folder cannot be used, or a setting is wrong.
    """
    if not join:
        check(sweep, out, resume)
    groups, line = ([], "") if resume or join else planned(sweep, how.env_workers)
    with claimed(out, wait=PATIENCE if join or resume else 0.0):
        resume = resume or (join and (out / "sweep.json").exists())
        check(sweep, out, resume)
        if not resume:
            if join:
                groups, line = planned(sweep, how.env_workers)
            write(sweep, out, groups)
    return line


def write(sweep: Sweep, out: Path, groups: Sequence[Sequence[int]], more: dict[str, Any] | None = None) -> None:
    """Writes `sweep.json`.

    Args:
      sweep: its trials.
      out: its folder.
      groups: the trials of each program.
      more: what else is to be kept.
    """
    trials = {sweep.name(i): values for i, values in enumerate(sweep.trials)}
    told = {"format": FORMAT, "asked": sweep.asked, "programs": groups, "trials": trials, "versions": runs.versions()}
    write_json(out / "sweep.json", told | (more or {}))


def run(sweep: Sweep, out: Path, *, resume: bool = False, how: How | None = None, join: bool = False) -> Outcome:
    """Runs the trials of a sweep, one program after the other, and leaves each the folder of a run.

    A program that several trials share keeps its checkpoints in `programs/` until it has ended. A sweep that was killed
    goes on from there, bitwise; programs that have ended are not run again, and those that another process runs are
    left to it.

    Args:
      sweep: what to run.
      out: its folder.
      resume: go on with the sweep there.
      how: to run it.
      join: go on with the sweep there, or begin it where there is none.
    Returns:
      how far it has come.
    Raises:
      ValueError: the folder cannot be used, or a setting is wrong.
    """
    how = how or How()
    line = begin(sweep, out, resume, how, join)
    groups = read_json(out / "sweep.json")["programs"]
    if not how.quiet:
        count, seeds = len(sweep.trials), sweep.base.seeds
        print(
            f"{count} trials of {seeds} seed{'s' * (seeds > 1)} in {len(groups)} program{'s' * (len(groups) > 1)}",
            flush=True,
        )
        print(line, end="\n" * bool(line), flush=True)
    return work(sweep, out, range(len(groups)), groups, how)


def work(sweep: Sweep, out: Path, numbers: Sequence[int], groups: Sequence[Sequence[int]], how: How) -> Outcome:
    """Runs programs that nobody else has claimed.

    Args:
      sweep: their trials.
      out: the sweep's folder.
      numbers: of the programs.
      groups: the trials of every program.
      how: to run them.
    Returns:
      how far they have come.
    """
    elsewhere = []
    start = how.first % max(1, len(numbers))
    for number in [*numbers[start:], *numbers[:start]]:
        title = f"{sweep.base.algo} {sweep.base.env}, program {number + 1} of {len(groups)}"
        try:
            with claimed(out / CLAIMS / str(number)):
                if not _program(sweep, out, groups[number], number, title, how):
                    return Outcome(False, stopped=True)
        except InUse as error:
            elsewhere.append(f"program {number + 1} by {error.owner}")
    return Outcome(not elsewhere, elsewhere=tuple(elsewhere))


def _program(sweep: Sweep, out: Path, group: Sequence[int], number: int, title: str, how: How) -> bool:
    """Runs one program, unless it has ended before; returns whether it has come to its end."""
    jobs, folders = [sweep.job(i) for i in group], [out / sweep.name(i) for i in group]
    together = out / "programs" / str(number)

    def drawn(folder: Path) -> None:
        curves.draw(folder / "curve.png", [folder], None, sweep.base.threshold)

    if not all(finished(job, folder) for job, folder in zip(jobs, folders, strict=True)):
        alone = len(group) == 1
        folder = folders[0] if alone else together
        result = runs.run(
            program(sweep, group, how.env_workers), joined(sweep, group), folder,
            resume=(folder / "config.json").exists(), quiet=True, checkpoint_seconds=how.checkpoint_seconds,
            draw=drawn if alone else None, progress=Lines(title, jobs, [sweep.name(i) for i in group], how.quiet),
        )  # fmt: skip
        if not result.finished:
            return False
        for i, (job, own) in enumerate(zip(jobs, folders, strict=True)):
            if not alone and not finished(job, own):
                part(result.state, i, job, together, own)
                drawn(own)
    if together.exists():
        shutil.rmtree(together)
        with suppress(OSError):  # other programs are there
            together.parent.rmdir()
    return True
