"""Random faults: whatever happens to a run, it ends with the right numbers, or says in a line that it cannot.

`MBRL_SOAK=200 python -m pytest -m slow tests/faults/test_soak.py -n 0 -s` tries 200 over all agents of the registry and
prints a table. Fault i is of the same kind and hits the same agent in every soak; `MBRL_SOAK_FROM` is the first. With
`MBRL_SOAK_FOLDER` the compiled programs and the outcomes (`faults.csv`) stay in a folder, and what was tried already is
not tried again: a long soak may be run in pieces.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers.contract import CASES
from helpers.soak import CHEAP, CLEAR, KINDS, LOUD, RIGHT, SILENT

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

HITS = """
import sys
from pathlib import Path
from helpers import soak

algo, kind, folder, table, *faults = sys.argv[1:]
soak.main(algo, kind, Path(folder), Path(table), [int(fault) for fault in faults])
"""


def agent_of(fault: int) -> tuple[str, str]:
    """The agent that a fault hits and the kind of its actions: in turn, every second fault of a kind a dear one."""
    turn, dear = divmod(fault // len(KINDS), 2)
    cases = [(algo, kind.__name__) for algo, kind in CASES if (algo not in CHEAP) == bool(dear)]
    return cases[turn % len(cases)]


def outcomes(table: Path) -> list[list[str]]:
    """The lines of a table of faults."""
    if not table.exists():
        return []
    with open(table, newline="") as file:
        return list(csv.reader(file))


def test_the_faults_hit_every_agent_in_every_way():
    hit = Counter(agent_of(i) for i in range(1000))
    assert set(hit) == {(algo, kind.__name__) for algo, kind in CASES}
    assert min(hit.values()) >= 10
    assert len({(KINDS[i % len(KINDS)], agent_of(i)[0]) for i in range(1000)}) == len(KINDS) * len(dict(CASES))


def test_soak(tmp_path, capsys):
    count, first = int(os.environ.get("MBRL_SOAK", "14")), int(os.environ.get("MBRL_SOAK_FROM", "0"))
    folder = Path(os.environ.get("MBRL_SOAK_FOLDER", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "faults.csv"
    faults = set(range(first, first + count)) - {int(line[0]) for line in outcomes(table)}
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "",  # programs made with the tests' flags cannot be saved
    }  # fmt: skip
    with capsys.disabled():
        for algo, kind in sorted({agent_of(i) for i in faults}, key=lambda case: (case[0] not in CHEAP, case)):
            mine = [str(i) for i in sorted(faults) if agent_of(i) == (algo, kind)]
            place = folder / f"{algo}-{kind.lower()}"
            subprocess.run(
                [sys.executable, "-c", HITS, algo, kind, str(place), str(table), *mine], env=environment, check=True
            )
        found = outcomes(table)
        tried = Counter((line[2], line[3]) for line in found)
        print("\n| kind | tried | right | refused in one line | failed otherwise | silently wrong |")
        print("|---|---|---|---|---|---|")
        for kind in KINDS:
            counts = [tried[kind, outcome] for outcome in (RIGHT, CLEAR, LOUD, SILENT)]
            print("|", " | ".join(map(str, (kind, sum(counts), *counts))), "|")
    assert [line for line in found if line[3] in (LOUD, SILENT)] == []
    assert faults <= {int(line[0]) for line in found} | {i for i in faults if KINDS[i % len(KINDS)] == "fill"}
