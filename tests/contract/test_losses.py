"""Every public loss, called and differentiated on a hand-made batch from `helpers.loss_cases`."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import loss_cases
from helpers.loss_cases import LossCase

import mbrl_jax
from mbrl_jax import presets

FAMILIES = sorted(module.name for module in pkgutil.iter_modules(loss_cases.__path__))
PACKAGE = Path(mbrl_jax.__file__).parent

WITHOUT_GRADIENTS = {"q_learning", "dyna_q", "dyna_q_plus", "sweeping", "mpc", "uct"}
"""Agents that back up tables, or learn nothing."""

OTHER_FORMS: dict[str, str] = {}
"""Functions `module.name` that are called a loss and have another form, and why."""


@cache
def cases(family: str) -> tuple[LossCase, ...]:
    return tuple(importlib.import_module(f"helpers.loss_cases.{family}").cases())


def name_of(loss: Any) -> str:
    """A function's `module.name`, what `partial` binds to it left aside."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return f"{loss.__module__}.{loss.__name__}"


def label(case: LossCase) -> str:
    return f"{case.agent}: {name_of(case.loss)}"


def call(case: LossCase) -> Any:
    """The loss as a function of its parameters alone."""
    return lambda params: case.loss(params, *case.args, **case.kwargs)


def moved(params: Any, direction: Any, size: float) -> Any:
    return jax.tree.map(lambda x, d: x + size * d if d.dtype == x.dtype else x, params, direction)


def dot(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum(np.vdot(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs))


def unit(tree: Any) -> Any:
    length = np.sqrt(dot(tree, tree))
    return jax.tree.map(lambda x: (x / length).astype(jnp.float32), tree)


SIZES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


def difference(value: Any, params: Any, direction: Any, slope: float) -> float:
    """The central difference nearest to a slope, over steps of several sizes.

    Large steps see the curvature and small ones the rounding of float32; a slope of the wrong sign or size fits none.
    """
    found = [
        (float(value(moved(params, direction, h))) - float(value(moved(params, direction, -h)))) / (2 * h)
        for h in SIZES
    ]
    return min(found, key=lambda measured: abs(measured - slope))


def faults(case: LossCase) -> list[str]:
    """What a loss breaks of the contract."""
    form, _ = jax.eval_shape(call(case), case.params)
    if form.shape != () or form.dtype != jnp.float32:
        return [f"the loss is {form.dtype}{form.shape}, not a float32 scalar"]
    fn = jax.jit(jax.value_and_grad(call(case), has_aux=True))  # one program for all
    (loss, metrics), grads = fn(case.params)
    found = []
    if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
        return [*found, "the metrics are no dict by name"]
    found += [f"metric {name} is no finite scalar" for name, x in metrics.items() if not _finite_scalar(x)]
    if not all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(grads)) or not np.isfinite(float(loss)):
        return [*found, "the loss or its gradient is not finite"]
    length = np.sqrt(dot(grads, grads))
    if length < 1e-7:
        return [*found, "the gradient is zero"]
    if case.smooth:
        found += _slopes(case, lambda params: fn(params)[0][0], grads, length)
    return found


def _finite_scalar(x: Any) -> bool:
    return np.shape(x) == () and bool(np.isfinite(np.asarray(x)))


def _slopes(case: LossCase, value: Any, grads: Any, length: float) -> list[str]:
    """The gradient's slope along itself, and along a random direction, against differences."""
    rng = np.random.default_rng(0)
    draw = jax.tree.map(lambda g: jnp.asarray(rng.normal(size=g.shape), jnp.float32), grads)
    along = unit(grads)
    mixed = unit(jax.tree.map(lambda a, b: a + 0.5 * b, along, unit(draw)))
    found = []
    for name, direction in (("itself", along), ("a random direction", mixed)):
        slope = dot(grads, direction)
        measured = difference(value, case.params, direction, slope)
        if abs(measured - slope) > 0.02 * length:
            found.append(f"along {name} the gradient's slope is {slope:.5g}, and differences say {measured:.5g}")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_scalars_with_metrics_and_the_gradients_that_differences_measure(family):
    broken = {label(case): found for case in cases(family) if (found := faults(case))}
    assert broken == {}


def test_faults_are_found():
    """A loss with the sign of its gradient turned, one without a gradient, one of the wrong form."""

    @jax.custom_vjp
    def turned(x: Any) -> Any:
        return x

    turned.defvjp(lambda x: (x, None), lambda _, g: (-g,))
    params, batch = {"w": jnp.array([1.0, -2.0])}, jnp.array([[1.0, 2.0], [0.5, -1.0]])

    def good(params: Any, batch: Any, *, scale: float) -> Any:
        loss = scale * jnp.mean(jnp.square(batch @ params["w"] - 1))
        return loss, {"loss": loss}

    def flipped(params: Any, batch: Any, *, scale: float) -> Any:
        return good({"w": turned(params["w"])}, batch, scale=scale)

    def stuck(params: Any, batch: Any, *, scale: float) -> Any:
        return good(jax.lax.stop_gradient(params), batch, scale=scale)

    def rows(params: Any, batch: Any, *, scale: float) -> Any:
        del scale
        return jnp.sum(batch @ params["w"]), {"rows": batch @ params["w"]}

    found = {loss.__name__: faults(LossCase("sac", loss, params, (batch,), {"scale": 0.5}))
             for loss in (good, flipped, stuck, rows)}  # fmt: skip
    assert found["good"] == []
    assert len(found["flipped"]) == 2
    assert "differences say" in found["flipped"][0]
    assert found["stuck"] == ["the gradient is zero"]
    assert found["rows"] == ["metric rows is no finite scalar"]


def every_case() -> list[LossCase]:
    return [case for family in FAMILIES for case in cases(family)]


def test_every_agent_that_learns_by_gradients_has_a_loss_to_call():
    covered = {case.agent for case in every_case()} - {""}
    assert covered <= set(presets.AGENTS)
    assert set(presets.AGENTS) - WITHOUT_GRADIENTS - covered == set()


def public_losses() -> set[str]:
    """All module-level functions of agents and models whose name ends in `_loss` or `_losses`."""
    found = set()
    for room in ("agents", "models"):
        for path in (PACKAGE / room).rglob("*.py"):
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef) and node.name.endswith(("_loss", "_losses")):
                    found.add(f"{module.removesuffix('.__init__')}.{node.name}")
    return {name for name in found if not name.rsplit(".", 1)[1].startswith("_")}


def test_every_public_loss_has_a_case_or_a_reason():
    assert set(OTHER_FORMS) <= public_losses()
    assert public_losses() - {name_of(case.loss) for case in every_case()} - set(OTHER_FORMS) == set()
