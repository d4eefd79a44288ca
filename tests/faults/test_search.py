"""Searches of every size compile: those that ended the process once, and many drawn at random (slow)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parents[1] / "helpers" / "search_process.py"
BASE: dict[str, Any] = {
    "search": "gumbel", "actions": 2, "simulations": 2, "roots": None, "state": "number", "masked": False, "depth": 0,
    "reuse": False, "schedule": "parallel",
}  # fmt: skip

# Constants among a small call's arguments: the compiler aborted on these six.
KNOWN = [
    {},
    {"simulations": 1},
    {"actions": 9, "simulations": 50},
    {"actions": 9, "simulations": 50, "state": "vector"},
    {"actions": 4, "simulations": 8},
    {"actions": 5, "simulations": 8, "roots": 2},
]
BESIDE = [
    {"roots": 2},
    {"actions": 4, "simulations": 8, "masked": True},
    {"actions": 4, "simulations": 8, "schedule": "serial"},
    {"search": "puct", "actions": 9, "simulations": 16},
    {"search": "uct", "actions": 3, "simulations": 4, "state": "tuple"},
]


def finished(cases: list[dict[str, Any]]) -> tuple[int, str]:
    """How many of the cases a process ran before it ended, and its last words."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "XLA_FLAGS": "",
    }
    text = "".join(json.dumps(BASE | case) + "\n" for case in cases)
    done = subprocess.run([sys.executable, WORKER], input=text, env=env, capture_output=True, text=True, check=False)
    return done.stdout.count("done\n"), done.stderr[-500:]


@pytest.mark.parametrize("cases", [KNOWN, pytest.param(BESIDE, marks=pytest.mark.slow)], ids=["known", "beside"])
def test_searches_that_ended_the_process_once(cases):
    count, said = finished(cases)
    assert count == len(cases), (cases[count], said)


def drawn(number: int, seed: int) -> list[dict[str, Any]]:
    """Cases over all sizes that the searches are used at."""
    rng = random.Random(seed)
    return [
        {
            "search": rng.choice(("gumbel", "gumbel", "puct", "uct")),
            "actions": rng.randint(1, 20),
            "simulations": rng.choice((1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 50, 64)),
            "roots": rng.choice((None, None, 1, 2, 3, 4, 8, 32)),
            "state": rng.choice(("number", "number", "vector", "tuple")),
            "masked": rng.random() < 0.3,
            "depth": rng.choice((0, 0, 1, 2, 5)),
            "reuse": rng.random() < 0.2,
            "schedule": rng.choice(("parallel", "serial")),
        }
        for _ in range(number)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_searches_of_any_size_compile(seed):
    cases = drawn(30, seed)
    count, said = finished(cases)
    assert count == len(cases), (cases[count], said)
