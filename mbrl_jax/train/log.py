"""The files of a run, `metrics.csv`, `eval.csv` and `summary.json`, and its progress line.

Files are replaced atomically, so a reader always finds a complete one, also after the process was killed. A number
that is missing (no episode ended, no evaluation) is an empty cell; one that is none, after a seed has diverged, is
`nan`, `inf` or `-inf`. JSON has null for both.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_jax.train.folder import write_real
from mbrl_jax.train.run_files import read_table, whole

FIRST = ("seed", "env_steps", "updates", "wall_seconds", "return", "episodes")
EVAL = "seed,env_steps,episode,return,length"


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Replaces a file atomically: writes a temporary file beside it, flushes that to disk, and renames it.

    Args:
      path: of the file; its folder must exist. A link is replaced, not followed.
      data: the new contents.
    Raises:
      OSError: it cannot be written; the old file stays.
    """
    write_real(path, data.encode() if isinstance(data, str) else data)


def write_json(path: Path | str, value: Any) -> None:
    """`write_atomic` of strict JSON: NaN and the infinities become null.

    Args:
      path: of the file; its folder must exist.
      value: as `plain` takes it.
    """
    write_atomic(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


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


RECENT = 5
"""Evaluations, or chunks, at the end of a run over which its summary takes the mean."""


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
        # env_steps, and each seed's mean evaluation return; None where there was no evaluation
        self.scores: list[tuple[int, list[float | None]]] = []
        # the same, of the training episodes in a run without evaluation; None where none ended
        self.scored: list[tuple[int, list[float | None]]] = []
        self.trained: list[float | None] = []  # each seed's mean training return of the last chunk
        self.diverged: dict[int, tuple[int, str]] = {}  # seed -> env_steps of the first row that is no number, of what
        self.wall_seconds = 0.0

    def watch(
        self,
        env_steps: int,
        metrics: Mapping[str, Any],
        returns: Any,
        faults: Mapping[str, Any],
        chunk: tuple[int, int] = (0, 1),
    ) -> list[str]:
        """Notes the seeds whose numbers are none from this chunk on.

        Args:
          env_steps: environment steps of one seed so far.
          metrics: names to arrays [S].
          returns: [S, E] evaluation returns.
          faults: as `train.loop.not_finite` returns them, [S] each.
          chunk: environment steps of one seed before it, and in each of its iterations.
        Returns:
          lines that say which seeds diverged, and where it showed first.
        """
        signs: dict[str, Any] = {}
        for name in ("observation", "reward"):
            if name in faults:
                signs[f"the environment's {name}"] = np.asarray(faults[name])
        signs |= {name: ~np.isfinite(np.asarray(values, np.float64)) for name, values in metrics.items()}
        if "learner" in faults:
            signs["the learner"] = np.asarray(faults["learner"])
        if np.size(returns):
            signs["eval_return"] = ~np.isfinite(np.asarray(returns, np.float64)).all(axis=1)
        new: dict[str, list[int]] = {}
        for i, seed in enumerate(self.seeds):
            first = next((name for name, bad in signs.items() if bad[i]), None)
            if first is not None and first.startswith("the environment's"):
                first += f" at step {chunk[0] + int(signs[first][i]) * chunk[1]:,}"
            if first is not None and seed not in self.diverged:
                self.diverged[seed] = (env_steps, first)
                new.setdefault(first, []).append(seed)
        return [
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} diverged (not finite) at step {env_steps:,}: "
            f"{name} first"
            for name, seeds in new.items()
        ]

    def fates(self) -> list[dict[str, Any] | None]:
        """For each seed where it diverged and what showed it first; None for one that did not."""
        found = [self.diverged.get(seed) for seed in self.seeds]
        return [None if fate is None else {"env_steps": fate[0], "first": fate[1]} for fate in found]

    def lost(self) -> list[int]:
        """The seeds that diverged, counted from 0."""
        return [i for i, seed in enumerate(self.seeds) if seed in self.diverged]

    def blanked(self, metrics: Mapping[str, Any], returns: Any, lengths: Any) -> tuple[dict[str, Any], Any, Any]:
        """What a chunk reports, with NaN for the seeds that diverged before it, and lengths of 0.

        Args:
          metrics, returns, lengths: as in `add`.
        """
        if not (lost := self.lost()):
            return dict(metrics), returns, lengths

        def over(values: Any, value: float) -> Any:
            values = np.array(values)
            if math.isnan(value) and values.dtype.kind != "f":
                values = values.astype(np.float64)
            values[lost] = value
            return values

        return {name: over(x, math.nan) for name, x in metrics.items()}, over(returns, math.nan), over(lengths, 0)

    def all_diverged(self) -> bool:
        """Whether no seed is left whose numbers are finite."""
        return all(seed in self.diverged for seed in self.seeds)

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
        means = [_as_read(np.mean(row, dtype=np.float64)) if row.size else None for row in returns]
        ended = values.get("episodes", np.ones(len(self.seeds)))
        for i, seed in enumerate(self.seeds):
            row = [str(seed), str(env_steps), str(updates), f"{wall_seconds:.3f}"]
            numbers = {name: values[name][i] for name in columns[4:-1]}
            if not ended[i]:
                numbers["return"] = None  # no episode ended: there is no return to tell
            row += [cell(number) for number in numbers.values()] + [cell(means[i])]
            self.metrics.append(",".join(row))
            for episode, (score, length) in enumerate(zip(returns[i], lengths[i], strict=True)):
                self.evals.append(f"{seed},{env_steps},{episode},{cell(score)},{int(length)}")
        self.scores.append((env_steps, means))
        found = values.get("return")
        training = means if found is None else [_as_read(x) if n else None for x, n in zip(found, ended, strict=True)]
        self.scored.append((env_steps, means if returns.size else training))
        self.trained = training
        self.wall_seconds = wall_seconds

    def digests(self) -> dict[str, list[Any]]:
        """For each of both files the number of its rows, and a checksum of them."""
        return {"metrics": _digest([",".join(self.columns), *self.metrics]), "eval": _digest([EVAL, *self.evals])}

    def write(self) -> None:
        """Writes `eval.csv` and `metrics.csv`."""
        write_atomic(self.folder / "eval.csv", "\n".join([EVAL, *self.evals]) + "\n")
        write_atomic(self.folder / "metrics.csv", "\n".join([",".join(self.columns or FIRST), *self.metrics]) + "\n")

    def load(self, env_steps: int, chunks: int, digests: Mapping[str, Any] | None = None) -> None:
        """Reads the rows of the run to resume, up to its checkpoint; later rows are dropped.

        Args:
          env_steps: environment steps of one seed at the checkpoint.
          chunks: number of chunks up to there.
          digests: as `digests` gave them when the checkpoint was saved; None for a checkpoint that has none.
        Raises:
          ValueError: rows up to there are missing, or are not those that were written; names the file and the line.
        """
        header, rows = _read(self.folder / "metrics.csv", env_steps)
        eval_header, evals = _read(self.folder / "eval.csv", env_steps)
        if len(rows) != chunks * len(self.seeds):
            raise ValueError(
                f"{self.folder / 'metrics.csv'} must hold {chunks * len(self.seeds)} rows up to the checkpoint at "
                f"{env_steps} steps, it holds {len(rows)}"
            )
        self.columns, self.metrics = header.split(",") if rows else [], rows  # no row, no columns yet
        self.evals = evals
        if eval_header != EVAL:
            raise ValueError(f"{self.folder / 'eval.csv'} must begin with {EVAL}, it begins with {eval_header[:80]!r}")
        for name, digest in (digests or {}).items():
            if digest != self.digests()[name]:
                raise ValueError(
                    f"{self.folder / f'{name}.csv'} is not the one of this run's checkpoint: it was changed"
                )
        self.scores, self.scored = [], []
        trained = self.columns.index("return") if "return" in self.columns else -1
        for i in range(0, len(rows), len(self.seeds)):
            cells = [row.split(",") for row in rows[i : i + len(self.seeds)]]
            self.scores.append((int(cells[0][1]), [_number(row[-1]) for row in cells]))
            evaluated = any(row[-1] for row in cells)
            training = [_number(row[trained]) for row in cells]
            self.scored.append((int(cells[0][1]), self.scores[-1][1] if evaluated else training))
        self.wall_seconds = float(rows[-1].split(",")[3]) if rows else 0.0

    def recent(self) -> list[float | None]:
        """Each seed's mean over its last `RECENT` evaluations; None where it has none.

        One evaluation scores one snapshot of the policy. A policy that wavers shows it here.
        """
        return _means([means for _, means in self.scores[-RECENT:]], len(self.seeds))

    def training(self) -> list[float | None]:
        """Each seed's mean training return over the last `RECENT` chunks in which one of its episodes ended.

        It is the return of the policy that explores, sampled where the evaluation's is deterministic.
        """
        if "return" not in self.columns:
            return [None] * len(self.seeds)
        column, count = self.columns.index("return"), len(self.seeds)
        values = [_number(row.split(",")[column]) for row in self.metrics]
        ended = [[value for value in values[i::count] if value is not None][-RECENT:] for i in range(count)]
        return [float(np.mean(found)) if found else None for found in ended]

    def reached(self, threshold: float | None) -> list[int | None]:
        """For each seed, the first env_steps at which its mean return is at least the threshold; None where never.

        The return is that of evaluation; in a run without it, of the training episodes of the chunk.
        """
        out: list[int | None] = [None] * len(self.seeds)
        for steps, means in reversed(self.scored):
            out = [
                steps if threshold is not None and mean is not None and mean >= threshold else old
                for old, mean in zip(out, means, strict=True)
            ]
        return out


def _means(rows: Sequence[Sequence[float | None]], count: int) -> list[float | None]:
    """The mean of each of `count` columns over the rows that have a number there; None where none has."""
    columns = [[row[i] for row in rows if row[i] is not None] for i in range(count)]
    return [float(np.mean(np.array(column, np.float64))) if column else None for column in columns]


def _read(path: Path, env_steps: int) -> tuple[str, list[str]]:
    """The header of a file and its rows up to `env_steps`; a last line that a kill cut short counts as later.

    Raises:
      ValueError: the file cannot be read, or a line of it is no row.
    """
    table = read_table(path)
    steps = [whole(cells[1], f"{path}, line {number}: env_steps") for number, cells in table.rows]
    rows = [",".join(cells) for at, (_, cells) in zip(steps, table.rows, strict=True) if at <= env_steps]
    return ",".join(table.columns), rows


def _digest(lines: Sequence[str]) -> list[Any]:
    """The number of lines after the first, and a checksum of all."""
    return [len(lines) - 1, hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()]


def _number(text: str) -> float | None:
    return float(text) if text else None


def _as_read(value: Any) -> float | None:
    """A number as it is read back from the file: a threshold is then reached or not alike before and after a resume."""
    return _number(cell(value))


def cell(value: Any) -> str:
    """A number as a CSV cell: the shortest text that reads back as the same number.

    Args:
      value: a number or an array of one; None for one that is missing, which is an empty cell.
    """
    if value is None:
        return ""
    number = np.asarray(value)[()]
    if np.issubdtype(number.dtype, np.inexact):
        if not np.isfinite(number):
            return str(float(number))
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
      total: environment steps of one seed at the end; the attribute may change on the way.
      seeds: number of seeds; the rate counts the steps of all.
      quiet: print nothing.
      every: seconds between printed lines.
    """

    def __init__(self, title: str, total: int, seeds: int, quiet: bool = False, every: float = 5.0):
        self.title, self.total, self.seeds, self.quiet, self.every = title, total, seeds, quiet, every
        self.start: tuple[float, int] | None = None
        self.last_print = -math.inf
        self.doing = ""
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
        self.doing = ""
        self._draw(env_steps, train_return, eval_return, self.every)

    def wait(self, env_steps: int, doing: str) -> None:
        """Shows the progress within a chunk: on a terminal at once, else where nothing was printed for half a minute.

        Args:
          env_steps: of one seed so far.
          doing: what is under way.
        """
        if self.bar is None and self.last_print == -math.inf:
            self.last_print = time.monotonic()  # nothing to report in the first seconds
        self.doing = doing
        self._draw(env_steps, math.nan, math.nan, 6 * self.every)

    def _draw(self, env_steps: int, train_return: float, eval_return: float, every: float) -> None:
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
        line = " · ".join([*words, *([self.doing] if self.doing else [])])
        if self.bar is not None:
            self.bar.update(self.task, completed=env_steps, total=self.total, description=line)
        elif now - self.last_print >= every or env_steps >= self.total:
            self.last_print = now
            print(line, flush=True)

    def close(self) -> None:
        """Restores the terminal."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
