"""Flags from config dataclasses: tyro parses them, and whatever is wrong is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import math
import os
import re
import typing
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple


class Option(NamedTuple):
    """A flag that is no field of a config."""

    name: str
    kind: type
    default: Any
    help: str = ""
    limits: dict[str, Any] = {}  # noqa: RUF012, never written to


def parse(
    options: Sequence[Option], configs: dict[str, Any], words: Sequence[str], prog: str, description: str
) -> SimpleNamespace | None:
    """Reads a command line, or prints its help.

    Args:
      options: flags `--name`.
      configs: instances of `@config` classes; field `x.y` of the one named `agent` is the flag `--agent.x.y`.
      words: the command line.
      prog: how the program is called, for the help.
      description: what it does, for the help.
    Returns:
      every option and config by name, within their limits; None where the help was asked for.
    Raises:
      ValueError: an unknown flag, or a value of the wrong type or out of its range.
    """
    import tyro

    from mbrl_jax.core.config import check, flat

    fields = [_field(option.name, option.kind, option.default, option.help, option.limits) for option in options]
    fields += [(name, made, dataclasses.field(default_factory=made)) for name, made in _mirrors(configs).items()]
    whole = dataclasses.make_dataclass("Options", fields)
    helps = any(word in ("-h", "--help") for word in words)
    said = io.StringIO()
    try:
        with contextlib.nullcontext() if helps else _caught(said):
            config = (tyro.conf.FlagCreatePairsOff,)
            args = _switched(words, flat(whole()))
            made = tyro.cli(whole, args=args, prog=prog, description=description, config=config)
    except SystemExit as stop:
        if helps:
            return None
        raise ValueError(_one_line(said.getvalue(), _flags(flat(whole())))) from stop
    parsed = SimpleNamespace(**{option.name: getattr(made, option.name) for option in options})
    for name, value in flat(made).items():
        if isinstance(value, float) and math.isinf(value):
            raise ValueError(f"{name} must be finite, got {value}")
    check(made)
    for name, value in configs.items():
        setattr(parsed, name, _config(getattr(made, name), value))
    return parsed


def flagged(message: str, names: Sequence[str]) -> str:
    """A message in which every option or setting is called by its full flag: "agent.lr" becomes "--agent.lr".

    Args:
      message: about a command; names of options count where they begin it and "must" or "is" follows.
      names: of options and settings, with dots.
    """
    dotted = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if "." in name)
    plain = "|".join(re.escape(name) for name in names if "." not in name)

    def flag(match: re.Match[str]) -> str:
        return "--" + match[0].replace("_", "-")

    if dotted:
        message = re.sub(rf"(?<![\w./~-])(?:{dotted})(?![\w./-]*[\w/])", flag, message)
    return re.sub(rf"^(?:{plain})(?= must |: )", flag, message) if plain else message


def like(word: str, known: Sequence[str]) -> str:
    """A hint at the known word nearest to a wrong one, empty where none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _field(name: str, kind: Any, default: Any, text: str, limits: dict[str, Any]) -> tuple[str, Any, Any]:
    """A dataclass field with its help and its range where tyro and `check` look for them."""
    import tyro

    from mbrl_jax.core.config import describe

    if "choices" in limits:
        kind = Literal[tuple(limits["choices"])]
    elif limits:
        text = f"{text} ({describe(limits)})"
    made = dataclasses.field(default=default, metadata={"limits": limits})
    return name, Annotated[kind, tyro.conf.arg(help=text)], made


def _mirrors(configs: dict[str, Any]) -> dict[str, type]:
    """For each config a dataclass of the same fields, its values the defaults."""
    return {name: _mirror(value) for name, value in configs.items()}


def _mirror(config: Any) -> type:
    hints, fields = typing.get_type_hints(type(config)), []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            made = _mirror(value)
            fields.append((field.name, made, dataclasses.field(default_factory=made)))
        else:
            text, limits = field.metadata.get("help", ""), field.metadata.get("limits", {})
            fields.append(_field(field.name, hints[field.name], value, text, limits))
    return dataclasses.make_dataclass(type(config).__name__, fields)


def _config(mirror: Any, config: Any) -> Any:
    """The config with the values of its mirror."""
    values = {field.name: getattr(mirror, field.name) for field in dataclasses.fields(mirror)}
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            values[name] = _config(value, getattr(config, name))
    return dataclasses.replace(config, **values)


@contextlib.contextmanager
def _caught(said: io.StringIO) -> Iterator[None]:
    """Catches what tyro says, which it wraps at the terminal's width: one wide enough for any message."""
    old = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        del os.environ["COLUMNS"]
        if old is not None:
            os.environ["COLUMNS"] = old


def _flag(name: str, off: bool = False) -> str:
    path, _, last = name.replace("_", "-").rpartition(".")
    return "--" + (f"{path}." if path else "") + ("no-" if off else "") + last


def _flags(values: dict[str, Any]) -> list[str]:
    """The flags that change something: what is on already can only be turned off, by `--x.no-name`."""
    return [_flag(name, off=value is True) for name, value in values.items()]


def _switched(words: Sequence[str], values: dict[str, Any]) -> list[str]:
    """The words without the switches that change nothing; of several of one setting the last one counts."""
    switches = {}
    for name, value in values.items():
        if isinstance(value, bool):
            switches |= {_flag(name): (name, True), _flag(name, off=True): (name, False)}
    asked: dict[str, bool] = {}
    rest = []
    for word in words:
        if word.replace("_", "-") in switches:
            name, on = switches[word.replace("_", "-")]
            asked[name] = on
        else:
            rest.append(word)
    return rest + [_flag(name, off=not on) for name, on in asked.items() if on is not values[name]]


def _one_line(box: str, known: list[str]) -> str:
    """What tyro says in a box, as one line; a flag that does not exist is named with the nearest one that does."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip() and not line.startswith(("╭", "╰"))]
    if "╭" not in box:  # drawn in ASCII: the title and a rule stand in lines of their own
        lines = lines[2:]
    rule = next((i for i, line in enumerate(lines) if not line.strip("─-")), len(lines))
    message = " ".join(lines[:rule])
    if message.startswith("Unrecognized options: "):
        wrong = message.removeprefix("Unrecognized options: ").split(", ")[0]
        near = like(wrong.partition("=")[0].replace("_", "-"), known)
        return f"{wrong} is not an option{near}; --help lists them all"
    if message.startswith("Error parsing "):
        flag, _, why = message.removeprefix("Error parsing ").partition(": ")
        kinds = [line.removeprefix(flag).strip() for line in lines[rule:] if line.startswith(f"{flag} ")]
        kind = {"FLOAT": "a number", "INT": "a whole number"}.get("".join(kinds), "".join(kinds) or "another value")
        return f"{flag} takes {kind}: {why}"
    return message or " ".join(box.split())
