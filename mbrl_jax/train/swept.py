"""Trials in one program: a loop whose float settings are arrays, beside the seeds under `vmap`.

A row of the program is one seed of one trial. The rows of a trial are those of a run of its own, and are given the
files of one when the program has ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Array, Key, Tree
from mbrl_jax.train.driver import CompiledDriver, Driver, pieces_of, watched
from mbrl_jax.train.log import EVAL, Record, write_atomic
from mbrl_jax.train.loop import Loop, Pieces, Report, WarmUp, chunks_for, env_steps
from mbrl_jax.train.population import Evolution, Population, PopulationDriver, Row
from mbrl_jax.train.run import Job, leave, seed_keys
from mbrl_jax.train.run_files import read_json, read_table

Values = Mapping[str, Any]
"""Settings by dotted name."""


class Swept:
    """What `run` takes for several trials at once.

    Args:
      build: (values) -> the loop of one seed; the values are traced float32.
      values: of each setting that is swept, [trials].
      seed, seeds: of every trial, as in `Job`.
      evolution: how the trials are members of a population; None where they know nothing of each other.
      trials: how many; None where there are values, one for each.
    """

    def __init__(
        self,
        build: Callable[[dict[str, Array]], Loop],
        values: Mapping[str, Any],
        seed: int,
        seeds: int,
        evolution: Evolution | None = None,
        trials: int | None = None,
    ):
        self.build, self.seed, self.seeds, self.evolution = build, seed, seeds, evolution
        self.values = {name: np.asarray(each, np.float32) for name, each in values.items()}
        self.trials = len(next(iter(self.values.values()))) if trials is None else trials

    def loop(self) -> Loop:
        """The loop of one row, whose `init` takes a `Row` with a key; it is cut into pieces as that of a trial is."""
        # Settings change no shapes: one trial tells how a chunk is divided.
        one = pieces_of(self.build({name: jnp.float32(each[0]) for name, each in self.values.items()}))

        def begin(row: Row) -> tuple[Row, dict[str, Array]]:
            state, lost = watched(self.build(row.values))(row.state)
            return Row(row.values, state), lost

        def init(row: Row) -> Row:
            return begin(row)[0]

        def chunk(row: Row) -> tuple[Row, Report]:
            state, report = self.build(row.values).chunk(row.state)
            return Row(row.values, state), report

        def train(row: Any, chunks: int) -> tuple[Any, Report]:
            return jax.lax.scan(lambda row, _: chunk(row), init(row), None, length=chunks)

        def gather(row: Row) -> Tree:
            return pieces_of(self.build(row.values)).gather(row.state)

        def advance(row: Row, gathered: Tree, start: Array, stop: Array) -> tuple[Row, Tree, Report]:
            pieces = pieces_of(self.build(row.values))
            state, gathered, report = pieces.advance(row.state, gathered, start, stop)
            return Row(row.values, state), gathered, report

        made: Any = Pieces(one.units, one.blocks, one.block, gather, advance, chunk)  # pyright: ignore[reportArgumentType]
        return Loop(init, chunk, train, made, WarmUp(begin, init))  # pyright: ignore[reportArgumentType]

    def driver(self, job: Job) -> Driver:
        """Drives all rows; those of a trial follow each other."""
        one: Key = seed_keys(self.seed, self.seeds)
        keys = one[jnp.tile(jnp.arange(self.seeds), self.trials)]
        values = {name: jnp.repeat(jnp.asarray(each), self.seeds) for name, each in self.values.items()}
        driver = CompiledDriver(self.loop(), Row(values, keys), job.wave, job.devices, job.groups or None)
        if self.evolution is None:
            return driver
        return PopulationDriver(driver, self.evolution, self.trials, jax.random.key(self.seed))


def finished(job: Job, folder: Path | str) -> bool:
    """Whether a run in a folder has come to its last chunk and left all its files.

    Args:
      job: what was to run.
      folder: of the run.
    """
    path = Path(folder) / "summary.json"
    end = env_steps(job.loop, chunks_for(job.loop, job.steps))
    drawn = (path.parent / "curve.png").exists()
    return path.exists() and drawn and read_json(path).get("env_steps", 0) >= end


def part(state: Tree, index: int, job: Job, together: Path, folder: Path) -> Record:
    """Writes the files of one trial, once the program that it was part of has ended.

    Args:
      state: [trials x seeds, ...] of the program: `Row`s, or a `Population` of them.
      index: which of its trials.
      job: the trial's own.
      together: the folder of all trials in the program.
      folder: of the trial.
    Returns:
      the trial's rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = range(index * job.seeds, (index + 1) * job.seeds)

    def own(name: str) -> list[list[str]]:
        table = read_table(together / name).rows
        return [[str(job.seed + int(cells[0]) - rows.start), *cells[1:]] for _, cells in table if int(cells[0]) in rows]

    done = chunks_for(job.loop, job.steps)
    header = ",".join(read_table(together / "metrics.csv").columns)
    write_atomic(folder / "metrics.csv", "\n".join([header, *map(",".join, own("metrics.csv"))]) + "\n")
    write_atomic(folder / "eval.csv", "\n".join([EVAL, *map(",".join, own("eval.csv"))]) + "\n")
    record = Record(folder, range(job.seed, job.seed + job.seeds))
    record.load(env_steps(job.loop, done), done)
    kept: Row = state.rows if isinstance(state, Population) else state
    told = read_json(together / "summary.json")
    for seed, fate in zip(record.seeds, told["diverged"][rows.start : rows.stop], strict=True):
        if fate is not None:
            record.diverged[seed] = (fate["env_steps"], fate["first"])
    leave(
        job, record, done, jax.tree.map(lambda leaf: leaf[rows.start : rows.stop], kept.state), told["compile_seconds"]
    )
    return record


def text(value: Any) -> str:
    """A setting's value as the command line takes it: `0.001`, `true`, `64x64`.

    Args:
      value: a number, a truth value, text, or a tuple of whole numbers.
    """
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
