"""Sweeps: many trials of one agent, those of the same shapes in one program; `sweep_run.py` runs them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from mbrl_jax.core.config import flat, replace
from mbrl_jax.core.types import HostEnv
from mbrl_jax.models.dynamics.known import settled
from mbrl_jax.presets import checks
from mbrl_jax.presets.builder import Preset, build
from mbrl_jax.presets.offline import Data
from mbrl_jax.presets.registry import AGENTS
from mbrl_jax.train import run as runs
from mbrl_jax.train.devices import shared_by
from mbrl_jax.train.loop import LoopConfig
from mbrl_jax.train.population import Evolution
from mbrl_jax.train.swept import Swept, text


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
    devices: int = 0  # the most that share the rows of a program; 0: all there are
    together: int = 0  # the most trials in a program; 0: as many as memory allows
    total: int = 0  # trials at the end, where a search adds to them
    evolution: Evolution | None = None  # of a population, whose members the trials are
    data: Data | None = None  # rows that every trial learns from, or begins with

    def name(self, index: int) -> str:
        """A trial's folder."""
        return f"trial-{index:0{len(str(max(len(self.trials), self.total) - 1))}d}"

    def job(self, index: int) -> runs.Job:
        """A trial as a run of its own."""
        agent, loop = changed(self.base.agent, self.base.loop, self.trials[index])
        shared = 1 if isinstance(self.made, HostEnv) else shared_by(self.devices, self.base.seeds)
        job = self.base._replace(agent=settled(agent), loop=loop, devices=shared)
        return job._replace(command=command(job, self.known))

    def groups(self) -> list[list[int]]:
        """The trials that one program can run: those that differ in float settings of the agent alone."""
        found: dict[str, list[int]] = {}
        for i in range(len(self.trials)):
            alone = i if isinstance(self.made, HostEnv) else None  # its steps are Python: nothing to vmap over
            found.setdefault(repr((alone, self.fixed(i))), []).append(i)
        return list(found.values())

    def fixed(self, index: int) -> list[tuple[str, Any]]:
        """A trial's settings that decide what its program is."""
        values = self.trials[index].items()
        return sorted((name, value) for name, value in values if not is_float(self.base.agent, name))


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
    words += ["--data", job.data] if job.data else []
    words += ["--offline"] if job.offline and not AGENTS[job.algo].offline else []
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
            build(job.algo, sweep.made, job.agent, job.loop, workers, data=sweep.data)
        except ValueError as error:
            given = ", ".join(f"{name}={text(value)}" for name, value in values.items())
            raise ValueError(f"{sweep.name(i)} ({given}): {error}") from error
    found: list[list[int]] = []
    lines: list[tuple[int, str]] = []
    for group in sweep.groups():
        size = min(len(group), sweep.together or len(group))
        while True:
            job = sweep.job(group[0])
            together = joined(sweep, group[:size])
            try:
                loop = build(job.algo, sweep.made, job.agent, job.loop, workers, data=sweep.data)
                line = checks.checked(loop, together._replace(agent=job.agent))[1]
                break
            except ValueError as error:
                if size == 1 or not str(error).startswith("seeds must be lower"):
                    raise
                if sweep.evolution is not None:
                    raise ValueError(
                        f"trials must be lower than {size}, the members of a population: {error}"
                    ) from error
                size = -(-size // 2)
        lines.append((size, line))
        found += [group[i : i + size] for i in range(0, len(group), size)]
    return found, max(lines)[1]


def joined(sweep: Sweep, group: Sequence[int]) -> runs.Job:
    """Several trials as one run, whose seeds are the seeds of all; the swept settings are tuples.

    Args:
      sweep: of the trials.
      group: the trials of a program.
    """
    if len(group) == 1:
        return sweep.job(group[0])
    first = sweep.job(group[0])
    values = {name: tuple(sweep.trials[i][name] for i in group) for name in _floats(sweep, group)}
    rows = len(group) * first.seeds
    shared = 1 if isinstance(sweep.made, HostEnv) else shared_by(sweep.devices, rows)
    agent = changed(first.agent, first.loop, values)[0]
    return first._replace(agent=agent, seed=0, seeds=rows, devices=shared)


def program(sweep: Sweep, group: Sequence[int], workers: int = 0) -> Any:
    """What `train.run.run` takes for the trials of a program: the loop of one, or all of them side by side.

    Args:
      sweep: of the trials.
      group: the trials of the program.
      workers: as in `build`.
    """
    if len(group) == 1:
        first = sweep.job(group[0])
        return build(first.algo, sweep.made, first.agent, first.loop, workers, data=sweep.data)
    return side_by_side(sweep, group)


def side_by_side(sweep: Sweep, group: Sequence[int]) -> Swept:
    """Trials of the same shapes in one program, whose float settings are arrays.

    Args:
      sweep: of the trials.
      group: the trials of the program, at least one.
    """
    first = sweep.job(group[0])
    values = {name: [sweep.trials[i][name] for i in group] for name in _floats(sweep, group)}

    def built(traced: dict[str, Any]) -> Any:
        agent, loop_cfg = changed(first.agent, first.loop, traced)
        return build(first.algo, sweep.made, agent, loop_cfg, data=sweep.data)

    return Swept(built, values, first.seed, first.seeds, sweep.evolution, len(group))


def _floats(sweep: Sweep, group: Sequence[int]) -> list[str]:
    """The float settings in which the trials of a program may differ."""
    return [name for name in sweep.trials[group[0]] if is_float(sweep.base.agent, name)]
