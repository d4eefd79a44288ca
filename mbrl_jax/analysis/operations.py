"""Floating-point operations of any function, counted from what JAX traces: matrix products and convolutions alone.

`analysis.flops` counts the steps of training by hand; here the trace of a function is walked instead. A product takes
two operations for each term of its sums, as there. Loops of a fixed length are counted from shapes. How often a loop
runs whose end depends on numbers (epochs of a fit, rounds of a search), or which branch is taken, only a run tells:
`counting` makes a function that counts while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from mbrl_jax.core.types import Array

CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
"""Parameters of a primitive that hold the function it calls once."""


def operations(fn: Callable[..., Any], *args: Any) -> float:
    """Operations of the matrix products and convolutions of `fn(*args)`, from shapes alone; nothing is run.

    Args:
      fn: any function that JAX can trace.
      *args: its arguments, or `jax.ShapeDtypeStruct`s in their place.
    Raises:
      ValueError: products are in a loop whose length, or in branches whose choice, depends on numbers.
    """
    found = fixed(jax.make_jaxpr(fn)(*args).jaxpr)
    if found is None:
        raise ValueError(
            "fn has products in a loop or a branch that depends on numbers, so that only a run can count them: see"
            " counting"
        )
    return found


def counting(fn: Callable[..., Any]) -> Callable[..., tuple[Any, Array]]:
    """A function that returns what `fn` returns, and the operations that it took, in millions, [] float32.

    It can be compiled and transformed as `fn` can. What does not depend on numbers is counted when it is traced.

    Args:
      fn: any function that JAX can trace; side effects such as callbacks are kept.
    """

    def counted(*args: Any) -> tuple[Any, Array]:
        traced, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        out, count = _run(traced.jaxpr, traced.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), out), jnp.asarray(count, jnp.float32)

    return counted


def fixed(jaxpr: Any) -> float | None:
    """Operations of a trace, None where they depend on numbers.

    Args:
      jaxpr: `jax.make_jaxpr(fn)(*args).jaxpr`.
    """
    each = [_fixed_of(eqn) for eqn in jaxpr.eqns]
    return None if any(one is None for one in each) else sum(one for one in each if one is not None)


def _fixed_of(eqn: Any) -> float | None:
    """Operations of one equation, None where they depend on numbers."""
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        left, (((contracted, _), _)) = eqn.invars[0].aval.shape, params["dimension_numbers"]
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, features = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[features]
    if name == "scan":
        once = fixed(params["jaxpr"].jaxpr)
        return None if once is None else params["length"] * once
    inside = [fixed(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "while":
        return None if any(inside) or None in inside else 0.0
    if name == "cond":
        return inside[0] if len(set(inside)) == 1 else None
    return None if None in inside else sum(one for one in inside if one is not None)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The open traces among a primitive's parameters."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> tuple[list[Any], Array | float]:
    """Results of a trace, and its operations in millions."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    count: Array | float = 0.0
    read = lambda var: var.val if isinstance(var, core.Literal) else values[var]  # noqa: E731
    for eqn in jaxpr.eqns:
        given, known = [read(var) for var in eqn.invars], _fixed_of(eqn)
        if known is None:
            out, taken = _run_of(eqn, given)
        else:
            out, taken = _bound(eqn, given), known / 1e6
        values.update(zip(eqn.outvars, out, strict=True))
        count = count + taken
    return [read(var) for var in jaxpr.outvars], count


def _bound(eqn: Any, given: list[Any]) -> list[Any]:
    """Results of an equation as it stands."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # alone since jax 0.10
    out = eqn.primitive.bind(*functions, *given, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _run_of(eqn: Any, given: list[Any]) -> tuple[list[Any], Array | float]:
    """Results of an equation whose operations depend on numbers, and these operations in millions."""
    params = eqn.params
    match eqn.primitive.name:
        case "scan":
            return _scan(params, given)
        case "while":
            return _while(params, given)
        case "cond":
            branches = [_closed(branch) for branch in params["branches"]]
            return jax.lax.switch(given[0], branches, *given[1:])
        case name:
            called = next((params[key] for key in CALLS if key in params), None)
            if called is None:
                raise ValueError(f"fn has products that depend on numbers in {name}, which cannot be counted")
            return _closed(called)(*given)


def _closed(called: Any) -> Callable[..., tuple[list[Any], Array]]:
    """A trace with its constants as a function of results and operations in millions."""
    jaxpr, consts = (called.jaxpr, called.consts) if isinstance(called, core.ClosedJaxpr) else (called, ())

    def run(*args: Any) -> tuple[list[Any], Array]:
        out, count = _run(jaxpr, consts, args)
        return out, jnp.asarray(count, jnp.float32)

    return run


def _scan(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Array]:
    consts, carry = params["num_consts"], params["num_carry"]
    body = _closed(params["jaxpr"])

    def one(state: list[Any], rows: list[Any]) -> tuple[list[Any], tuple[list[Any], Array]]:
        out, count = body(*given[:consts], *state, *rows)
        return out[:carry], (out[carry:], count)

    start, rows = given[consts : consts + carry], given[consts + carry :]
    end, (stacked, counts) = jax.lax.scan(
        one, start, rows, length=params["length"], reverse=params["reverse"], unroll=params["unroll"]
    )
    return [*end, *stacked], jnp.sum(counts)


def _while(params: dict[str, Any], given: list[Any]) -> tuple[list[Any], Array]:
    """A loop until its test fails; a batch's, whose test is an array [...], until all rows' tests do."""
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    test, body = _closed(params["cond_jaxpr"]), _closed(params["body_jaxpr"])
    tests, bodies, start = given[:of_test], given[of_test : of_test + of_body], given[of_test + of_body :]
    tested = fixed(params["cond_jaxpr"].jaxpr)
    if tested is None:
        raise ValueError("fn has products that depend on numbers in the test of a loop, which cannot be counted")
    goes_on = lambda state: test(*tests, *state)[0][0]  # noqa: E731

    def kept(more: Array, new: Any, old: Any) -> Any:
        return jnp.where(more.reshape(more.shape + (1,) * (jnp.ndim(new) - more.ndim)), new, old)

    def once(at: tuple[list[Any], Array]) -> tuple[list[Any], Array]:
        state, so_far = at
        out, count = body(*bodies, *state)
        more = goes_on(state) if params["cond_jaxpr"].out_avals[0].shape else None
        out = out if more is None else [kept(more, new, old) for new, old in zip(out, state, strict=True)]
        return out, so_far + count + tested / 1e6

    return jax.lax.while_loop(lambda at: jnp.any(goes_on(at[0])), once, (list(start), jnp.float32(tested / 1e6)))
