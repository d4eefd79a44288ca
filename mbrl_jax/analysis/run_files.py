"""The files of a run as they were written, or one line on what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

NEEDED = ("seed", "env_steps", "return", "eval_return")
"""Columns of `metrics.csv` that a learning curve is drawn from."""


class Row(NamedTuple):
    """A row of `metrics.csv`: one seed after one chunk. None is an empty cell: no episode ended."""

    seed: int
    env_steps: int
    training: float | None
    eval_return: float | None


def read_config(folder: Path | str) -> dict[str, Any]:
    """A run's `config.json`.

    Args:
      folder: of the run.
    Raises:
      ValueError: it cannot be read, or does not say which agent was trained where.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(_text(path, folder))
    except (ValueError, RecursionError) as error:
        if str(error).startswith(str(folder)):
            raise
        raise ValueError(f"{path}: no JSON: {str(error)[:120]}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}")
    for name in ("algo", "env"):
        if not isinstance(config.get(name), str):
            raise ValueError(f"{path}: {name} must be text, got {_shown(config.get(name))}")
    limit = config.get("threshold")
    if limit is not None and (type(limit) not in (int, float) or not abs(limit) < 1e300):
        raise ValueError(f"{path}: threshold must be a number, got {_shown(limit)}")
    return config


def read_rows(folder: Path | str) -> list[Row]:
    """The rows of a run's `metrics.csv`, at least one.

    Args:
      folder: of the run.
    Raises:
      ValueError: it cannot be read, holds no rows yet, or a row that is not as a run writes it: the message says which.
    """
    path = Path(folder) / "metrics.csv"
    head, *lines = _text(path, folder).splitlines() or [""]
    columns = head.split(",")
    for name in NEEDED if head else ():
        if name not in columns:
            raise ValueError(f"{path}: there is no column {name}")
    rows: dict[tuple[int, int], Row] = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        row = _row(line.split(","), columns, f"{path}, line {number}")
        if row[:2] in rows:
            raise ValueError(f"{path}, line {number}: seed {row.seed} has a row at {row.env_steps} steps already")
        rows[row[:2]] = row
    if not rows:
        raise ValueError(f"{folder} holds no results yet")
    return [*rows.values()]


def _row(cells: list[str], columns: list[str], where: str) -> Row:
    """A row of text as numbers; `where` begins the messages."""
    if len(cells) != len(columns):
        raise ValueError(f"{where}: {len(cells)} cells, not the {len(columns)} of the first line")
    named = dict(zip(columns, cells, strict=True))
    return Row(
        _whole(named["seed"], f"{where}: seed"),
        _whole(named["env_steps"], f"{where}: env_steps"),
        _number(named["return"], f"{where}: return"),
        _number(named["eval_return"], f"{where}: eval_return"),
    )


def _whole(cell: str, where: str) -> int:
    if not (cell.isascii() and cell.isdecimal() and len(cell) <= 18):
        raise ValueError(f"{where} must be a whole number, got {_shown(cell)}")
    return int(cell)


def _number(cell: str, where: str) -> float | None:
    """The number in a cell, NaN where it says so; None where it is empty."""
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError as error:
        raise ValueError(f"{where} must be a number, got {_shown(cell)}") from error
    if abs(number) > 1e300 and "inf" not in cell.lower():
        raise ValueError(f"{where} must be a number of type float32, got {_shown(cell)}")
    return number


def check_labels(labels: Sequence[str]) -> None:
    """Checks that labels can be drawn: text between two "$" is a formula.

    Args:
      labels: of runs, as the user wrote them.
    Raises:
      ValueError: one holds a formula that is none.
    """
    from matplotlib.mathtext import MathTextParser

    for label in labels:
        if (label.count("$") - label.count(r"\$")) % 2 or "$" not in label:
            continue  # not taken for a formula
        try:
            MathTextParser("agg").parse(label)
        except ValueError as error:
            told = [line for line in str(error).splitlines() if line.strip(" ^")]
            raise ValueError(
                f"--labels: {label!r} holds a formula that cannot be drawn ({told[-1]}); write \\$ for the sign"
            ) from error


def _text(path: Path, folder: Path | str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{folder} holds no results of a run: {error.filename}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder}: {path.name} is no text: byte {error.start} is not UTF-8") from error


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
