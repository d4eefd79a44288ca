"""Random faults: whatever happens to a run, it ends with the right numbers, or says in a line that it cannot.

`MBRL_SOAK=200 python -m pytest -m slow tests/faults/test_soak.py -n 0 -s` tries 200 and prints a table; fault i is the
same in every soak (`MBRL_SOAK_FROM` is the first). A run is an agent of milliseconds in the compiled loop, of which
every piece has a checkpoint, so that faults hit the midst of writing and the midst of chunks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import ordered
from helpers.ordered import REFUSED, child, rows

from mbrl_jax.train import checkpoint

CHUNKS = 6
KINDS = ("kill", "stop and continue", "flip", "truncate", "fill", "two writers")

pytestmark = [
    pytest.mark.slow,
    # Readers of damaged files leave tasks of their event loop behind.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a process that trains; its modules are imported already, its programs are compiled once for all."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.ordered", "orbax.checkpoint"])

    def begin(out: Path, chunks: int = CHUNKS, resume: bool = False, delay: float = 0.0):
        process = context.Process(target=child, args=(str(out), chunks, resume, delay))
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """An unbroken run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = start(out)
    process.join()
    assert process.exitcode == 0
    return out


@pytest.fixture(scope="module")
def half(start, tmp_path_factory):
    """A run that was stopped in the midst of its fourth chunk, with two checkpoints."""
    out = tmp_path_factory.mktemp("half") / "run"
    process = start(out, delay=0.05)
    while (checkpoint.latest_place(out / "checkpoints") or (0, 0)) < (3, 5):
        time.sleep(0.01)
        assert process.is_alive()
    process.terminate()
    process.join()
    assert len(checkpoint.places(out / "checkpoints")) == 2
    return out


def state_of(out: Path):
    """What the newest checkpoint holds, as numbers."""
    like = ordered.driver().shapes().state
    return ordered.numbers(checkpoint.newest(out / "checkpoints", like).state)


def right(out: Path, whole: Path) -> bool:
    """Whether a run has ended as the unbroken one."""
    same = all(rows(out, name) == rows(whole, name) for name in ("metrics.csv", "eval.csv"))
    return same and all(np.array_equal(x, y) for x, y in zip(state_of(out), state_of(whole), strict=True))


def broken_off(start, out: Path, rng: np.random.Generator, number: int) -> str:
    """A run that gets a signal at a random time, once or several times, and is resumed each time."""
    for _ in range(int(rng.integers(1, 4))):
        process = start(out, resume=(out / "config.json").exists(), delay=float(rng.choice([0, 0.01, 0.05])))
        while not out.exists() and process.is_alive():
            time.sleep(0.005)
        process.join(float(rng.exponential(1.5)))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        process.join(60)
        if number == signal.SIGTERM and process.exitcode not in (0, -signal.SIGTERM):
            return f"exit code {process.exitcode}"
    return finished(start, out)


def finished(start, out: Path) -> str:
    """Runs to the end, from the newest checkpoint if there is one."""
    process = start(out, resume=(out / "config.json").exists())
    process.join()
    if process.exitcode == REFUSED:
        return f"refused: {Path(f'{out}.said').read_text()}"
    return "" if process.exitcode == 0 else f"exit code {process.exitcode}"


def damaged(start, half: Path, out: Path, rng: np.random.Generator, how: str) -> str:
    """A copy of the stopped run with one file damaged, resumed."""
    shutil.copytree(half, out)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_size and path.name != ".lock")
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    if how == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data if how == "flip" else data[:at])
    return finished(start, out)


def filled(start, disk: Path, rng: np.random.Generator) -> str:
    """A run whose disk is full at a random time, and has room again before it is resumed."""
    out = disk / "run"
    process = start(out, delay=0.02)
    while not out.exists() and process.is_alive():
        time.sleep(0.005)
    process.join(float(rng.exponential(1.0)))
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    process.join(60)
    (disk / "filler").unlink()
    return finished(start, out)


def contested(start, out: Path, rng: np.random.Generator) -> str:
    """Two runs that want the same folder, the second a moment after the first."""
    first = start(out)
    time.sleep(float(rng.choice([0, 0.05, 0.5])))
    second = start(out)
    for process in (first, second):
        process.join(120)
    codes = sorted((first.exitcode, second.exitcode))
    return "" if codes == [0, REFUSED] else f"exit codes {codes}"


def test_soak(start, whole, half, tmp_path, capsys):
    count, first = int(os.environ.get("MBRL_SOAK", "12")), int(os.environ.get("MBRL_SOAK_FROM", "0"))
    tried, good, refused, wrong = Counter(), Counter(), Counter(), []
    for i in range(first, first + count):
        rng, kind, out = np.random.default_rng(i), KINDS[i % len(KINDS)], tmp_path / f"run{i}"
        if kind in ("kill", "stop and continue"):
            said = broken_off(start, out, rng, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        elif kind in ("flip", "truncate"):
            said = damaged(start, half, out, rng, kind)
        elif kind == "two writers":
            said = contested(start, out, rng)
        else:
            disk = tmp_path / f"disk{i}"
            disk.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
                continue  # not allowed here
            said, out = filled(start, disk, rng), disk / "run"
        tried[kind] += 1
        if said.startswith("refused: ") and kind in ("flip", "truncate"):
            refused[kind] += 1
        elif said or not right(out, whole):
            wrong.append(f"fault {i}, {kind}: {said or 'other numbers'}")
        else:
            good[kind] += 1
        if kind == "fill":
            subprocess.run(["umount", "-l", str(out.parent)], check=True)
        shutil.rmtree(out, ignore_errors=True)
        with capsys.disabled():
            print(f"{i} {kind}: {said or 'right'}"[:150], *(wrong[-1:] if wrong else []), flush=True)
    with capsys.disabled():
        print("\n| kind | tried | right | refused in one line |\n|---|---|---|---|")
        for kind in KINDS:
            print(f"| {kind} | {tried[kind]} | {good[kind]} | {refused[kind]} |")
    assert wrong == []
