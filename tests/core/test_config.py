"""Configs as pytrees, their ranges, and dotted names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core.config import axes, check, config, describe, flat, replace, setting


@config
class Inner:
    lr: float = setting(default=1e-3, above=0)
    width: int = setting(default=8, low=1)


@config
class Outer:
    inner: Inner = Inner()
    gamma: float = setting(default=0.9, low=0, high=1)
    hidden: tuple[int, ...] = setting(default=(4, 4), low=1)
    kind: str = setting(default="a", choices=("a", "b"))


def test_floats_are_leaves_and_the_rest_is_static():
    assert jax.tree.leaves(Outer()) == [1e-3, 0.9]


def test_jit_retraces_for_static_fields_only():
    traces = []

    @jax.jit
    def f(cfg):
        traces.append(1)
        return cfg.gamma * cfg.inner.width

    assert float(f(Outer())) == pytest.approx(7.2)
    assert float(f(Outer(gamma=0.5))) == 4.0
    assert len(traces) == 1
    assert float(f(replace(Outer(gamma=0.5), {"inner.width": 2}))) == 1.0
    assert len(traces) == 2


def test_vmap_sweeps_the_named_floats_alone():
    swept = replace(Outer(), {"inner.lr": jnp.array([1.0, 2.0, 3.0])})
    out = jax.vmap(lambda cfg: cfg.inner.lr * cfg.gamma, (axes(Outer(), "inner.lr"),))(swept)
    np.testing.assert_allclose(out, [0.9, 1.8, 2.7], rtol=1e-6)


def test_flat_and_replace_speak_dotted_names():
    assert flat(Outer()) == {"inner.lr": 1e-3, "inner.width": 8, "gamma": 0.9, "hidden": (4, 4), "kind": "a"}
    assert replace(Outer(), {"inner.width": 3}).inner == Inner(width=3)
    with pytest.raises(ValueError, match=r"inner\.rate is not a setting"):
        replace(Outer(), {"inner.rate": 1})
    with pytest.raises(ValueError, match=r"inner\.width cannot be vmapped"):
        axes(Outer(), "inner.width")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("inner.lr", -1.0, "above 0"),
        ("inner.lr", 0.0, "above 0"),
        ("inner.lr", float("nan"), "above 0"),
        ("inner.width", 0, "at least 1"),
        ("gamma", 1.5, "at least 0 and at most 1"),
        ("gamma", float("inf"), "at least 0 and at most 1"),
        ("hidden", (4, 0), "at least 1"),
        ("kind", "c", "one of a, b"),
    ],
)
def test_check_names_the_field_and_what_is_allowed(name, value, allowed):
    with pytest.raises(ValueError, match=f"agent.{name} must be {allowed}, got"):
        check(replace(Outer(), {name: value}), "agent.")


def test_check_passes_good_and_traced_values():
    check(Outer())
    check(Outer(gamma=1.0))
    assert float(jax.jit(lambda gamma: check(Outer(gamma=gamma)) or gamma)(0.3)) == pytest.approx(0.3)


def test_describe_bounds():
    assert describe({"low": 0, "below": 1}) == "at least 0 and below 1"
    assert describe({}) == "a number"
