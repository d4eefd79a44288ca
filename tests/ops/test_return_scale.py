"""The running range against NumPy; and Dreamer's returns, written out, against `lambda_returns` and `gae`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.ops import return_scale
from mbrl_jax.ops.returns import gae, lambda_returns

RNG = np.random.default_rng(0)
LAM, GAMMA = 0.95, 1 - 1 / 333


def test_the_range_follows_the_percentiles():
    state, low, high = return_scale.init(), 0.0, 0.0
    update = jax.jit(return_scale.update)
    for spread in (1.0, 300.0, 300.0, 40.0):
        returns = RNG.normal(size=(15, 7)).astype(np.float32) * spread + 3
        state = update(state, jnp.asarray(returns), 0.2)
        low, high = (0.8 * old + 0.2 * np.percentile(returns, q) for old, q in ((low, 5), (high, 95)))
        np.testing.assert_allclose([state.low, state.high], [low, high], rtol=1e-4)
        np.testing.assert_allclose(return_scale.scale(state), max(1.0, high - low), rtol=1e-4)
    assert high - low > 1


def test_small_returns_are_not_magnified_and_no_gradient_flows():
    state = return_scale.update(return_scale.init(), jnp.linspace(0.0, 0.5, 20))
    assert float(return_scale.scale(state)) == 1.0
    whole = lambda x: return_scale.scale(return_scale.update(return_scale.init(), x, 1.0))  # noqa: E731
    returns = jnp.linspace(-9.0, 9.0, 11)
    assert float(whole(returns)) > 10
    np.testing.assert_array_equal(jax.grad(whole)(returns), np.zeros(11))


def test_dreamer_s_imagined_returns_are_lambda_returns_of_what_is_received_on_arrival():
    """R_t = r_{t+1} + c_{t+1} [(1 - λ) v_{t+1} + λ R_{t+1}],  R_H = v_H: drop the start's own reward and discount."""
    rewards, values, goes = RNG.normal(size=(3, 16)).astype(np.float32)
    goes = 1 / (1 + np.exp(-goes))
    expected = np.zeros(16)
    expected[15] = values[15]
    for t in range(14, -1, -1):
        expected[t] = rewards[t + 1] + goes[t + 1] * ((1 - LAM) * values[t + 1] + LAM * expected[t + 1])
    out = lambda_returns(*map(jnp.asarray, (rewards[1:], goes[1:], values)), LAM)
    np.testing.assert_allclose(out, expected[:15], rtol=1e-4)


def test_dreamer_s_returns_along_replay_are_gae_plus_the_bootstrap():
    """With λ cut where an episode ends: G_t = r' + γ (1 - term') [(1 - λ keep') b' + λ keep' G'], keep = 1 - last."""
    rewards, boot = RNG.normal(size=(2, 12)).astype(np.float32)
    last, term = np.zeros(12, bool), np.zeros(12, bool)
    last[[4, 8]], term[4] = True, True
    expected = boot.astype(np.float64).copy()
    for t in range(10, -1, -1):
        keep = LAM * (1 - last[t + 1])
        expected[t] = rewards[t + 1] + GAMMA * (1 - term[t + 1]) * ((1 - keep) * boot[t + 1] + keep * expected[t + 1])
    discounts = GAMMA * (1 - term[1:]).astype(np.float32)
    args = (rewards[1:], discounts, boot[:-1], boot[1:], last[1:])
    out = gae(*map(jnp.asarray, args), LAM) + boot[:-1]
    np.testing.assert_allclose(out, expected[:11], rtol=1e-4, atol=1e-5)
