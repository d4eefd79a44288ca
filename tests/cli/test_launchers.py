"""Workers that share a sweep's folder leave the table of one process, also where one is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbrl_jax.cli.launchers import read_args, worker_words
from mbrl_jax.cli.sweep import main
from mbrl_jax.train import compilation

SWEEP = [
    "q_learning", "--env", "FrozenLake", "--seeds", "2", "--steps", "80", "--quiet", "--loop.inner", "10",
    "--loop.cycles", "1", "--loop.eval-episodes", "2", "--checkpoint-seconds", "0",
    "--set", "agent.lr=0.1,0.3,0.5,0.7", "--together", "2",
]  # fmt: skip


def table(folder):
    return (folder / "table.csv").read_text()


def numbers(folder):
    found = {}
    for path in sorted(Path(folder).glob("trial-*/metrics.csv")):
        with open(path, newline="") as file:
            found[path.parent.name] = [
                {k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file)
            ]
    return found


def test_a_worker_has_the_command_without_what_starts_workers():
    words = ["sac", "--out=x", "--launcher", "ray", "--workers=3", "--resume", "--launcher_args", "a=1", "--seeds", "2"]
    assert worker_words(words, Path("/y"), 4) == ["sac", "--seeds", "2", "--out", "/y", "--worker-index", "4"]
    assert read_args("slurm_partition=gpu,timeout_min=60") == {"slurm_partition": "gpu", "timeout_min": 60}
    with pytest.raises(ValueError, match="needs key=value,key=value, got 'gpu'"):
        read_args("gpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "enable_compilation_cache", lambda: None)
        assert main([*SWEEP, "--out", str(out)]) == 0
    return out


def same(out, alone):
    assert table(out) == table(alone)
    assert numbers(out) == numbers(alone)


@pytest.mark.slow
def test_two_local_workers_equal_one_process(alone, tmp_path):
    assert main([*SWEEP, "--out", str(tmp_path / "x"), "--workers", "2"]) == 0
    same(tmp_path / "x", alone)


@pytest.mark.slow
def test_a_lost_worker_is_followed_by_another(alone, tmp_path):
    """A worker is killed within a program; another with the same index takes that program up."""
    words = worker_words(SWEEP, tmp_path / "x", 1)
    code = "import sys; from mbrl_jax.cli.sweep import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    deadline = time.monotonic() + 300
    while not any((tmp_path / "x").glob("programs/1/checkpoints/2*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = [path.parent.name for path in (tmp_path / "x").glob("trial-*/curve.png")]
    assert len(done) < 4
    assert main(words) == 0
    same(tmp_path / "x", alone)


@pytest.mark.slow
def test_slurm_by_submitit_equals_one_process(alone, tmp_path):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    words = [*SWEEP, "--launcher", "slurm", "--workers", "2", "--launcher-args", "cluster=local,timeout_min=10"]
    assert main([*words, "--out", str(tmp_path / "x")]) == 0
    same(tmp_path / "x", alone)
    assert len([*(tmp_path / "x" / "slurm").glob("*_result.pkl")]) == 2


@pytest.mark.slow
def test_ray_with_two_workers_equals_one_process(alone, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    words = [*SWEEP, "--launcher", "ray", "--workers", "2", "--launcher-args", "num_cpus=1"]
    assert main([*words, "--out", str(tmp_path / "x")]) == 0
    same(tmp_path / "x", alone)
    assert json.loads((tmp_path / "x" / "sweep.json").read_text())["programs"] == [[0, 1], [2, 3]]
