"""λ-returns and advantages against rlax, hand-computed numbers, and sums written out in NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from mbrl_jax.ops.returns import discounted_sums, gae, lambda_returns

ENVS, STEPS, LAM = 5, 12, 0.8


def loops(rewards, discounts, values, next_values, last, lam):
    """A_t = Σ_k (Π_{t<=i<t+k} d_i λ) δ_{t+k}, up to the first `last`."""
    out = np.zeros(len(rewards))
    for t in range(len(rewards)):
        weight = 1.0
        for k in range(t, len(rewards)):
            out[t] += weight * (rewards[k] + discounts[k] * next_values[k] - values[k])
            weight *= discounts[k] * lam
            if last[k]:
                break
    return out


def trajectories(ends: tuple[float, float] = (0.15, 0.15)) -> Any:
    """Random trajectories, with terminations and truncations at the given chances: arrays [T, ENVS]."""
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, STEPS, ENVS)).astype(np.float32)
    terminated, cut = rng.random((STEPS, ENVS)) < ends[0], rng.random((STEPS, ENVS)) < ends[1]
    assert terminated.any() == (ends[0] > 0)
    assert (cut & ~terminated).any() == (ends[1] > 0)
    discounts = np.where(terminated, 0, 0.9).astype(np.float32)
    going = ~(terminated | cut)
    next_values[:-1] = np.where(going[:-1], values[1:], next_values[:-1])
    return rewards, discounts, values, next_values, terminated | cut


def apply(how, function, arrays, *settings):
    """[T, ENVS] outputs, one trajectory at a time or all at once."""
    arrays = [jnp.asarray(a) for a in arrays]
    if how == "vmap":
        axes = (1,) * len(arrays) + (None,) * len(settings)
        return jax.vmap(function, axes, 1)(*arrays, *settings)
    function = jax.jit(function) if how == "jit" else function
    return jnp.stack([function(*(a[:, i] for a in arrays), *settings) for i in range(ENVS)], 1)


ways = pytest.mark.parametrize("how", ["eager", "jit", "vmap"])


@ways
@pytest.mark.parametrize("lam", [0.0, LAM, 1.0])
def test_gae_is_the_sum_within_each_episode(how, lam):
    arrays = trajectories()
    expected = np.stack([loops(*[a[:, i] for a in arrays], lam=lam) for i in range(ENVS)], 1)
    np.testing.assert_allclose(apply(how, gae, arrays, lam), expected, rtol=1e-4, atol=1e-5)


@ways
def test_gae_agrees_with_rlax_where_nothing_is_truncated(how):
    rewards, discounts, values, next_values, last = trajectories((0.2, 0.0))
    expected = np.stack(
        [
            rlax.truncated_generalized_advantage_estimation(
                rewards[:, i], discounts[:, i], LAM, np.append(values[:, i], next_values[-1, i])
            )
            for i in range(ENVS)
        ],
        1,
    )
    out = apply(how, gae, (rewards, discounts, values, next_values, last), LAM)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_gae_by_hand_at_a_termination_and_at_a_time_limit():
    """Two steps, the first ending an episode: terminated, nothing follows; out of time, the successor's value does."""
    rewards, values, next_values = jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0]), jnp.array([100.0, 30.0])
    last = jnp.array([True, False])
    second = 2 + 0.5 * 30 - 20
    ended = gae(rewards, jnp.array([0.0, 0.5]), values, next_values, last, 1.0)
    np.testing.assert_allclose(ended, [1 - 10, second])
    cut = gae(rewards, jnp.array([0.5, 0.5]), values, next_values, last, 1.0)
    np.testing.assert_allclose(cut, [1 + 0.5 * 100 - 10, second])
    going = gae(rewards, jnp.array([0.5, 0.5]), values, jnp.array([20.0, 30.0]), jnp.array([False, False]), 1.0)
    np.testing.assert_allclose(going, [1 + 0.5 * (2 + 0.5 * 30) - 10, second])


@ways
@pytest.mark.parametrize("lam", [0.0, LAM, 1.0])
def test_lambda_returns_agree_with_rlax(how, lam):
    rewards, discounts, values, next_values, _ = trajectories()
    values = np.concatenate([values, next_values[-1:]])
    expected = np.stack(
        [rlax.lambda_returns(rewards[:, i], discounts[:, i], values[1:, i], lam) for i in range(ENVS)], 1
    )
    out = apply(how, lambda_returns, (rewards, discounts, values), lam)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_lambda_returns_by_hand():
    rewards, discounts, values = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]), jnp.array([0.0, 8.0, 4.0])
    np.testing.assert_allclose(lambda_returns(rewards, discounts, values, 0.0), [1 + 4, 2 + 2])
    np.testing.assert_allclose(lambda_returns(rewards, discounts, values, 1.0), [1 + 0.5 * 4, 4])
    np.testing.assert_allclose(lambda_returns(rewards, discounts, values, 0.25), [1 + 0.5 * (6 + 1), 4])


def test_advantages_plus_values_are_lambda_returns():
    rewards, discounts, values, next_values, last = (a[:, 0] for a in trajectories((0.2, 0.0)))
    whole = jnp.append(values, next_values[-1])
    returns = lambda_returns(rewards, discounts, whole, LAM)
    np.testing.assert_allclose(gae(rewards, discounts, values, next_values, last, LAM) + values, returns, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(3, 3, 3), (3, 2, 4)])
def test_lambda_returns_refuse_other_lengths(lengths):
    rewards, discounts, values = (jnp.zeros(n) for n in lengths)
    with pytest.raises(AssertionError):
        lambda_returns(rewards, discounts, values, 0.9)


def test_discounted_sums_restart_with_the_episode():
    rewards, last = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([[0], [1], [0], [0]], bool)
    np.testing.assert_allclose(discounted_sums(rewards, last, 0.5)[:, 0], [1.0, 2.5, 3.0, 5.5])


def test_batches_are_refused_at_the_door():
    batch = jnp.zeros((4, 2))
    with pytest.raises(AssertionError):
        gae(batch, batch, batch, batch, batch > 0, 0.9)
