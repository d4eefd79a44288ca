"""The files of a run, `metrics.csv`, `eval.csv` and `summary.json`, and its progress line.

Files are replaced atomically, so a reader always finds a complete one, also after the process was killed. Numbers that
are not finite are empty cells in CSV and null in JSON.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FIRST = ("seed", "env_steps", "updates", "wall_seconds", "return", "episodes")
EVAL = "seed,env_steps,episode,return,length"


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Replaces a file atomically: writes a temporary file beside it, flushes that to disk, and renames it.

    Args:
      path: of the file; its folder must exist.
      data: the new contents.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    with open(beside, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_json(path: Path | str, value: Any) -> None:
    """`write_atomic` of strict JSON: NaN and the infinities become null.

    Args:
      path: of the file; its folder must exist.
      value: as `plain` takes it.
    """
    write_atomic(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Args:
      path: of the file.
    Raises:
      ValueError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def plain(value: Any) -> Any:
    """A value in JSON's types: arrays and tuples as lists, non-finite numbers as None, other objects as text.

    Args:
      value: numbers, text, arrays, and sequences and mappings of them.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class Record:
    """The rows of a run, kept in memory as text; both files are rewritten on every `write`.

    Args:
      folder: the run's folder.
      seeds: the seeds' numbers, in the order of the arrays' leading axis.
    """

    def __init__(self, folder: Path | str, seeds: Sequence[int]):
        self.folder, self.seeds = Path(folder), list(seeds)
        self.columns: list[str] = []
        self.metrics: list[str] = []
        self.evals: list[str] = []
        self.scores: list[tuple[int, list[float]]] = []  # env_steps, each seed's mean evaluation return
        self.scored: list[
            tuple[int, list[float]]
        ] = []  # the same; each seed's training return where there is no evaluation
        self.wall_seconds = 0.0

    def add(
        self, env_steps: int, updates: int, wall_seconds: float, metrics: Mapping[str, Any], returns: Any, lengths: Any
    ) -> None:
        """Adds the rows of one chunk of all seeds.

        Args:
          env_steps: environment steps of one seed so far.
          updates: gradient updates of one seed so far.
          wall_seconds: seconds the run has taken so far, without compilation.
          metrics: names to arrays [S]; "return" and "episodes" among them.
          returns: [S, E] evaluation returns.
          lengths: [S, E] evaluation lengths, in steps.
        Raises:
          ValueError: the metrics' names differ from those of the rows before.
        """
        columns = [*FIRST, *(name for name in metrics if name not in FIRST), "eval_return"]
        if self.columns and columns != self.columns:
            raise ValueError(f"metrics.csv has the columns {','.join(self.columns)}, not {','.join(columns)}")
        self.columns = columns
        values = {name: np.asarray(value) for name, value in metrics.items()}
        returns, lengths = np.asarray(returns), np.asarray(lengths)
        # In double precision and one order, so that the mean read back from the file equals the one in memory.
        means = [float(np.mean(row, dtype=np.float64)) if row.size else math.nan for row in returns]
        for i, seed in enumerate(self.seeds):
            row = [str(seed), str(env_steps), str(updates), f"{wall_seconds:.3f}"]
            row += [cell(values[name][i]) for name in columns[4:-1]] + [cell(means[i])]
            self.metrics.append(",".join(row))
            for episode, (score, length) in enumerate(zip(returns[i], lengths[i], strict=True)):
                self.evals.append(f"{seed},{env_steps},{episode},{cell(score)},{int(length)}")
        self.scores.append((env_steps, means))
        training = [float(value) for value in values.get("return", means)]
        self.scored.append((env_steps, means if returns.size else training))
        self.wall_seconds = wall_seconds

    def write(self) -> None:
        """Writes `eval.csv` and `metrics.csv`."""
        write_atomic(self.folder / "eval.csv", "\n".join([EVAL, *self.evals]) + "\n")
        write_atomic(self.folder / "metrics.csv", "\n".join([",".join(self.columns or FIRST), *self.metrics]) + "\n")

    def load(self, env_steps: int, chunks: int) -> None:
        """Reads the rows of the run to resume, up to its checkpoint; later rows are dropped.

        Args:
          env_steps: environment steps of one seed at the checkpoint.
          chunks: number of chunks up to there.
        Raises:
          ValueError: rows up to there are missing.
        """
        header, rows = _read(self.folder / "metrics.csv")
        _, evals = _read(self.folder / "eval.csv")
        rows = [row for row in rows if int(row.split(",", 2)[1]) <= env_steps]
        if len(rows) != chunks * len(self.seeds):
            raise ValueError(
                f"{self.folder / 'metrics.csv'} must hold {chunks * len(self.seeds)} rows up to the checkpoint at "
                f"{env_steps} steps, it holds {len(rows)}"
            )
        self.columns, self.metrics = header.split(","), rows
        self.evals = [row for row in evals if int(row.split(",", 2)[1]) <= env_steps]
        self.scores, self.scored = [], []
        trained = self.columns.index("return") if "return" in self.columns else -1
        for i in range(0, len(rows), len(self.seeds)):
            cells = [row.split(",") for row in rows[i : i + len(self.seeds)]]
            self.scores.append((int(cells[0][1]), [float(row[-1] or "nan") for row in cells]))
            evaluated = any(row[-1] for row in cells)
            training = [float(row[trained] or "nan") for row in cells]
            self.scored.append((int(cells[0][1]), self.scores[-1][1] if evaluated else training))
        self.wall_seconds = float(rows[-1].split(",")[3]) if rows else 0.0

    def reached(self, threshold: float | None) -> list[int | None]:
        """For each seed, the first env_steps at which its mean return is at least the threshold; None where never.

        The return is that of evaluation; in a run without it, of the training episodes of the chunk.
        """
        out: list[int | None] = [None] * len(self.seeds)
        for steps, means in reversed(self.scored):
            out = [
                steps if threshold is not None and mean >= threshold else old
                for old, mean in zip(out, means, strict=True)
            ]
        return out


def _read(path: Path) -> tuple[str, list[str]]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return (lines[0], lines[1:]) if lines else ("", [])


def cell(value: Any) -> str:
    """A number as a CSV cell: the shortest text that reads back as the same number; empty where it is not finite.

    Args:
      value: a number or an array of one.
    """
    number = np.asarray(value)[()]
    if np.issubdtype(number.dtype, np.inexact):
        if not np.isfinite(number):
            return ""
        return str(int(number)) if number == np.rint(number) and abs(number) < 1e6 else str(number)
    return str(int(number))


def clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`.

    Args:
      seconds: at least 0.
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Progress:
    """A progress line: redrawn in place on a terminal, else printed every few seconds; nothing when quiet.

    Args:
      title: what runs.
      total: environment steps of one seed at the end.
      seeds: number of seeds; the rate counts the steps of all.
      quiet: print nothing.
      every: seconds between printed lines.
    """

    def __init__(self, title: str, total: int, seeds: int, quiet: bool = False, every: float = 5.0):
        self.title, self.total, self.seeds, self.quiet, self.every = title, total, seeds, quiet, every
        self.start: tuple[float, int] | None = None
        self.last_print = -math.inf
        self.shown = {"return": math.nan, "eval": math.nan}
        self.bar: Any = None
        self.task: Any = None
        if not quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(BarColumn(bar_width=16), TextColumn("{task.description}"), refresh_per_second=2)
            self.task = self.bar.add_task(title, total=total)
            self.bar.start()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif not self.quiet:
            print(text, flush=True)

    def begin(self, env_steps: int) -> None:
        """Starts the clock for the rate and the time left.

        Args:
          env_steps: of one seed so far.
        """
        self.start = (time.monotonic(), env_steps)

    def show(self, env_steps: int, train_return: float, eval_return: float) -> None:
        """Shows the progress.

        Args:
          env_steps: of one seed so far.
          train_return: mean over seeds; NaN keeps the last one on display.
          eval_return: likewise.
        """
        if self.quiet:
            return
        for name, value in (("return", train_return), ("eval", eval_return)):
            self.shown[name] = value if math.isfinite(value) else self.shown[name]
        now = time.monotonic()
        start, first = self.start or (now, env_steps)
        rate = (env_steps - first) / max(now - start, 1e-9)
        words = [f"{self.title}  {env_steps:,}/{self.total:,} steps"]
        words += [f"{name} {value:.1f}" for name, value in self.shown.items() if math.isfinite(value)]
        if rate > 0:
            words += [f"{rate * self.seeds:,.0f} steps/s", f"{clock(max(0, self.total - env_steps) / rate)} left"]
        line = " · ".join(words)
        if self.bar is not None:
            self.bar.update(self.task, completed=env_steps, description=line)
        elif now - self.last_print >= self.every or env_steps >= self.total:
            self.last_print = now
            print(line, flush=True)

    def close(self) -> None:
        """Restores the terminal."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
