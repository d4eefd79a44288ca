"""Model losses against NumPy and hand-computed numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops.model_losses import binary_cross_entropy, gaussian_nll, soft_bound, squared_error

RAW = np.array([-30.0, -10.0, -4.0, 0.0, 0.5, 3.0, 40.0])
LOW, HIGH = np.full(7, -10.0), np.full(7, 0.5)


def softplus(x):
    return np.logaddexp(0.0, x)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: lambda *a: jax.vmap(f)(*(x[None] for x in a))[0]])
def test_soft_bound_values(wrap):
    expected = LOW + softplus(HIGH - softplus(HIGH - RAW) - LOW)
    got = np.asarray(wrap(soft_bound)(*map(jnp.asarray, (RAW, LOW, HIGH))))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    # By hand: at the ends the bounds themselves, and low + softplus(high - low) at the top.
    np.testing.assert_allclose(got[[0, -1]], [-10.0, 0.5 + np.log1p(np.exp(-10.5))], atol=1e-5)
    np.testing.assert_allclose(got[3], -0.47406, atol=1e-3)  # 0.5 - softplus(0.5), hardly moved by the lower bound
    assert (np.diff(got[1:]) > 0).all()


def test_soft_bound_gradients_to_output_and_to_both_bounds():
    raw, low, high = map(jnp.asarray, (RAW, LOW, HIGH))
    grads = jax.grad(lambda *a: jnp.sum(soft_bound(*a)), argnums=(0, 1, 2))(raw, low, high)
    inner, outer = sigmoid(HIGH - RAW), sigmoid(HIGH - softplus(HIGH - RAW) - LOW)
    np.testing.assert_allclose(grads[0], outer * inner, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[1], 1 - outer, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads[2], outer * (1 - inner), rtol=1e-4, atol=1e-6)


def test_gaussian_nll():
    mean, log_var, target = (np.random.default_rng(i).normal(size=5) for i in range(3))
    expected = np.mean((mean - target) ** 2 / np.exp(log_var) + log_var)
    np.testing.assert_allclose(gaussian_nll(*map(jnp.asarray, (mean, log_var, target))), expected, rtol=1e-5)
    # By hand: error 2 at variance 4 is 1 + log 4, and error 1 at variance 1 is 1.
    got = gaussian_nll(jnp.array([2.0, 1.0]), jnp.log(jnp.array([4.0, 1.0])), jnp.zeros(2))
    np.testing.assert_allclose(got, (1 + np.log(4.0) + 1) / 2, rtol=1e-6)


def test_gaussian_nll_is_least_at_the_true_variance():
    grad = jax.grad(lambda v: gaussian_nll(jnp.array([0.3]), v, jnp.zeros(1)))
    np.testing.assert_allclose(grad(jnp.log(jnp.array([0.09]))), 0.0, atol=1e-6)
    assert grad(jnp.log(jnp.array([0.05])))[0] < -0.1
    assert grad(jnp.log(jnp.array([0.20])))[0] > 0.1


def test_squared_error():
    np.testing.assert_allclose(squared_error(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 6.0])), 13.0 / 3)


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        (0.0, 1.0, np.log(2)),
        (2.0, 0.0, np.log1p(np.exp(2))),
        (-1.0, 0.25, None),
        (200.0, 1.0, 0.0),
        (200.0, 0.0, 200.0),
    ],
)
def test_binary_cross_entropy(logit, target, expected):
    if expected is None:
        expected = -target * np.log(sigmoid(logit)) - (1 - target) * np.log(1 - sigmoid(logit))
    got = binary_cross_entropy(jnp.float32(logit), jnp.float32(target))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        gaussian_nll(jnp.zeros(2), jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(AssertionError):
        squared_error(jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    with pytest.raises(AssertionError):
        soft_bound(jnp.zeros(2), jnp.zeros(()), jnp.zeros(2))
    with pytest.raises(AssertionError):
        binary_cross_entropy(jnp.zeros(1), jnp.zeros(1))
