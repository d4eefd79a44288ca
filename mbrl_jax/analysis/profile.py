"""The time of a compiled program by kind of operation (products, copies, reductions, ...), from XLA's own trace.

On a CPU, XLA runs the instructions of the optimised program one after another, most of them fusions of several
operations, and its profiler records the duration of each. An instruction counts towards the costliest kind of operation
in it, which is read from the program's text. Loops and calls are left out, because the instructions inside them count.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

KINDS = ("products", "exponentials", "reductions", "arithmetic", "copies")
"""Costliest first: an instruction is of the first kind that occurs among its operations."""

PRODUCTS = {"dot", "convolution"}
EXPONENTIALS = {
    "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic", "tanh", "power", "sqrt", "rsqrt",
    "cosine", "sine", "erf",
}  # fmt: skip
REDUCTIONS = {"reduce", "reduce-window", "sort"}
MOVES = {
    "bitcast", "bitcast-convert", "broadcast", "concatenate", "constant", "convert", "copy", "dynamic-slice",
    "dynamic-update-slice", "gather", "get-tuple-element", "iota", "pad", "parameter", "reshape", "reverse", "scatter",
    "slice", "transpose", "tuple",
}  # fmt: skip
CONTAINERS = {"while", "call", "conditional"}

BLOCK = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(")
CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


def kind_of(operations: set[str]) -> str:
    """The costliest kind among operations, one of `KINDS`.

    Args:
      operations: names as in XLA's text, such as "dot" or "dynamic-slice".
    """
    for kind, members in (("products", PRODUCTS), ("exponentials", EXPONENTIALS), ("reductions", REDUCTIONS)):
        if operations & members:
            return kind
    return "arithmetic" if operations - MOVES else "copies"


def instruction_kinds(text: str) -> dict[str, str]:
    """The kind of every instruction of a compiled program, loops and calls left out.

    Args:
      text: the optimised program, `compiled.as_text()`.
    Returns:
      {name of the instruction: one of `KINDS`}.
    """
    inside: dict[str, set[str]] = {}  # operations of a computation
    found: list[tuple[str, str, str | None]] = []  # instruction, operation, computation it fuses
    block = ""
    for line in text.splitlines():
        if opened := BLOCK.match(line):
            block = opened[1]
            inside[block] = set()
        elif matched := LINE.match(line):
            name, operation = matched[1], matched[2]
            called = CALLED.search(line) if operation == "fusion" else None
            found.append((name, operation, called[1] if called else None))
            inside[block].add(operation)
    return {
        name: kind_of(inside[called] if called else {operation})
        for name, operation, called in found
        if operation not in CONTAINERS
    }


def time_by_kind(compiled: Any, *args: Any) -> dict[str, float]:
    """Seconds spent in a compiled program's instructions, by kind, summed over threads.

    Args:
      compiled: the program, from `jax.jit(f).lower(...).compile()`.
      *args: its arguments; it runs once, and should have run before, so that no start-up cost is measured.
    Returns:
      {kind: seconds}, all of `KINDS`.
    """
    kinds = instruction_kinds(compiled.as_text())
    seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(*args))
        (path,) = Path(folder).rglob("*.xplane.pb")
        trace = ProfileData.from_file(str(path))
        for plane in trace.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in kinds:
                        seconds[kinds[event.name]] += event.duration_ns / 1e9
    return seconds
