"""Which inputs of a traced program reach which of its outputs, and what tells two programs apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval as pe

Names = frozenset[str]
NONE: Names = frozenset()


def reaching(fn: Callable[..., Any], inputs: dict[str, Any], *args: Any) -> list[Names]:
    """For every output leaf of `fn(inputs, *args)`, the names of the inputs that it is computed from.

    An input reaches an output if a chain of operations leads there, whatever they compute: multiplying by 0 counts.

    Args:
      fn: (inputs, *args) -> any pytree; traced, never run.
      inputs: arrays or numbers by name.
      args: the other arguments, which have no names.
    """
    closed = jax.make_jaxpr(fn)(inputs, *args)
    named = [frozenset({name}) for name in sorted(inputs)]  # the order in which dicts are flattened
    rest = len(closed.jaxpr.invars) - len(named)
    return _outputs(closed.jaxpr, [*named, *[NONE] * rest])


def _outputs(jaxpr: Any, reached: Sequence[Names]) -> list[Names]:
    """What reaches the outputs of a jaxpr whose inputs are reached by `reached`."""
    known: dict[Any, Names] = dict(zip(jaxpr.invars, reached, strict=True))
    of = lambda var: NONE if isinstance(var, core.Literal) else known.get(var, NONE)  # noqa: E731
    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, _equation(eqn, [of(var) for var in eqn.invars]), strict=True))
    return [of(var) for var in jaxpr.outvars]


def _equation(eqn: Any, reached: list[Names]) -> list[Names]:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        inner, consts, carried = params["jaxpr"].jaxpr, params["num_consts"], params["num_carry"]
        return _fixed_point(
            lambda carry: _outputs(inner, [*reached[:consts], *carry, *reached[consts + carried :]]),
            reached[consts : consts + carried],
        )
    if name == "while":
        at, body = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]

        def turn(carry: list[Names]) -> list[Names]:
            (asked,) = _outputs(params["cond_jaxpr"].jaxpr, [*reached[:at], *carry])  # how often it turns
            return [out | asked for out in _outputs(params["body_jaxpr"].jaxpr, [*reached[at:body], *carry])]

        return _fixed_point(turn, reached[body:])
    if name == "cond":
        branches = [_outputs(branch.jaxpr, reached[1:]) for branch in params["branches"]]
        return [reached[0].union(*outs) for outs in zip(*branches, strict=True)]
    inner = [getattr(value, "jaxpr", value) for value in params.values() if hasattr(value, "eqns")]
    if len(inner) == 1 and len(inner[0].invars) == len(reached) and len(inner[0].outvars) == len(eqn.outvars):
        return _outputs(inner[0], reached)
    return [NONE.union(*reached)] * len(eqn.outvars)


def _fixed_point(turn: Callable[[list[Names]], list[Names]], carry: list[Names]) -> list[Names]:
    """The outputs of a loop: `turn` until nothing new reaches the carry."""
    while True:
        outs = turn(carry)
        wider = [old | new for old, new in zip(carry, outs, strict=False)]
        if wider == carry:
            return [*carry, *outs[len(carry) :]]
        carry = wider


def program(fn: Callable[..., Any], *args: Any) -> str:
    """What identifies a traced program: its operations but for those that no output needs, its shapes and constants."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    live, _ = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    text = re.sub(r" at 0x[0-9a-f]+", "", str(live))  # addresses of functions
    found = hashlib.sha256(text.encode())
    for const in closed.consts:
        plain = jax.random.key_data(const) if jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key) else const
        found.update(np.asarray(plain).tobytes())
    found.update(str(jax.tree.structure(shapes)).encode())
    return found.hexdigest()
