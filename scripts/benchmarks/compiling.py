"""Seconds from a command to its first update, by what they go to.

    python scripts/benchmark.py compile [--runs sac muzero dreamer_v3:CartPole-pixels] [--csv FILE]

Each run is `mbrl-jax train` with the preset's settings in a process of its own, twice: with an empty compilation cache
(cold), and with the one that this left (warm). It ends after the first iteration with an update. The parts are seconds
of CPU time, and add up to `cpu_s`; with one core to itself a run takes as long. `wall_s` is what the clock said.

    import_s    Python and the libraries
    trace_s     settings, environment, and the loop's trace, from which its memory is reckoned
    lower_s     the traced programs over seeds, as XLA takes them
    compile_s   XLA's compilation, or reading the cache, and the warm-up's random steps
    first_s     the chunk's first pieces, up to its first update
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT = 1800.0
"""Seconds after which a run is given up."""


def run(algo: str, env: str, cache: Path | str, limit: float = LIMIT) -> dict[str, Any]:
    """The parts of one run, in a process of its own.

    Args:
      algo: an agent's name.
      env: an environment's; the agent's first if empty.
      cache: folder of the compilation cache.
      limit: seconds after which it is given up.
    Returns:
      as `parts` prints them.
    Raises:
      ValueError: the command fails or takes too long; with the last line that it wrote.
    """
    words = [sys.executable, __file__, algo, *(["--env", env] if env else [])]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": path, "BEGAN": repr(time.time())}
    try:
        done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{algo} made no update within {limit:.0f} s") from error
    line = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not line.startswith("{"):
        raise ValueError(f"{algo} made no update: {(done.stderr.strip() or line).rpartition(chr(10))[2]}")
    return json.loads(line)


def parts(words: list[str]) -> None:
    """Trains as a command line says until the first update, prints the parts as JSON and ends the process.

    Args:
      words: after `mbrl-jax train`.
    """
    import mbrl_jax.presets.api
    from mbrl_jax.cli.train import main
    from mbrl_jax.presets import checks
    from mbrl_jax.train.driver import CompiledDriver

    marks = {"import_s": time.process_time()}
    checked, start, piece = checks.checked, CompiledDriver.start, CompiledDriver.piece

    def watched_check(*args: Any) -> Any:
        done = checked(*args)
        marks["trace_s"] = time.process_time()
        return done

    def watched_start(self: CompiledDriver, work: Any) -> Any:
        whole, own = time.process_time(), time.thread_time()
        done = start(self, work)
        # this thread traces and lowers, others compile
        marks["lower_s"] = whole + time.thread_time() - own
        marks["compile_s"] = time.process_time()
        return done

    def watched_piece(self: CompiledDriver, work: Any, stop: int | None = None) -> Any:
        done, report = piece(self, work, stop)
        if report is not None or done.position > 1:  # the first unit is a refresh, the second an iteration
            marks["first_s"] = time.process_time()
            _print(marks)
        return done, report

    mbrl_jax.presets.api.checked = checks.checked = watched_check  # pyright: ignore[reportAttributeAccessIssue]
    CompiledDriver.start, CompiledDriver.piece = watched_start, watched_piece
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main([*words, "--quiet", "--out", str(Path(folder) / "run")]) or 1)


def _print(marks: dict[str, float]) -> None:
    """Prints the time of each part and ends the process."""
    names = list(marks)
    found = {name: marks[name] - (marks[names[i - 1]] if i else 0.0) for i, name in enumerate(names)}
    found |= {"cpu_s": marks[names[-1]], "wall_s": time.time() - float(os.environ["BEGAN"])}
    print(json.dumps({name: round(seconds, 2) for name, seconds in found.items()}), flush=True)
    os._exit(0)


def rows(which: str) -> Iterator[dict[str, Any]]:
    """The rows of one run, cold and warm.

    Args:
      which: ALGO or ALGO:ENV.
    """
    algo, _, env = which.partition(":")
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            yield {"algo": algo, "env": env or "default", "cache": state, **run(algo, env, cache)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    from benchmarks.timing import emit
    from mbrl_jax.presets.registry import AGENTS

    agents = [name for name, entry in AGENTS.items() if not entry.offline]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = [*agents, "dreamer_v3:CartPole-pixels"]
    parser.add_argument("--runs", nargs="+", default=runs, metavar="ALGO[:ENV]", help="agents, and their environments")
    parser.add_argument("--csv", default="", metavar="FILE", help="rows are added to it")
    given = parser.parse_args(argv)
    for which in given.runs:
        if which.partition(":")[0] not in agents:
            parser.error(f"--runs must be of {', '.join(agents)}, got {which!r}")
    failed = 0
    for which in given.runs:
        try:
            emit(rows(which), given.csv)
        except ValueError as error:
            failed = 1
            print(error, file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    parts(sys.argv[1:])
