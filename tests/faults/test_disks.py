"""Disks that are full or read-only in mid-run: one line with the path and what is left, and nothing lost."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.walk import CHUNK, WARMUP, make_job, make_loop

from mbrl_jax.cli.guard import guarded
from mbrl_jax.train import checkpoint, log
from mbrl_jax.train import run as runs
from mbrl_jax.train.folder import DiskError
from mbrl_jax.train.run import run


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=500", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no command mount")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> None:
    """Leaves no room at all, not for an empty file either."""
    (disk / "filler").mkdir()
    with open(disk / "filler" / "bytes", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    with contextlib.suppress(OSError):
        for i in range(1000):
            (disk / "filler" / str(i)).touch()
    with pytest.raises(OSError, match="No space left"):
        (disk / "more").touch()


def train(out: Path, **how):
    return run(make_loop(), make_job(), out, quiet=True, checkpoint_seconds=0, **how)


def rows(folder: Path) -> list[list[str]]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [[*line[:3], *line[4:]] for line in lines]


@pytest.mark.parametrize("when", ["rows", "checkpoint"])
def test_a_disk_that_fills_up_ends_the_run_in_one_line(disk, tmp_path, monkeypatch, capsys, when):
    out, save = disk / "run", checkpoint.save
    write = runs.Record.write

    def late(folder, place, state, **rest):
        if place.chunk == 3 and when == "checkpoint":
            fill(disk)
        save(folder, place, state, **rest)

    def write_late(self):
        if len(self.scores) == 3 and when == "rows":
            fill(disk)
        write(self)

    monkeypatch.setattr(checkpoint, "save", late)
    monkeypatch.setattr(runs.Record, "write", write_late)
    assert guarded(lambda: train(out) and 0) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: {out}")
    last = out / "checkpoints" / "2"
    assert said[0].endswith(
        f"No space left on device; --resume goes on from the checkpoint {last}, at {WARMUP + 2 * CHUNK} steps"
    )
    monkeypatch.undo()
    with pytest.raises(DiskError):  # still full
        train(out, resume=True)
    shutil.rmtree(disk / "filler")
    result = train(out, resume=True)
    whole = train(tmp_path / "whole")
    np.testing.assert_array_equal(result.state.x, whole.state.x)
    assert rows(out) == rows(tmp_path / "whole")


FIRST, LAST = "there is no checkpoint yet", f"checkpoints/4, at {WARMUP + 4 * CHUNK} steps"


@pytest.mark.parametrize(("name", "left"), [("config.json", FIRST), ("metrics.csv", FIRST), ("summary.json", LAST)])
def test_a_disk_full_before_a_file_is_written_keeps_what_there_is(disk, tmp_path, monkeypatch, capsys, name, left):
    """Nothing at all can be written from then on; the line is the same, and what was written stays."""
    out, write = disk / "run", log.write_real

    def late(path, data):
        if Path(path).name == name and not (disk / "filler").exists():
            fill(disk)
        write(path, data)

    monkeypatch.setattr(log, "write_real", late)
    assert guarded(lambda: train(out) and 0) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: {out / name}: No space left on device; ")
    assert said[0].endswith(left)
    monkeypatch.undo()
    whole = train(tmp_path / "whole")
    if name == "summary.json":
        assert rows(out) == rows(tmp_path / "whole")
    shutil.rmtree(disk / "filler")
    result = train(out, resume=(out / "config.json").exists())
    np.testing.assert_array_equal(result.state.x, whole.state.x)
    assert rows(out) == rows(tmp_path / "whole")


def test_a_disk_full_from_the_start_says_that_there_is_no_checkpoint(disk, capsys):
    fill(disk)
    assert guarded(lambda: train(disk / "run") and 0) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_a_disk_that_becomes_read_only_ends_the_run_in_one_line(disk, monkeypatch, capsys):
    out, save = disk / "run", checkpoint.save

    @contextlib.contextmanager
    def unlocked(folder):  # an open lock would keep the disk from being remounted
        folder.mkdir(exist_ok=True)
        yield folder

    def late(folder, place, state, **rest):
        if place.chunk == 3:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        save(folder, place, state, **rest)

    monkeypatch.setattr(runs, "claimed", unlocked)
    monkeypatch.setattr(checkpoint, "save", late)
    assert guarded(lambda: train(out) and 0) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "Read-only file system; --resume goes on from the checkpoint" in said[0]
    monkeypatch.undo()
    assert guarded(lambda: train(out, resume=True) and 0) in (1, 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "Read-only file system" in said[0]
