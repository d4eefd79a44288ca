"""Random faults to runs of one small agent.

Runs are made by two other processes that have all they need loaded already, and that make one run after the other
until they are killed. So a run begins within milliseconds, and most faults hit the midst of writing or of a chunk.
The agents that compile soonest train. Of the others the runs have the state, the rows and the files; a driver that
moves every number of the state stands in for training.
"""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import serialize_executable

from helpers import contract
from helpers.ordered import numbers, rows
from mbrl_jax.train import checkpoint
from mbrl_jax.train.driver import CompiledDriver, Note, Pace, Started, Work
from mbrl_jax.train.folder import DiskError
from mbrl_jax.train.loop import Report, env_steps, summarize
from mbrl_jax.train.run import Job, run, seed_keys

CHEAP = ("q_learning", "dyna_q", "dyna_q_plus", "sweeping", "dqn", "sac", "ppo", "mpc", "uct")  # seconds to compile
TRAINED = ("q_learning", "dyna_q", "dyna_q_plus", "dqn", "ppo", "mpc")  # by the soak: the cheapest
CHUNKS, SEEDS = 2, 2
KINDS = ("kill", "terminate", "stop and continue", "flip", "truncate", "fill", "two writers")
COLUMNS = ("fault", "agent", "kind", "outcome", "said")
RIGHT, CLEAR, LOUD, SILENT = "right", "refused in one line", "failed otherwise", "silently wrong"
DONE, STOPPED, DIED, REFUSED = "done", "stopped", "died", "refused: "
LONG = 300  # seconds after which a run counts as hung


def job_of(algo: str, kind: str) -> Job:
    cfg = contract.loop_settings(algo)
    job = Job(algo, kind, contract.settings(algo), cfg, env_steps(cfg, CHUNKS), seed=3, seeds=SEEDS)
    return job._replace(command=f"python scripts/train.py {algo} --steps 5")


class Sizes(NamedTuple):
    """Those of `train.loop.Pieces`."""

    units: int
    blocks: int
    block: int


class Programs(NamedTuple):
    """What a run needs of an agent, compiled."""

    init: Any
    gather: Any
    advance: Any
    sizes: Sizes
    shapes: Work

    @staticmethod
    def save(algo: str, kind: str, path: Path) -> None:
        """Compiles them as a run does."""
        made = {made.__name__: made for name, made in contract.CASES if name == algo}[kind]
        driver = CompiledDriver(contract.build(algo, made), seed_keys(3, SEEDS), 1, 1)
        work = driver.start(None).work
        init, gather = driver._init.lower(driver.keys).compile(), driver._gather.lower(work.state).compile()
        kept = [serialize_executable.serialize(program) for program in (init, gather, driver.program)]
        pieces = driver.pieces
        sizes = Sizes(pieces.units, pieces.blocks, pieces.block)
        path.with_suffix(".part").write_bytes(pickle.dumps((kept, sizes, driver.shapes())))
        path.with_suffix(".part").rename(path)

    @staticmethod
    def load(path: Path) -> Programs | Forms:
        found = pickle.loads(path.read_bytes())
        if isinstance(found, Forms):
            return found
        kept, sizes, shapes = found
        return Programs(*(serialize_executable.deserialize_and_load(*one) for one in kept), sizes, shapes)


class Driver(CompiledDriver):
    """The compiled loop's driver with programs that are compiled already."""

    def __init__(self, programs: Programs, keys: Any):
        self.programs, self.keys, self.wave, self.devices, self.groups = programs, keys, 1, 1, None
        self.pieces: Any = programs.sizes
        self.pace = Pace(self.pieces.units, self.pieces.blocks)
        self.alive, self._alive = np.ones(len(keys), bool), None

    def shapes(self) -> Work:
        return self.programs.shapes

    def start(self, work: Work | None) -> Started:
        work = Work(self.programs.init(self.keys)[0]) if work is None else work
        self.gathered = work.part if work.position else self.programs.gather(work.state)
        self.bounds, self.program = (jnp.int32(0), jnp.int32(self.pieces.units)), self.programs.advance
        return Started(Work(work.state, self.gathered if work.position else (), work.position), 0.0, 0.0)


class Forms(NamedTuple):
    """What a run needs of an agent that is not trained: the form of its state."""

    sizes: Sizes
    shapes: Work
    episodes: int

    @staticmethod
    def save(algo: str, kind: str, path: Path) -> None:
        """Traces them; compiles nothing."""
        made = {made.__name__: made for name, made in contract.CASES if name == algo}[kind]
        driver = CompiledDriver(contract.build(algo, made), seed_keys(3, SEEDS), 1, 1)
        pieces = driver.pieces
        forms = Forms(
            Sizes(pieces.units, pieces.blocks, pieces.block),
            driver.shapes(),
            contract.loop_settings(algo).eval_episodes,
        )
        path.with_suffix(".part").write_bytes(pickle.dumps(forms))
        path.with_suffix(".part").rename(path)


def moved(tree: Any, by: int) -> Any:
    """Every number of a tree changed, each by what it and its neighbour were."""

    def one(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)))
        old = np.asarray(leaf)
        if not old.size:
            return old
        beside = np.roll(old, 1)
        if old.dtype == bool:
            return (old ^ beside) if by % 2 else ~old
        if np.issubdtype(old.dtype, np.integer):
            return (old * 3 + beside + by).astype(old.dtype)
        return (0.5 * old.astype(np.float32) - 0.4 * beside.astype(np.float32) + 0.01 * by + 0.1).astype(old.dtype)

    return jax.tree.map(one, tree)


class Moved:
    """A driver that trains nothing. What it does depends on all of the state, and not on how a chunk is divided."""

    def __init__(self, forms: Forms, seed: int):
        self.forms, self.seed, self.pace = forms, seed, Pace(forms.sizes.units, forms.sizes.blocks)

    def zeros(self, tree: Any) -> Any:
        def one(leaf: Any) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.split(jax.random.key(self.seed), leaf.shape)
            return np.zeros(leaf.shape, leaf.dtype)

        return jax.tree.map(one, tree)

    def shapes(self) -> Work:
        return self.forms.shapes

    def start(self, work: Work | None) -> Started:
        return Started(Work(moved(self.zeros(self.forms.shapes.state), self.seed)) if work is None else work, 0.0, 0.0)

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        state, part, start = work
        part = part if start else self.zeros(self.forms.shapes.part)
        stop = self.pace.stop(start)
        for unit in range(start, stop):
            state, part = moved(state, unit), moved(part, unit)
        if stop < self.pace.units:
            return Work(state, part, stop), None
        metrics = jax.vmap(lambda part: summarize(*part))(part)
        total = sum(np.float32(leaf.astype(np.float32).sum()) for leaf in numbers(state) if leaf.dtype.kind == "f")
        returns = np.broadcast_to(np.float32(total), (SEEDS, self.forms.episodes))
        return Work(state), Report(metrics, returns, np.ones(returns.shape, np.int32))

    def note(self, work: Work) -> Note:
        return Note(0, "moving")

    def not_resumed(self) -> str:
        return ""

    def seconds(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


# The processes that train ---------------------------------------------------------------------------------------------


class Trainer(NamedTuple):
    """Runs of one agent, one after the other."""

    programs: Programs | Forms
    spans: list[tuple[float, float]]
    """When its runs began and ended, on a clock that all processes share."""

    def driver(self, job: Job) -> Driver | Moved:
        if isinstance(self.programs, Forms):
            return Moved(self.programs, job.seed)
        return Driver(self.programs, seed_keys(job.seed, job.seeds))

    def train(self, job: Job, out: Path, delay: float) -> str:
        """A run whose pieces are short, each with a checkpoint; goes on with the one in the folder, if there is one."""

        def short(pace: Pace, start: int) -> int:
            time.sleep(delay)
            return min(pace.units, start + 4)

        Pace.stop = short
        resume, began = (out / "config.json").exists(), time.monotonic()
        try:
            result = run(self, job, out, resume=resume, quiet=True, checkpoint_seconds=1e-9)
        except (ValueError, DiskError) as error:
            return REFUSED + str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self.spans.append((began, time.monotonic()))
        return DONE if result.finished else STOPPED

    def span(self) -> tuple[float, float]:
        return self.spans[-1]

    def same(self, out: Path, whole: Path) -> bool:
        """Whether a run has ended as another one."""
        like = self.programs.shapes
        states = [numbers(checkpoint.newest(x / "checkpoints", like.state, like.part).state) for x in (out, whole)]
        equal = all(np.array_equal(x, y, equal_nan=True) for x, y in zip(*states, strict=True))
        return equal and all(rows(out, name) == rows(whole, name) for name in ("metrics.csv", "eval.csv"))


def serve(path: Path, calls: Any) -> None:
    """What such a process does: it calls methods of its trainer by name."""
    trainer = Trainer(Programs.load(path), [])
    calls.send("ready")
    while True:
        name, arguments = calls.recv()
        calls.send(getattr(trainer, name)(*arguments))


class Process:
    """A process that trains."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.soak", "orbax.checkpoint"])

    def __init__(self, path: Path):
        self.calls, theirs = self.context.Pipe()
        self.process = self.context.Process(target=serve, args=(path, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.answer: Any = None
        self.wait(LONG)

    def begin(self, name: str, *arguments: Any) -> None:
        self.answer = None
        self.calls.send((name, arguments))

    def wait(self, seconds: float) -> Any:
        """What the call returned, `DIED` where the process did, None where it goes on."""
        if self.answer is None:
            try:
                self.answer = self.calls.recv() if self.calls.poll(seconds) else None
            except (EOFError, ConnectionResetError):
                self.process.join()
                self.answer = DIED
        return self.answer

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)


# Faults ---------------------------------------------------------------------------------------------------------------


def keeping(folder: Path) -> dict[str, str]:
    """Settings with which JAX writes what it compiles into a folder: some programs cannot be saved without."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }  # fmt: skip


class Soak:
    """Faults to runs of one agent, with its programs, its unbroken run and one stopped within its second chunk."""

    def __init__(self, algo: str, kind: str, folder: Path):
        self.job, self.path, self.whole, self.half = job_of(algo, kind), folder / "programs", folder / "w", folder / "h"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            made = "Programs" if algo in TRAINED else "Forms"
            code = f"from helpers.soak import *; {made}.save({algo!r}, {kind!r}, Path({str(self.path)!r}))"
            subprocess.run([sys.executable, "-c", code], env={**os.environ, **keeping(folder)}, check=True)
        self.processes: list[Process] = []
        self.delay = 0.05
        for out in (self.whole, self.half):
            while not out.with_suffix(".done").exists():
                self.make(out)

    def make(self, out: Path) -> None:
        """The unbroken run, or the one stopped within its second chunk; nothing where that one ended before."""
        shutil.rmtree(out, ignore_errors=True)
        begun = self.start(out, delay=self.delay if out == self.half else 0.0)
        if out == self.half:
            while begun.wait(0.005) is None and (checkpoint.latest_place(out / "checkpoints") or (0, 0)) < (1, 5):
                pass
            begun.send(signal.SIGTERM)
            if begun.wait(LONG) == DONE and self.delay < 2:  # a busy machine: the signal came too late
                self.delay *= 2
                return
        assert begun.wait(LONG) == (DONE if out == self.whole else STOPPED), begun.answer
        out.with_suffix(".done").touch()

    def free(self) -> Process:
        """A process that has nothing to do, a new one if need be."""
        self.processes = [one for one in self.processes if one.wait(0) != DIED and one.process.is_alive()]
        for one in self.processes:
            if one.answer is not None:
                return one
        self.processes.append(Process(self.path))
        return self.processes[-1]

    def start(self, out: Path, delay: float = 0.0) -> Process:
        process = self.free()
        process.begin("train", self.job, out, delay)
        return process

    def finished(self, out: Path) -> str:
        """Runs to the end, from the newest checkpoint if there is one; what became of it."""
        return str(self.start(out).wait(LONG))

    def right(self, out: Path) -> bool:
        process = self.free()
        process.begin("same", out, self.whole)
        return process.wait(LONG) is True

    def signalled(self, out: Path, rng: np.random.Generator, number: int) -> str:
        """A signal ends the run at a random time, once or several times; it is resumed each time."""
        for _ in range(int(rng.integers(1, 4))):
            begun = self.start(out, float(rng.choice([0, 0.01, 0.03])))
            begun.wait(float(rng.exponential(0.4)))
            if begun.answer is None:
                begun.send(number)
            said = begun.wait(LONG)
            if said not in (DONE, DIED if number == signal.SIGKILL else STOPPED):
                if said == DIED and begun.process.exitcode == -number:  # before the run could handle it
                    continue
                return f"after a signal: {said}"
        return self.finished(out)

    def paused(self, out: Path, rng: np.random.Generator) -> str:
        """The process stands still for a while, several times; a second run must not take its folder meanwhile."""
        begun = self.start(out, 0.01)
        while not (out / "config.json").exists() and begun.wait(0.002) is None:
            pass
        for _ in range(int(rng.integers(1, 5))):
            if begun.wait(float(rng.exponential(0.2))) is not None:
                break
            begun.send(signal.SIGSTOP)
            time.sleep(float(rng.exponential(0.05)))
            other = self.finished(out) if rng.random() < 0.3 and begun.wait(0) is None else REFUSED
            begun.send(signal.SIGCONT)
            if not other.startswith(REFUSED):
                return f"a second run took the folder of one that stood still: {other}"
        return str(begun.wait(LONG))

    def damaged(self, out: Path, rng: np.random.Generator, how: str) -> str:
        """A copy of the stopped run with one file damaged, resumed."""
        shutil.copytree(self.half, out)
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_size)
        files = [path for path in files if path.name != ".lock"]
        path = files[rng.integers(len(files))]
        data = bytearray(path.read_bytes())
        at = int(rng.integers(len(data)))
        if how == "flip":
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if how == "flip" else data[:at])
        return self.finished(out)

    def filled(self, out: Path, rng: np.random.Generator) -> str:
        """The disk is full at a random time, and has room again before the run is resumed."""
        begun, filler = self.start(out, 0.01), out.parent / "filler"
        begun.wait(float(rng.exponential(0.3)))
        with open(filler, "wb", buffering=0) as file:
            block = 2**16
            while block:
                try:
                    file.write(b"x" * block)
                except OSError:
                    block //= 2
        said = str(begun.wait(LONG))
        filler.unlink()
        if said != DONE and not (said.startswith(REFUSED) and "No space left" in said and "\n" not in said):
            return f"on a full disk: {said}"
        return self.finished(out)

    def contested(self, out: Path, rng: np.random.Generator) -> str:
        """Two runs that want the same folder, the second a moment after the first."""
        processes = [self.free()]
        processes[0].answer = None  # not free, so that there are two
        processes.append(self.free())
        for process in processes:
            process.begin("train", self.job, out, 0.01)
            time.sleep(float(rng.choice([0, 0.002, 0.02, 0.2])))
        said = sorted(str(process.wait(LONG)) for process in processes)
        if said == [DONE, DONE]:  # right where the second began after the first had ended, on a busy machine
            for process in processes:
                process.begin("span")
            first, second = sorted(process.wait(LONG) for process in processes)
            return DONE if first[1] <= second[0] else f"two runs at once: {said}"
        return DONE if said[0] == DONE and said[1].startswith(REFUSED) else f"two runs: {said}"

    def fault(self, number: int, kind: str, folder: Path) -> tuple[str, str] | None:
        """One fault: its outcome and what was said; None where a disk cannot be filled here."""
        rng, out = np.random.default_rng(number), folder / "run"
        faults: dict[str, Callable[[], str]] = {
            "kill": lambda: self.signalled(out, rng, signal.SIGKILL),
            "terminate": lambda: self.signalled(out, rng, signal.SIGTERM),
            "stop and continue": lambda: self.paused(out, rng),
            "flip": lambda: self.damaged(out, rng, "flip"),
            "truncate": lambda: self.damaged(out, rng, "truncate"),
            "fill": lambda: self.filled(out, rng),
            "two writers": lambda: self.contested(out, rng),
        }
        if os.path.ismount(folder):  # left by a soak that was killed
            subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if kind == "fill" and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]).returncode:
            return None
        try:
            said = faults[kind]()
            if said.startswith(REFUSED) and "\n" not in said and kind in ("flip", "truncate"):
                return CLEAR, said.replace(str(folder), "")
            if said != DONE:
                return LOUD, said
            return (RIGHT, "") if self.right(out) else (SILENT, "other numbers")
        finally:
            if kind == "fill":
                subprocess.run(["umount", "-l", folder], check=True)
            shutil.rmtree(folder, ignore_errors=True)


def main(algo: str, kind: str, folder: Path, table: Path, faults: list[int]) -> None:
    """Tries faults, and adds a line for each to a table.

    Args:
      algo, kind: the agent and the kind of its actions.
      folder: for its programs and runs; kept programs are used again.
      table: a CSV with the columns `COLUMNS`.
      faults: their numbers.
    """
    soak = Soak(algo, kind, folder)
    for number in faults:
        what = KINDS[number % len(KINDS)]
        found = soak.fault(number, what, folder / f"fault{number}")
        if found is None:
            continue
        with open(table, "a", newline="") as file:
            csv.writer(file).writerow((number, f"{algo}-{kind.lower()}", what, *found))
        print(number, algo, what, *found, flush=True)
    for process in soak.processes:
        process.process.kill()
