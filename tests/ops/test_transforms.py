"""Transforms and bins against NumPy in double precision, rlax and numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from mbrl_jax.ops.transforms import signed_hyperbolic, signed_parabolic, symexp, symlog
from mbrl_jax.ops.two_hot import expectation, integer_bins, symexp_bins, two_hot

X = np.array([-3e5, -40.0, -1.0, -1e-3, 0.0, 1e-6, 0.5, 1.0, 7.0, 1e4], np.float32)
UNEVEN = np.array([-5.0, -1.0, 0.0, 0.25, 3.0, 100.0], np.float32)
SETS = {"uneven": UNEVEN, "symexp": symexp_bins(), "integers": integer_bins(10), "log": jnp.linspace(-10, 10, 101)}

encode = jax.jit(jax.vmap(two_hot, (0, None)))
decode = jax.jit(jax.vmap(expectation, (0, None)))


def two_hot_loop(x: float, bins) -> np.ndarray:
    """One number at a time, in double precision, by searching for its neighbours."""
    bins, out = np.asarray(bins, np.float64), np.zeros(len(bins))
    x = min(max(float(x), bins[0]), bins[-1])
    above = next(i for i in range(len(bins)) if bins[i] >= x)
    if bins[above] == x:
        out[above] = 1.0
    else:
        gap = bins[above] - bins[above - 1]
        out[above - 1], out[above] = (bins[above] - x) / gap, (x - bins[above - 1]) / gap
    return out


def test_symlog_and_symexp_by_numpy():
    x = X.astype(np.float64)
    np.testing.assert_allclose(symlog(jnp.asarray(X)), np.sign(x) * np.log(1 + np.abs(x)), rtol=1e-6)
    np.testing.assert_allclose(symexp(symlog(jnp.asarray(X))), X, rtol=1e-5)
    np.testing.assert_allclose(symexp(jnp.array([-1.0, 2.0])), [1 - np.e, np.e**2 - 1], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(symlog))(jnp.array([-3.0, 1.0])), [0.25, 0.5])


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1e-2])
def test_the_value_transform_and_its_inverse(eps):
    x = X.astype(np.float64)
    h = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + eps * x
    np.testing.assert_allclose(signed_hyperbolic(jnp.asarray(X), eps), h, rtol=1e-6)
    np.testing.assert_allclose(signed_parabolic(jnp.asarray(h, jnp.float32), eps), X, rtol=2e-6)
    if eps:
        np.testing.assert_allclose(
            signed_hyperbolic(jnp.asarray(X), eps), rlax.signed_hyperbolic(X, eps), rtol=1e-3, atol=1e-6
        )


def test_the_value_transform_by_hand():
    assert float(signed_hyperbolic(jnp.float32(3.0))) == pytest.approx(1.003)  # √4 - 1 + 0.001 · 3
    assert float(signed_hyperbolic(jnp.float32(-8.0), 0.1)) == pytest.approx(-2.8)
    assert float(signed_parabolic(jnp.float32(-2.8), 0.1)) == pytest.approx(-8.0)


@pytest.mark.parametrize("name", SETS)
def test_two_hot_is_linear_interpolation(name):
    bins = jnp.asarray(SETS[name])
    edges = np.asarray(bins)[[0, 1, -2, -1]]
    between = 0.75 * np.asarray(bins)[[0, 2, -2]] + 0.25 * np.asarray(bins)[[1, 3, -1]]
    x = np.concatenate([X, edges, between, [0.3, -0.7, 9e9, -9e9]]).astype(np.float32)
    out = np.asarray(encode(jnp.asarray(x), bins))
    np.testing.assert_allclose(out, [two_hot_loop(v, bins) for v in x], atol=2e-6)
    np.testing.assert_array_equal(out.sum(1), np.ones(len(x), np.float32))
    assert ((out > 0).sum(1) <= 2).all()
    assert (out >= 0).all()
    back = (out.astype(np.float64) * np.asarray(bins)).sum(1)
    np.testing.assert_allclose(back, np.clip(x, bins[0], bins[-1]), rtol=1e-5, atol=2e-6)


def test_two_hot_by_hand():
    np.testing.assert_allclose(two_hot(jnp.float32(1.0), jnp.asarray(UNEVEN))[3:5], [2 / 2.75, 0.75 / 2.75], rtol=1e-6)
    np.testing.assert_array_equal(two_hot(jnp.float32(0.25), jnp.asarray(UNEVEN)), [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(two_hot(jnp.float32(-2.0), jnp.asarray(UNEVEN)), [0.25, 0.75, 0, 0, 0, 0])
    np.testing.assert_array_equal(two_hot(jnp.float32(jnp.inf), jnp.asarray(UNEVEN)), [0, 0, 0, 0, 0, 1])


def test_two_hot_agrees_with_rlax_on_integers():
    x = np.array([-12.0, -9.5, -0.1, 0.0, 3.3, 10.0, 11.0], np.float32)
    ours = encode(jnp.asarray(x), integer_bins(10))
    np.testing.assert_allclose(ours, rlax.transform_to_2hot(x, -10, 10, 21), atol=1e-5)


def test_the_symexp_bins_are_the_paper_s():
    bins = np.asarray(symexp_bins())
    assert bins.shape == (255,)
    assert bins.dtype == np.float32
    np.testing.assert_array_equal(bins, -bins[::-1])
    assert bins[127] == 0
    assert bins[-1] == pytest.approx(np.exp(20) - 1, rel=1e-6)
    assert bins[128] == pytest.approx(np.exp(20 / 127) - 1, rel=1e-6)
    assert (np.diff(bins) > 0).all()
    np.testing.assert_array_equal(integer_bins(2), [-2, -1, 0, 1, 2])


@pytest.mark.parametrize("name", SETS)
def test_expectation_is_the_mean_over_bins(name):
    bins = np.asarray(SETS[name], np.float64)
    logits = np.random.default_rng(0).normal(size=(4, len(bins))).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    scale = (p * np.abs(bins)).sum(1)
    out = np.asarray(decode(jnp.asarray(logits), jnp.asarray(SETS[name])))
    assert (np.abs(out - (p * bins).sum(1)) < 1e-6 * scale).all()


@pytest.mark.parametrize("constant", [0.0, 3.7])
def test_equal_logits_over_symmetric_bins_mean_exactly_nothing(constant):
    """Bit for bit, compiled or not; a plain sum, and even a sum of rounded pairs that gets fused, is off."""
    bins = symexp_bins()
    logits = jnp.full((8, 255), constant)
    np.testing.assert_array_equal(decode(logits, bins), np.zeros(8))
    assert float(expectation(logits[0], bins)) == 0.0
    assert abs(float(jnp.sum(jax.nn.softmax(logits[0]) * bins))) > 1e-3


def test_a_number_comes_back_through_logits():
    bins = symexp_bins()
    x = jnp.array([-700.0, -1.0, 0.0, 0.4, 12.0, 1e6])
    logits = jnp.log(encode(x, bins) + 1e-30)
    np.testing.assert_allclose(decode(logits, bins), x, rtol=1e-4, atol=1e-5)
    # TD-MPC2: 101 even bins in the space of symlog
    even = jnp.linspace(-10.0, 10.0, 101)
    logits = jnp.log(encode(jnp.clip(symlog(x), -10, 10), even) + 1e-30)
    expected = np.asarray(x).copy()
    expected[-1] = np.exp(10) - 1  # beyond the last bin
    np.testing.assert_allclose(symexp(decode(logits, even)), expected, rtol=1e-4, atol=1e-5)


def test_cross_entropy_to_a_two_hot_target_is_least_at_the_target():
    bins = jnp.asarray(UNEVEN)
    target = two_hot(jnp.float32(1.0), bins)
    loss = lambda logits: -jnp.sum(target * jax.nn.log_softmax(logits))  # noqa: E731
    grads = jax.grad(loss)(jnp.log(target + 1e-9))
    np.testing.assert_allclose(grads, np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(6)), 1 / 6 - np.asarray(target), atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="count must be odd and at least 3, got 254"):
        symexp_bins(254)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        integer_bins(0)
    with pytest.raises(AssertionError):
        two_hot(jnp.zeros(3), jnp.asarray(UNEVEN))
    with pytest.raises(AssertionError):
        expectation(jnp.zeros(5), jnp.asarray(UNEVEN))
