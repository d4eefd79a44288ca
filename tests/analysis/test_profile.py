"""Time by kind of instruction, for programs of known kinds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from mbrl_jax.analysis.profile import KINDS, instruction_kinds, kind_of, time_by_kind


def test_the_costliest_operation_names_the_kind():
    assert kind_of({"dot", "add", "tanh"}) == "products"
    assert kind_of({"add", "tanh", "reduce"}) == "exponentials"
    assert kind_of({"add", "reduce", "copy"}) == "reductions"
    assert kind_of({"copy", "parameter", "add"}) == "arithmetic"
    assert kind_of({"copy", "parameter", "transpose"}) == "copies"


def test_fusions_are_read_from_the_programs_text():
    text = """HloModule f, entry_computation_layout={(f32[4,4]{1,0})->f32[4,4]{1,0}}

%fused (p.1: f32[4,4]) -> f32[4,4] {
  %p.1 = f32[4,4]{1,0} parameter(0)
  %t = f32[4,4]{1,0} transpose(%p.1), dimensions={1,0}
  ROOT %e = f32[4,4]{1,0} exponential(%t)
}

%body (s: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %s = (s32[], f32[4,4]{1,0}) parameter(0)
  %g.2 = f32[4,4]{1,0} get-tuple-element(%s), index=1
  %fusion.3 = f32[4,4]{1,0} fusion(%g.2), kind=kLoop, calls=%fused, metadata={op_name="exp"}
  ROOT %o = (s32[], f32[4,4]{1,0}) tuple(%g.2, %fusion.3)
}

ENTRY %main (a: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  %dot.7 = f32[4,4]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %while.1 = (s32[], f32[4,4]{1,0}) while(%dot.7), condition=%c, body=%body
  ROOT %copy.5 = f32[4,4]{0,1} copy(%dot.7)
}
"""
    kinds = instruction_kinds(text)
    assert (kinds["fusion.3"], kinds["dot.7"], kinds["copy.5"]) == ("exponentials", "products", "copies")
    assert "while.1" not in kinds


@pytest.mark.parametrize(
    ("step", "kind"),
    [(lambda x: x @ x / 512.0, "products"), (lambda x: jnp.tanh(jnp.exp(x) - 1.0), "exponentials")],
)
def test_a_loop_of_one_kind_spends_its_time_there(step, kind):
    x = jnp.eye(512)
    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, x: step(x), x)).lower(x).compile()
    jax.block_until_ready(compiled(x))
    seconds = time_by_kind(compiled, x)
    assert set(seconds) == set(KINDS)
    assert max(seconds, key=lambda name: seconds[name]) == kind
