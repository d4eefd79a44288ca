"""Cases timed side by side, and what comes of each."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

PAUSE = 0.02  # seconds between rounds, so that one library's waiting threads do not spin into the other's round


class Case(NamedTuple):
    """Something to time."""

    name: str
    library: str  # "jax" or "torch"
    run: Callable[[int], float | None]
    """(n) -> None, when the work is done `n` times; or the operations it took, where they are known only then"""
    unit: str  # what is counted
    flops: float = 0.0  # operations of one unit
    matrix: str = ""  # the case of the same library whose rate this one is held against
    versus: str = ""  # the case whose time per unit this one's is divided by
    units: int = 1  # units each time the work is done
    times: int = 0  # how often it is done in a round, 0 to fill the round's length
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
    time_ratio: float | None  # this one's time over that of `versus`, best round against best round
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
    times = [case.times or _fit(case, seconds) for case in cases]
    took: list[list[tuple[float, float]]] = [[] for _ in cases]
    for turn in range(rounds + 1):
        for case, n, taken in zip(cases, times, took, strict=True):
            time.sleep(PAUSE)
            per_unit = _once(case, n)
            if turn:
                taken.append(per_unit)
    best = {case.name: min(taken) for case, taken in zip(cases, took, strict=True)}
    medians = [statistics.median(seconds for seconds, _ in taken) for taken in took]
    return [_row(case, best, median) for case, median in zip(cases, medians, strict=True)]


def _row(case: Case, best: dict[str, tuple[float, float]], median: float) -> Row:
    def rate(name: str) -> float | None:
        seconds, count = best.get(name, (1.0, 0.0))
        return count / seconds / 1e9 or None

    seconds, count = best[case.name]
    own, matrix = rate(case.name), rate(case.matrix)
    return Row(
        case.name,
        case.library,
        case.unit,
        best_us=seconds * 1e6,
        median_us=median * 1e6,
        per_second=1 / seconds,
        mflop=count / 1e6 or None,
        gflops=own,
        matrix_gflops=matrix,
        fraction=own / matrix if own and matrix else None,
        versus=case.versus if case.versus in best else "",
        time_ratio=seconds / best[case.versus][0] if case.versus in best else None,
        compile_seconds=case.compile_seconds,
    )


def _once(case: Case, n: int) -> tuple[float, float]:
    """Seconds and operations per unit."""
    start = time.perf_counter()
    count = case.run(n)
    units = n * case.units
    return (time.perf_counter() - start) / units, case.flops if count is None else count / units


def _fit(case: Case, seconds: float) -> int:
    """How often the work fills a round; doubles from 1 until a tenth of it is filled."""
    n = 1
    case.run(n)
    while (taken := _once(case, n)[0] * n * case.units) < seconds / 10:
        n *= 2
    return max(1, round(n * seconds / taken))


def by_size(
    about: str | None, sizes: str, rows: Callable[[str], Iterable[Case]], argv: Sequence[str] | None = None
) -> int:
    """The command line of a benchmark with cases for each size of a network.

    Args:
      about: the script's help.
      sizes: where the names of the sizes are kept.
      rows: (name of a size) -> cases.
      argv: the words after the script's name.
    Returns:
      the exit code.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1m", help=f"a name in {sizes}")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    for row in measure(list(rows(options.size)), options.rounds, 1.0):
        share = f", {row.fraction:.0%} of bare products" if row.fraction else ""
        share += f", {row.time_ratio:.3f} times {row.versus}" if row.time_ratio else ""
        print(
            f"{row.name}: {row.best_us / 1e3:.2f} ms best, {row.median_us / 1e3:.2f} median, "
            f"{row.mflop or 0:,.0f} MFLOP, {row.gflops or 0:.0f} GFLOP/s{share}; "
            f"compiled in {row.compile_seconds:.1f} s"
        )
    return 0
