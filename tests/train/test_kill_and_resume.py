"""A run that is killed and resumed equals the uninterrupted run bitwise: a real agent, the real command line."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

WORDS = [
    "mbpo", "--env", "ContinuousCartPole", "--seeds", "2", "--steps", "200", "--wave", "1",
    "--checkpoint-seconds", "0", "--agent.policy.hidden", "16", "--agent.policy.batch", "16",
    "--agent.model.hidden", "16", "--agent.fit.members", "3", "--agent.fit.elites", "2", "--agent.fit.batch", "16",
    "--agent.fit.max-epochs", "2", "--agent.rollouts", "20", "--loop.warmup", "20", "--loop.inner", "10",
    "--loop.cycles", "1", "--loop.updates", "2", "--loop.eval-episodes", "2",
]  # fmt: skip


def start(out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *WORDS, "--out", str(out), *more]
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        command, env=environment, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV without the wall-clock times."""
    with open(path, newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "wall_seconds"} for row in csv.DictReader(file)]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole = start(tmp_path / "whole", tmp_path / "cache")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert "done after 200 steps of 2 seeds" in said

    broken = start(tmp_path / "broken", tmp_path / "cache")
    saves = tmp_path / "broken" / "checkpoints"
    deadline = time.monotonic() + 200
    while not (saves.is_dir() and any(p.name.isdecimal() and int(p.name) >= 5 for p in saves.iterdir())):
        assert time.monotonic() < deadline
        assert broken.poll() is None, broken.communicate()[0]
        time.sleep(0.005)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    left = rows(tmp_path / "broken" / "metrics.csv")
    assert 2 * 5 <= len(left) < 2 * 18, "killed in mid-run"

    resumed = start(tmp_path / "broken", tmp_path / "cache", "--resume")
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    for name in ("metrics.csv", "eval.csv"):
        assert rows(tmp_path / "broken" / name) == rows(tmp_path / "whole" / name)
    assert len(rows(tmp_path / "whole" / "metrics.csv")) == 2 * 18
    for name in ("config.json", "summary.json", "curve.png"):
        assert (tmp_path / "broken" / name).stat().st_size > 0
