"""Losses against NumPy arithmetic and rlax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from mbrl_jax.ops import losses

RNG = np.random.default_rng(0)


def test_td_target_by_hand_and_without_gradient():
    assert float(losses.td_target(jnp.float32(1), jnp.float32(1), jnp.float32(10), 0.9)) == 10
    assert float(losses.td_target(jnp.float32(1), jnp.float32(0), jnp.float32(10), 0.9)) == 1
    assert float(jax.grad(lambda v: losses.td_target(jnp.float32(1), jnp.float32(1), v, 0.9))(jnp.float32(3))) == 0


def test_td_target_agrees_with_rlax():
    v, r, d, w = RNG.normal(size=4).astype(np.float32)
    expected = rlax.td_learning(v, r, np.float32(0.9) * d, w)
    assert float(losses.td_target(jnp.float32(r), jnp.float32(d), jnp.float32(w), 0.9)) - v == pytest.approx(
        float(expected), rel=1e-5
    )


def test_twin_loss_and_its_gradient():
    q = jnp.array([1.0, 4.0])
    assert float(losses.twin_loss(q, jnp.float32(2))) == 0.5 * (1 + 4)
    np.testing.assert_allclose(jax.grad(losses.twin_loss)(q, jnp.float32(2)), [-1, 2])


def test_soft_value_takes_the_lower_critic():
    assert float(losses.soft_value(jnp.array([3.0, 2.0]), jnp.float32(-0.5), jnp.float32(0.2))) == pytest.approx(2.1)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
def test_expected_soft_value_is_the_sum_over_actions(wrap):
    q, logits, alpha = RNG.normal(size=(5, 2, 3)), RNG.normal(size=(5, 3)), 0.3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (p * (q.min(1) - alpha * np.log(p))).sum(1)
    args = jnp.asarray(q, jnp.float32), jnp.asarray(logits, jnp.float32), jnp.full(5, alpha)
    if wrap is jax.vmap:
        out = wrap(losses.expected_soft_value)(*args)
    else:
        out = jnp.stack([wrap(losses.expected_soft_value)(*(a[i] for a in args)) for i in range(5)])
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_expected_soft_value_is_largest_at_the_boltzmann_policy():
    """max_π Σ π (q - α log π) = α log Σ exp(q / α), reached at π = softmax(q / α)."""
    q, alpha = jnp.array([1.0, 0.5, -2.0]), jnp.float32(0.4)
    best = losses.expected_soft_value(jnp.stack([q, q]), q / alpha, alpha)
    assert float(best) == pytest.approx(0.4 * float(jax.nn.logsumexp(q / alpha)), rel=1e-5)
    grad = jax.grad(lambda logits: losses.expected_soft_value(jnp.stack([q, q]), logits, alpha))(q / alpha)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_temperature_falls_where_entropy_is_above_target():
    grad = jax.grad(losses.temperature_loss)
    assert float(grad(jnp.float32(-1), jnp.float32(0.7), 0.5)) == pytest.approx(0.2)
    assert float(grad(jnp.float32(-1), jnp.float32(0.2), 0.5)) == pytest.approx(-0.3)
    assert float(jax.grad(losses.temperature_loss, 1)(jnp.float32(-1), jnp.float32(0.2), 0.5)) == 0


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),  # within the range: -ρ A
        (0.9, -2.0, 1.8, 2.0),
        (1.5, 2.0, -2.4, 0.0),  # past it in the favoured direction: clipped, no gradient
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0),  # past it in the other direction: not clipped
        (0.5, 2.0, -1.0, -2.0),
    ],
)
def test_clipped_ratio_loss_and_its_gradient(wrap, ratio, advantage, loss, slope):
    function = wrap(jax.value_and_grad(losses.clipped_ratio_loss))
    value, grad = function(jnp.float32(ratio), jnp.float32(advantage), 0.2)
    assert float(value) == pytest.approx(loss, rel=1e-5)
    assert float(grad) == pytest.approx(slope, rel=1e-5)


def test_clipped_ratio_loss_agrees_with_rlax():
    ratios, advantages = jnp.exp(RNG.normal(size=50)), jnp.asarray(RNG.normal(size=50), jnp.float32)
    ours = jax.vmap(losses.clipped_ratio_loss, (0, 0, None))(ratios, advantages, 0.3)
    theirs = rlax.clipped_surrogate_pg_loss(ratios, advantages, 0.3)
    assert float(jnp.mean(ours)) == pytest.approx(float(theirs), rel=1e-5)


def test_shapes_are_checked_at_the_door():
    with pytest.raises(AssertionError):
        losses.twin_loss(jnp.zeros((3, 2)), jnp.float32(0))
