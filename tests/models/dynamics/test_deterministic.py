"""The deterministic model against a NumPy re-implementation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Spec, Transition
from mbrl_jax.models.dynamics import common
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic, mse_loss

CFG = DeterministicConfig(hidden=(4,), activation="tanh", weight_decay=0.3, termination_weight=2.0)
SPEC = Spec(Box((2,)), Box((1,)), terminates=True)


def built():
    rng = np.random.default_rng(1)
    model = deterministic(CFG, SPEC)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    data = Transition(draw(5, 2), draw(5, 1), draw(5), jnp.array([1.0, 0, 1, 1, 0]), draw(5, 2), jnp.zeros(5, bool))
    assert model.calibrate is not None
    params = jax.jit(model.calibrate)(jax.jit(model.init)(jax.random.key(0)), data, jnp.ones(5, bool))
    return model, params, data


def numpy_outputs(params, data):
    x = np.concatenate([data.obs, data.action], 1)
    y = np.concatenate([data.next_obs - data.obs, np.asarray(data.reward)[:, None]], 1)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.net["params"])
    h = np.tanh(((x - x.mean(0)) / x.std(0)) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    out = h @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]
    end = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.termination["params"])
    return (
        out,
        numpy_ends(params, data.obs, data.action, data.next_obs),
        (y - y.mean(0)) / y.std(0),
        y,
        (*layers.values(), *end.values()),
    )


def numpy_ends(params, obs, action, next_obs):
    """Logits of termination of steps."""
    mean, std = params.scales.inputs
    after = (next_obs - mean[:2]) / std[:2]
    h = np.concatenate([(np.concatenate([obs, action], 1) - mean) / std, after, after**2], 1)
    for i in range(3):
        layer = params.termination["params"][f"Dense_{i}"]
        h = (h if i == 0 else h / (1 + np.exp(-h))) @ layer["kernel"] + layer["bias"]
    return h[:, 0]


def test_loss_and_errors():
    model, params, data = built()
    mean, z, target, _, layers = numpy_outputs(params, data)
    end, p = np.asarray(data.discount) == 0, 1 / (1 + np.exp(-z))
    cross = -np.mean(np.where(end, np.log(p), np.log(1 - p)))
    decay = 0.3 * 0.5 * sum(np.sum(layer["kernel"] ** 2) for layer in layers)
    loss, metrics = jax.jit(model.loss)(params, jax.random.key(0), data)
    np.testing.assert_allclose(loss, np.mean((mean - target) ** 2) + 2 * cross + decay, rtol=1e-4)
    np.testing.assert_allclose(metrics["squared_error"], np.mean((mean - target) ** 2), rtol=1e-4)
    assert model.errors is not None
    expected = (np.sum((mean - target) ** 2, 1) + (p - end) ** 2) / 4
    np.testing.assert_allclose(jax.jit(model.errors)(params, data), expected, rtol=1e-4)
    grads = jax.jit(jax.grad(lambda q: model.loss(q, jax.random.key(0), data)[0]))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads.scales))

    nets = common.networks(SPEC, CFG.hidden, CFG.activation, 1)
    loss, metrics = jax.jit(lambda p: mse_loss(p, data, nets=nets, weight_decay=0.7, termination_weight=3.0))(params)
    np.testing.assert_allclose(loss, np.mean((mean - target) ** 2) + 3 * cross + 0.7 / 0.3 * decay, rtol=1e-4)
    np.testing.assert_allclose(metrics["termination"], cross, rtol=1e-4)


def test_step_is_the_mean_for_every_key():
    model, params, data = built()
    mean, _, _, y, _ = numpy_outputs(params, data)
    change = y.mean(0) + y.std(0) * mean
    for seed in (0, 1):
        out = jax.jit(model.step)(params, jax.random.key(seed), data.obs[3], data.action[3])
        z = numpy_ends(params, data.obs[3:4], data.action[3:4], out.state[None])[0]
        np.testing.assert_allclose(out.state, np.asarray(data.obs[3]) + change[3, :2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.reward, change[3, 2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.discount, 1 / (1 + np.exp(z)), rtol=1e-4)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="termination_weight"):
        deterministic(DeterministicConfig(termination_weight=-1.0), SPEC)
