"""Cases timed alternately, and their results."""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAUSE = 0.02  # seconds between rounds, so that one library's spinning threads do not disturb the other's round


class Case(NamedTuple):
    """Something to time."""

    name: str
    library: str  # "jax" or "torch"
    run: Callable[[int], float | None]
    """(n) -> None, when the work is done `n` times; or the operations it took, where they are known only then"""
    unit: str  # what is counted
    flops: float = 0.0  # operations of one unit
    matrix: str = ""  # the case of bare products, of the same library, whose rate this one is compared with
    versus: str = ""  # the case by whose time per unit this one's is divided
    units: int = 1  # units each time the work is done
    times: int = 0  # repetitions in a round, 0 to fill the round
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
    """Times all cases alternately, in rounds, after one untimed round.

    Alternating exposes all of them to the same disturbances of the machine and drift of its clock. Rounds of equal
    length keep short work from finding a quiet moment that long work cannot.

    Args:
      cases: to be compared with each other.
      rounds: measured rounds of each case.
      seconds: approximate length of a round.
    """
    times = [case.times or _fit(case, seconds) for case in cases]
    took: list[list[tuple[float, float]]] = [[] for _ in cases]
    for i in range(rounds + 1):
        for case, n, taken in zip(cases, times, took, strict=True):
            time.sleep(PAUSE)
            per_unit = _once(case, n)
            if i:  # the first round warms up
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
    """Repetitions that fill a round, from those that fill a tenth of it, found by doubling."""
    n = 1
    case.run(n)
    while (taken := _once(case, n)[0] * n * case.units) < seconds / 10:
        n *= 2
    return max(1, round(n * seconds / taken))


def count(text: str) -> int:
    """A whole number of at least 1, as an option of a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def by_agent(
    about: str | None,
    agents: Sequence[str],
    rows: Callable[[str, argparse.Namespace], Iterable[dict[str, Any]]],
    options: dict[str, dict[str, Any]],
    argv: Sequence[str] | None = None,
) -> int:
    """The command line of a benchmark with rows for each of several agents, printed as they come.

    Args:
      about: the script's help.
      agents: to choose among.
      rows: (name of an agent, the options) -> rows, all with the same columns.
      options: of the benchmark, by their flags; each as `ArgumentParser.add_argument` takes it.
      argv: the arguments after the script's name.
    Returns:
      the exit code.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", default=list(agents), choices=list(agents))
    for flag, how in options.items():
        parser.add_argument(flag, **how)
    parser.add_argument("--csv", default="", metavar="FILE", help="rows are added to it")
    given = parser.parse_args(argv)
    for algo in given.algos:
        emit(rows(algo, given), given.csv)
    return 0


def emit(rows: Iterable[dict[str, Any]], file: Path | str) -> None:
    """Prints rows as they come, and adds them to a CSV file.

    Args:
      rows: all with the same columns.
      file: the CSV; none if empty.
    """
    for row in rows:
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        if file:
            new = not Path(file).exists()
            with open(file, "a", newline="") as table:
                writer = csv.DictWriter(table, list(row), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)


def by_size(
    about: str | None, sizes: str, rows: Callable[[str], Iterable[Case]], argv: Sequence[str] | None = None
) -> int:
    """The command line of a benchmark of one network size.

    Args:
      about: the script's help.
      sizes: the module attribute that lists the sizes.
      rows: (name of a size) -> cases.
      argv: the arguments after the script's name.
    Returns:
      the exit code.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1m", help=f"network size, a name in {sizes}")
    parser.add_argument("--rounds", type=int, default=5, help="number of timed rounds")
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
