"""Sweeps: many trials of one agent, those of the same shapes in one program, each with the folder of a run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mbrl_jax.analysis import curves
from mbrl_jax.core.config import flat, replace
from mbrl_jax.core.types import HostEnv
from mbrl_jax.models.dynamics.known import settled
from mbrl_jax.presets import checks
from mbrl_jax.presets.builder import Preset, build
from mbrl_jax.train import devices
from mbrl_jax.train import run as runs
from mbrl_jax.train.folder import claimed
from mbrl_jax.train.log import Progress, plain, write_json
from mbrl_jax.train.loop import LoopConfig, chunks_for, env_steps
from mbrl_jax.train.run_files import read_json
from mbrl_jax.train.swept import Swept, finished, part, text

FORMAT = 1  # of `sweep.json`


class Range(NamedTuple):
    """Values to draw from."""

    low: float
    high: float
    log: bool  # uniform in the logarithm
    whole: bool  # whole numbers alone


class Sweep(NamedTuple):
    """What is swept: every trial is `base` with some settings changed."""

    base: runs.Job  # of one trial: `seeds` are those of each
    known: Preset  # what the settings are where nothing is said of them
    made: Any  # the environment
    trials: list[dict[str, Any]]  # settings by their full names, "agent.lr"
    asked: dict[str, Any]  # what the user gave, as `sweep.json` holds it

    def name(self, index: int) -> str:
        """A trial's folder."""
        return f"trial-{index:0{len(str(len(self.trials) - 1))}d}"

    def job(self, index: int) -> runs.Job:
        """A trial as a run of its own."""
        agent, loop = changed(self.base.agent, self.base.loop, self.trials[index])
        job = self.base._replace(agent=settled(agent), loop=loop)
        return job._replace(command=command(job, self.known))

    def groups(self) -> list[list[int]]:
        """The trials that one program can run: those that differ in float settings of the agent alone."""
        found: dict[str, list[int]] = {}
        for i, values in enumerate(self.trials):
            fixed = {name: value for name, value in values.items() if not is_float(self.base.agent, name)}
            alone = i if isinstance(self.made, HostEnv) else None  # its steps are Python: nothing to vmap over
            found.setdefault(repr((alone, sorted(fixed.items()))), []).append(i)
        return list(found.values())


def is_float(agent: Any, name: str) -> bool:
    """Whether a setting is a float of the agent, which may be traced.

    Args:
      agent: its config.
      name: full, "agent.lr".
    """
    leaves = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(agent)[0]}
    return name.startswith("agent.") and name.removeprefix("agent") in leaves


def changed(agent: Any, loop: LoopConfig, values: Mapping[str, Any]) -> tuple[Any, LoopConfig]:
    """Both configs with settings changed by their full names.

    Args:
      agent, loop: the configs.
      values: "agent.lr" or "loop.updates" to its value.
    Raises:
      ValueError: a name is no setting.
    """
    parts = {
        part: {name.removeprefix(f"{part}."): value for name, value in values.items() if name.startswith(f"{part}.")}
        for part in ("agent", "loop")
    }
    return replace(agent, parts["agent"]), replace(loop, parts["loop"])


def draw(
    grid: Mapping[str, Sequence[Any]], ranges: Mapping[str, Range], trials: int, seed: int
) -> list[dict[str, Any]]:
    """The trials' settings: the grid's points in turn, and a Latin hypercube over the ranges.

    Args:
      grid: settings to the values that are crossed with each other.
      ranges: settings to what is drawn for each trial.
      trials: how many; 0 for one of each point of the grid.
      seed: of what is drawn.
    Returns:
      one mapping for each trial; of several that come out the same, as few whole numbers may, one.
    Raises:
      ValueError: fewer trials than the grid has points, more without ranges, or none named with ranges.
    """
    points: list[dict[str, Any]] = [{}]
    for name, values in grid.items():
        points = [{**point, name: value} for point in points for value in values]
    if ranges and not trials:
        raise ValueError("--trials must be given with --sample: how many are to be drawn")
    if not ranges and trials not in (0, len(points)):
        raise ValueError(f"--trials must be {len(points)}, the points of --set, got {trials}; --sample draws more")
    if trials and trials < len(points):
        raise ValueError(f"--trials must be at least {len(points)}, the points of --set, got {trials}")
    found = [dict(points[i % len(points)]) for i in range(trials or len(points))]
    if ranges:
        from scipy.stats import qmc

        drawn = qmc.LatinHypercube(len(ranges), rng=seed).random(trials)
        for values, row in zip(found, drawn, strict=True):
            values |= {name: _at(span, float(x)) for (name, span), x in zip(ranges.items(), row, strict=True)}
    return list({repr(values): values for values in found}.values())


def _at(span: Range, x: float) -> float | int:
    """The value of a range at `x` in [0, 1)."""
    if span.whole and not span.log:
        return int(span.low + x * (span.high - span.low + 1))
    value = span.low * (span.high / span.low) ** x if span.log else span.low + x * (span.high - span.low)
    return round(value) if span.whole else float(f"{value:.6g}")  # short enough to be typed again


def command(job: runs.Job, known: Preset) -> str:
    """The command line of a plain run with a job's settings."""
    words = ["mbrl-jax", "train", job.algo, "--env", job.env, "--seeds", job.seeds, "--seed", job.seed]
    words += ["--steps", job.steps, "--wave", job.wave]
    if job.agent_module:
        words += ["--agent-module", job.agent_module]
    words += [word for name, value in job.env_args.items() for word in ("--env-arg", f"{name}={value}")]
    for prefix, now, usual in (("agent", job.agent, known.agent), ("loop", job.loop, known.loop)):
        usually = flat(usual)
        for name, value in flat(now).items():
            path, _, last = f"{prefix}.{name.replace('_', '-')}".rpartition(".")
            if value == usually[name]:
                continue
            if isinstance(value, bool):
                words.append(f"--{path}.{'' if value else 'no-'}{last}")
            else:
                words += [f"--{path}.{last}", *(value if isinstance(value, tuple) else [value])]
    return shlex.join(map(str, words))


class _Lines(Progress):
    """Progress of a program; what it says of rows is in words of trials and seeds."""

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
    differ = [f"{name} is {old.get(name)!r} there, {new[name]!r} here" for name in new if old.get(name) != new[name]]
    if differ:
        raise ValueError(f"--resume needs the settings of the sweep in {out}: {'; '.join(differ)}")


def planned(sweep: Sweep, workers: int = 0) -> tuple[list[list[int]], str]:
    """The programs of a sweep: trials of the same shapes, in as many parts as memory asks for.

    Every trial is built, so that whatever is wrong with its settings shows before anything runs.

    Args:
      sweep: what is to run.
      workers: as in `build`.
    Returns:
      the trials of each program; a line on the memory of the largest.
    Raises:
      ValueError: settings at odds with each other, or more memory for a single trial than there is.
    """
    for i, values in enumerate(sweep.trials):
        job = sweep.job(i)
        try:
            build(job.algo, sweep.made, job.agent, job.loop, workers)
        except ValueError as error:
            given = ", ".join(f"{name}={text(value)}" for name, value in values.items())
            raise ValueError(f"{sweep.name(i)} ({given}): {error}") from error
    found: list[list[int]] = []
    lines: list[tuple[int, str]] = []
    for group in sweep.groups():
        size = len(group)
        while True:
            job = sweep.job(group[0])
            together = _together(sweep, group[:size])
            try:
                loop = build(job.algo, sweep.made, job.agent, job.loop, workers)
                line = checks.checked(loop, together._replace(agent=job.agent))[1]
                break
            except ValueError as error:
                if size == 1 or not str(error).startswith("seeds must be lower"):
                    raise
                size = -(-size // 2)
        lines.append((size, line))
        found += [group[i : i + size] for i in range(0, len(group), size)]
    return found, max(lines)[1]


def _together(sweep: Sweep, group: Sequence[int]) -> runs.Job:
    """Several trials as one run, whose seeds are the seeds of all; the swept settings are tuples."""
    if len(group) == 1:
        return sweep.job(group[0])
    first = sweep.job(group[0])
    values = {name: tuple(sweep.trials[i][name] for i in group) for name in _floats(sweep, group)}
    rows = len(group) * first.seeds
    shared = 1 if isinstance(sweep.made, HostEnv) else devices.devices_for(0, rows)
    agent = changed(first.agent, first.loop, values)[0]
    return first._replace(agent=agent, seed=0, seeds=rows, devices=shared)


def _floats(sweep: Sweep, group: Sequence[int]) -> list[str]:
    """The float settings in which the trials of a program may differ."""
    return [name for name in sweep.trials[group[0]] if is_float(sweep.base.agent, name)]


def run(
    sweep: Sweep,
    out: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 30.0,
    workers: int = 0,
) -> bool:
    """Runs all trials of a sweep, one program after the other, and leaves each the folder of a run.

    A program that several trials share keeps its checkpoints in `programs/` until it has ended. A sweep that was killed
    goes on from there, bitwise; programs that have ended are not run again.

    Args:
      sweep: what to run.
      out: its folder.
      resume: go on with the sweep there.
      quiet: print nothing.
      checkpoint_seconds: least time between checkpoints, in seconds; 0 saves one after every chunk.
      workers: processes that share environments whose steps are Python.
    Returns:
      whether all trials have come to their end; False where a signal stopped them.
    Raises:
      ValueError: the folder cannot be used, or a setting is wrong.
    """
    check(sweep, out, resume)
    groups, line = ([], "") if resume else planned(sweep, workers)
    with claimed(out):
        check(sweep, out, resume)
        if resume:
            groups = read_json(out / "sweep.json")["programs"]
        else:
            trials = {sweep.name(i): values for i, values in enumerate(sweep.trials)}
            versions = runs.versions()
            told = {"format": FORMAT, "asked": sweep.asked, "programs": groups, "trials": trials, "versions": versions}
            write_json(out / "sweep.json", told)
        if not quiet:
            count, seeds = len(sweep.trials), sweep.base.seeds
            print(
                f"{count} trials of {seeds} seed{'s' * (seeds > 1)} in {len(groups)} program{'s' * (len(groups) > 1)}",
                flush=True,
            )
            print(line, end="\n" * bool(line), flush=True)
        for number, group in enumerate(groups):
            title = f"{sweep.base.algo} {sweep.base.env}, program {number + 1} of {len(groups)}"
            if not _program(sweep, out, group, number, title, quiet, checkpoint_seconds, workers):
                return False
    return True


def _program(
    sweep: Sweep,
    out: Path,
    group: list[int],
    number: int,
    title: str,
    quiet: bool,
    checkpoint_seconds: float,
    workers: int,
) -> bool:
    """Runs one program, unless it has ended before; returns whether it has come to its end."""
    jobs, folders = [sweep.job(i) for i in group], [out / sweep.name(i) for i in group]
    together = out / "programs" / str(number)

    def drawn(folder: Path) -> None:
        curves.draw(folder / "curve.png", [folder], None, sweep.base.threshold)

    if not all(finished(job, folder) for job, folder in zip(jobs, folders, strict=True)):
        alone, first = len(group) == 1, jobs[0]
        folder = folders[0] if alone else together
        loop: Any
        if alone:
            loop = build(first.algo, sweep.made, first.agent, first.loop, workers)
        else:
            values = {name: [sweep.trials[i][name] for i in group] for name in _floats(sweep, group)}

            def built(traced: dict[str, Any]) -> Any:
                agent, loop_cfg = changed(first.agent, first.loop, traced)
                return build(first.algo, sweep.made, agent, loop_cfg)

            loop = Swept(built, values, first.seed, first.seeds)
        result = runs.run(
            loop, _together(sweep, group), folder, resume=(folder / "config.json").exists(), quiet=True,
            checkpoint_seconds=checkpoint_seconds, draw=drawn if alone else None,
            progress=_Lines(title, jobs, [sweep.name(i) for i in group], quiet),
        )  # fmt: skip
        if not result.finished:
            return False
        for i, (job, own) in enumerate(zip(jobs, folders, strict=True)):
            if not alone and not finished(job, own):
                part(result.state, i, job, together, own)
                drawn(own)
    if together.exists():
        shutil.rmtree(together)
        if not any(together.parent.iterdir()):
            together.parent.rmdir()
    return True
