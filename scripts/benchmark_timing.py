"""Cases timed side by side, and what comes of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

PAUSE = 0.02  # seconds between rounds, so that one library's waiting threads do not spin into the other's round


class Case(NamedTuple):
    """Something to time."""

    name: str
    library: str  # "jax" or "torch"
    run: Callable[[int], object]  # (n) -> does `n` units of work and waits until they are done
    unit: str  # what one unit is
    flops: float = 0.0  # operations of one unit, 0 where they are not counted
    matrix: str = ""  # the case of the same library whose rate this one is held against
    versus: str = ""  # the case whose time per unit is divided by this one's
    units: int = 0  # units of a round, 0 to fit them to the round's length
    compile_seconds: float | None = None


class Row(NamedTuple):
    """One line of the table, and of the CSV."""

    name: str
    library: str
    unit: str
    best_us: float  # microseconds per unit, the best round
    median_us: float
    per_second: float  # units, by the best round
    mflop: float | None  # counted operations per unit
    gflops: float | None  # by the best round
    matrix_gflops: float | None  # of `Case.matrix`, in the same rounds
    fraction: float | None  # gflops / matrix_gflops
    versus: str
    times_faster: float | None  # than `versus`, best round against best round
    compile_seconds: float | None


def measure(cases: Sequence[Case], rounds: int, seconds: float) -> list[Row]:
    """Times all cases in turn, round after round, after one untimed round.

    Alternating them lets a disturbance of the machine, or its clock's drift, hit all of them alike. Rounds of one
    length keep short work from slipping into a quiet moment that long work cannot find.

    Args:
      cases: what is compared with each other.
      rounds: measured rounds of each case.
      seconds: length of one round, roughly.
    """
    units = [case.units or _fit(case, seconds) for case in cases]
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, n, taken in zip(cases, units, times, strict=True):
            time.sleep(PAUSE)
            taken.append(_once(case, n) / n)
    best = {case.name: min(taken) for case, taken in zip(cases, times, strict=True)}
    rate = {case.name: case.flops / best[case.name] / 1e9 for case in cases if case.flops}
    return [_row(case, best, statistics.median(taken), rate) for case, taken in zip(cases, times, strict=True)]


def _row(case: Case, best: dict[str, float], median: float, rate: dict[str, float]) -> Row:
    own, matrix = rate.get(case.name), rate.get(case.matrix)
    return Row(
        case.name,
        case.library,
        case.unit,
        best_us=best[case.name] * 1e6,
        median_us=median * 1e6,
        per_second=1 / best[case.name],
        mflop=case.flops / 1e6 if case.flops else None,
        gflops=own,
        matrix_gflops=matrix,
        fraction=own / matrix if own and matrix else None,
        versus=case.versus if case.versus in best else "",
        times_faster=best[case.versus] / best[case.name] if case.versus in best else None,
        compile_seconds=case.compile_seconds,
    )


def _once(case: Case, n: int) -> float:
    start = time.perf_counter()
    case.run(n)
    return time.perf_counter() - start


def _fit(case: Case, seconds: float) -> int:
    """Units that fill a round; doubles from 1 until a tenth of it is filled, which also warms up."""
    n = 1
    case.run(n)
    while (taken := _once(case, n)) < seconds / 10:
        n *= 2
    return max(1, round(n * seconds / taken))
