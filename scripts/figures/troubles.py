"""The troubles of model-based RL, measured: `python scripts/figures.py troubles` makes all tables and pictures."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from figures.common import write_csv
from mbrl_jax.analysis.statistics import bootstrap_interval

TROUBLES = {
    "cost": ("figures.trouble_cost", "cost"),
    "stochastic": ("figures.trouble_stochastic", "stochastic"),
    "exploration": ("figures.trouble_exploration", "exploration"),
    "chance": ("figures.trouble_chance", "chance_nodes"),
    "reading": ("figures.trouble_reading", "reading"),
    "memory": ("figures.trouble_memory", "partial"),
    "termination": ("figures.trouble_termination", "termination"),
    "hopper": ("figures.trouble_hopper", "hopper"),
    "transfer": ("figures.trouble_transfer", "transfer"),
    "overfitting": ("figures.trouble_overfitting", "overfitting"),
    "exploration with networks": ("figures.trouble_exploration_deep", "deep_exploration"),
    "compounding": ("figures.trouble_compounding", "compounding"),
}
"""Module and function of each, the cheapest first."""

NEEDS = {"hopper": ("mujoco", "gymnasium")}
"""Libraries of an extra that a trouble needs, the extra last; it is left out where one is absent."""


def troubles_figure(out: Path, seeds: int = 8) -> None:
    """Makes the table and the picture of each trouble.

    Args:
      out: folder.
      seeds: of each setting, at least 2.
    """
    for name, (module, function) in TROUBLES.items():
        if any(importlib.util.find_spec(library) is None for library in NEEDS.get(name, ())):
            print(f"{name} left out: it needs the extra {NEEDS[name][-1]}", flush=True)
            continue
        start = time.perf_counter()
        getattr(importlib.import_module(module), function)(out, seeds)
        print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)


def write_seeds(path: Path, head: Sequence[str], found: Mapping[Any, Mapping[str, np.ndarray]], first: int = 0) -> None:
    """Writes a row for each case and seed: the case, the seed, and what was measured.

    Args:
      path: of the CSV.
      head: the case's names, "seed", and the columns.
      found: by case, as many words as names: columns [seeds]; a column that a case lacks stays empty.
      first: the first seed.
    """
    columns = head[head.index("seed") + 1 :]
    rows = [
        (*case, first + i, *(float(own[column][i]) if column in own else "" for column in columns))
        for case, own in found.items()
        for i in range(len(next(iter(own.values()))))
    ]
    write_csv(path, head, rows)


def read_seeds(path: Path, head: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, ...], dict[str, np.ndarray]]:
    """What `write_seeds` wrote of the cases that have exactly these seeds; nothing if there is no such file.

    Args:
      path: of the CSV.
      head: as `write_seeds` had it.
      seeds: in their order.
    Returns:
      by case: columns [seeds].
    """
    at = head.index("seed")
    return {
        case: {c: np.array([float(row[c]) for row in rows]) for c in head[at + 1 :] if rows[0][c]}
        for case, rows in read_cases(path, head[:at]).items()
        if [int(row["seed"]) for row in rows] == list(seeds)
    }


def read_cases(path: Path, names: Sequence[str]) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The rows of a CSV by the text in some of its columns; nothing if there is no such file.

    Args:
      path: of the CSV.
      names: of the columns that tell cases apart.
    """
    if not path.exists():
        return {}
    cases: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            cases.setdefault(tuple(row[name] for name in names), []).append(row)
    return cases


def interval(values: Any) -> str:
    """The mean over seeds with its 95 % bootstrap interval, as text."""
    values = np.asarray(values, np.float64)
    low, high = bootstrap_interval(values, np.mean)
    return f"{number(values.mean())} [{number(low)}, {number(high)}]"


def difference(values: Any, others: Any) -> str:
    """The mean difference of the same seeds with its 95 % bootstrap interval, as text."""
    return interval(np.asarray(values, np.float64) - np.asarray(others, np.float64))


def wilson(hits: int, seeds: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): unlike a bootstrap's it is no point where all seeds agree.

    Args:
      hits: seeds that count.
      seeds: all of them, at least 1.
    """
    found = binomtest(hits, seeds).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def share_of_seeds(hit: Any) -> str:
    """How many seeds count, with the 95 % interval of their share, as text."""
    hit = np.asarray(hit, bool)
    low, high = wilson(int(hit.sum()), len(hit))
    return f"{hit.sum()} of {len(hit)} [{number(low)}, {number(high)}]"


def share_difference(hit: Any, other: Any) -> str:
    """The difference of two shares with its 95 % interval (Newcombe 1998, method 10), as text."""
    (p, low, high), (q, low_q, high_q) = (
        (float(np.mean(x)), *wilson(int(np.sum(x)), len(x))) for x in (np.asarray(hit, bool), np.asarray(other, bool))
    )
    down, up = np.hypot(p - low, high_q - q), np.hypot(high - p, q - low_q)
    return f"{number(p - q)} [{number(p - q - down)}, {number(p - q + up)}]"


def number(value: Any) -> str:
    """Three digits, without an exponent."""
    return (
        f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.4f}"
    )
