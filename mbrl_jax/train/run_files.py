"""The files of a run as they were written, or one line on what is wrong with them: for resuming and for pictures."""

from __future__ import annotations

import json
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


class Table(NamedTuple):
    """The text of a CSV that a run wrote."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]  # the number of each line in the file, and its cells
    rest: str  # what follows the last line's end: nothing, or a line that a kill cut short

    def cell(self, cells: list[str], name: str) -> str:
        """The cell of a row in a column."""
        return cells[self.columns.index(name)]


def read_text(path: Path | str) -> str:
    """A text file.

    Raises:
      ValueError: it cannot be read, or is no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: byte {error.start} is not UTF-8") from error


def read_json(path: Path | str) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Args:
      path: of the file.
    Raises:
      ValueError: the file cannot be read, or holds no JSON object.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {str(error)[:120]}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_table(path: Path | str) -> Table:
    """A CSV that a run wrote.

    Args:
      path: of the file.
    Returns:
      its cells as text.
    Raises:
      ValueError: the file cannot be read, or a line has not as many cells as the first; names the line.
    """
    head, *lines = read_text(path).split("\n")
    rest = lines.pop() if lines else ""
    columns = head.split(",")
    rows = [(number, line.split(",")) for number, line in enumerate(lines, 2)]
    for number, cells in rows:
        check_width(cells, columns, f"{path}, line {number}")
    return Table(columns if head else [], rows, rest)


def check_width(cells: list[str], columns: list[str], where: str) -> None:
    """Checks that a row has a cell for every column.

    Args:
      cells: of the row.
      columns: of the table.
      where: begins the message.
    Raises:
      ValueError: it has more or fewer.
    """
    if len(cells) != len(columns):
        raise ValueError(f"{where}: {len(cells)} cells, not the {len(columns)} of the first line")


def read_config(folder: Path | str) -> dict[str, Any]:
    """A run's `config.json`.

    Args:
      folder: of the run.
    Raises:
      ValueError: it cannot be read, or does not say which agent was trained where.
    """
    path = _there(folder, "config.json")
    config = read_json(path)
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
    path = _there(folder, "metrics.csv")
    table = read_table(path)
    for name in NEEDED if table.columns else ():
        if name not in table.columns:
            raise ValueError(f"{path}: there is no column {name}")
    if table.rest.strip():
        where = f"{path}, line {len(table.rows) + 2}"
        check_width(table.rest.split(","), table.columns, where)
        table.rows.append((len(table.rows) + 2, table.rest.split(",")))
    rows: dict[tuple[int, int], Row] = {}
    for number, cells in table.rows:
        row = _row(cells, table.columns, f"{path}, line {number}")
        if row[:2] in rows:
            raise ValueError(f"{path}, line {number}: seed {row.seed} has a row at {row.env_steps} steps already")
        rows[row[:2]] = row
    if not rows:
        raise ValueError(f"{folder} holds no results yet")
    return [*rows.values()]


def _there(folder: Path | str, name: str) -> Path:
    path = Path(folder) / name
    try:
        path.stat()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise ValueError(f"{folder} holds no results of a run: {path}: {what}") from error
    return path


def _row(cells: list[str], columns: list[str], where: str) -> Row:
    """A row of text as numbers; `where` begins the messages."""
    named = dict(zip(columns, cells, strict=True))
    return Row(
        whole(named["seed"], f"{where}: seed"),
        whole(named["env_steps"], f"{where}: env_steps"),
        _number(named["return"], f"{where}: return"),
        _number(named["eval_return"], f"{where}: eval_return"),
    )


def whole(cell: str, where: str) -> int:
    """The whole number in a cell.

    Args:
      cell: as text.
      where: begins the message.
    Raises:
      ValueError: it is none.
    """
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


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
