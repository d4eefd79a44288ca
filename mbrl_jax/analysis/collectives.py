"""What passes between devices: the collective operations of a compiled program, counted from its text."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
"""Bytes of an entry by its type in XLA's text; 4 for all others."""


class Traffic(NamedTuple):
    """Collective operations of one kind, in one call of a program."""

    times: int  # how often one is run
    bytes: int  # of the results on one device, in all


def collectives(compiled: Any) -> dict[str, Traffic]:
    """The collective operations of a program by their kind.

    Those in a loop count as often as it runs where XLA knows how often that is, else once; of the branches of a
    conditional each counts.

    Args:
      compiled: as `jax.jit(f).lower(...).compile()` returns it, or its text.
    Returns:
      kinds to what one call does; kinds that do not occur are left out.
    """
    parts = _computations(compiled if isinstance(compiled, str) else compiled.as_text())
    found: dict[str, Traffic] = {}
    for name, times in _runs(parts).items():
        for line in parts[name]:
            made = re.match(r"(?:ROOT )?%?[\w.-]+ = (.*?) (" + "|".join(KINDS) + r")(-start)?\(", line)
            if made is None:
                continue
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", made[1])
            if made[3]:  # the pair of operand and result
                shapes = shapes[len(shapes) // 2 :]
            size = sum(
                BYTES.get(kind, 4) * math.prod(map(int, filter(None, sides.split(",")))) for kind, sides in shapes
            )
            old = found.get(made[2], Traffic(0, 0))
            found[made[2]] = Traffic(old.times + times, old.bytes + times * size)
    return found


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; "" for that of the program itself."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            lines = found.setdefault("" if head[1] else head[2], [])
        elif line.startswith(" "):
            lines.append(line.strip())
    return found


def _runs(parts: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation is run in one call of the program."""
    found = dict.fromkeys(parts, 0)

    def visit(name: str, times: int) -> None:
        found[name] += times
        for line in parts[name]:
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for key, called in re.findall(r"(body|calls|to_apply|\w+_computation)=%?([\w.-]+)", line):
                if called in parts:
                    visit(called, times * (int(trips[1]) if trips and key == "body" else 1))
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
                for called in re.findall(r"[\w.-]+", branches):
                    visit(called, times)

    visit("", 1)
    return found
