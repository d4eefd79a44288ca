"""Every agent, killed twice in the midst of a chunk and resumed: bitwise the unbroken run, over devices and waves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.contract import CASES, NAMES

TESTS = Path(__file__).parents[1]
CHEAP = ("q_learning-discrete-2",)
ALL = [
    pytest.param(
        algo, kind.__name__, wave, id=f"{name}-{wave}", marks=[pytest.mark.slow] * (f"{name}-{wave}" not in CHEAP)
    )
    for (algo, kind), name in zip(CASES, NAMES, strict=True)
    for wave in (1, 2)
]


@pytest.mark.parametrize(("algo", "made", "wave"), ALL)
def test_killed_and_resumed_equals_unbroken(tmp_path, algo, made, wave):
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "helpers.broken_run", algo, made, str(wave), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["bitwise"]
