"""The probabilistic model against a NumPy re-implementation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.core import Box, Discrete, Spec, Transition
from mbrl_jax.models.dynamics import common
from mbrl_jax.models.dynamics.common import Scales
from mbrl_jax.models.dynamics.gaussian import Bounds, GaussianConfig, gaussian, nll_loss
from mbrl_jax.ops.normalize import Normalizer

CFG = GaussianConfig(hidden=(5,), weight_decay=0.1, bound_weight=0.02, termination_weight=0.5)
SPEC = Spec(Box((2,)), Discrete(2), terminates=True)
RNG = np.random.default_rng(3)
ROWS = 6


def batch(spec=SPEC):
    discrete = isinstance(spec.action, Discrete)
    return Transition(
        jnp.asarray(RNG.normal(size=(ROWS, 2)), jnp.float32),
        jnp.array([0, 1, 1, 0, 1, 0]) if discrete else jnp.asarray(RNG.normal(size=(ROWS, 1)), jnp.float32),
        jnp.asarray(RNG.normal(size=ROWS), jnp.float32),
        jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]),
        jnp.asarray(RNG.normal(size=(ROWS, 2)), jnp.float32),
        jnp.array([False, True, False, True, True, False]),
    )


def built(spec=SPEC, cfg=CFG):
    model = gaussian(cfg, spec)
    params = jax.jit(model.init)(jax.random.key(0))
    scales = Scales(
        Normalizer(jnp.array([0.5, -0.5, 0.3, 0.2]), jnp.array([1.5, 2.0, 0.4, 0.6])),
        Normalizer(jnp.array([0.1, 0.2, -1.0]), jnp.array([0.5, 3.0, 2.0])),
    )
    bounds = Bounds(jnp.array([-10.0, -9.0, -8.0]), jnp.array([0.5, 0.4, 0.3]))
    return model, params._replace(scales=scales, bounds=bounds)


def numpy_end(params, obs, action, next_obs):
    """The termination logit of what a step led to, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    mean, std = p.scales.inputs
    after = (next_obs - mean[:2]) / std[:2]
    h = np.concatenate([(np.concatenate([obs, np.eye(2)[action]]) - mean) / std, after, after**2])
    for i in range(3):
        h = h if i == 0 else h / (1 + np.exp(-h))
        h = h @ p.termination["params"][f"Dense_{i}"]["kernel"] + p.termination["params"][f"Dense_{i}"]["bias"]
    return h[0]


def numpy_forward(params, obs, action):
    """Mean and log-variance in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.concatenate([obs, np.eye(2)[action]])
    layers = p.net["params"]
    h = ((x - p.scales.inputs.mean) / p.scales.inputs.std) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    out = (h / (1 + np.exp(-h))) @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]
    upper = p.bounds.high - np.logaddexp(0, p.bounds.high - out[3:6])
    return out[:3], p.bounds.low + np.logaddexp(0, upper - p.bounds.low)


def numpy_target(params, data, i):
    y = np.append(np.asarray(data.next_obs[i]) - np.asarray(data.obs[i]), data.reward[i])
    return (y - np.asarray(params.scales.targets.mean)) / np.asarray(params.scales.targets.std)


def test_loss_and_errors():
    model, params = built()
    data = batch()
    nll, cross, brier = [], [], []
    for i in range(ROWS):
        mean, log_var = numpy_forward(params, np.asarray(data.obs[i]), int(data.action[i]))
        z = numpy_end(params, np.asarray(data.obs[i]), int(data.action[i]), np.asarray(data.next_obs[i]))
        y, end, p = numpy_target(params, data, i), float(data.discount[i] == 0), 1 / (1 + np.exp(-z))
        nll.append(np.mean((mean - y) ** 2 * np.exp(-log_var) + log_var))
        cross.append(-end * np.log(p) - (1 - end) * np.log(1 - p))
        brier.append((np.sum((mean - y) ** 2) + (p - end) ** 2) / 4)
    kernels = [
        np.asarray(layer["kernel"]) for net in (params.net, params.termination) for layer in net["params"].values()
    ]
    decay = 0.1 * sum(0.5 * np.sum(kernel**2) for kernel in kernels)
    loss, metrics = jax.jit(model.loss)(params, jax.random.key(0), data)
    np.testing.assert_allclose(loss, np.mean(nll) + 0.5 * np.mean(cross) + 0.02 * (1.2 + 27.0) + decay, rtol=1e-5)
    np.testing.assert_allclose(metrics["nll"], np.mean(nll), rtol=1e-5)
    np.testing.assert_allclose(metrics["termination"], np.mean(cross), rtol=1e-5)
    assert model.errors is not None
    np.testing.assert_allclose(jax.jit(model.errors)(params, data), brier, rtol=1e-5)

    nets = common.networks(SPEC, CFG.hidden, CFG.activation, 2)
    weights = {"weight_decay": 0.4, "bound_weight": 0.3, "termination_weight": 2.0}
    loss, metrics = jax.jit(lambda p: nll_loss(p, data, nets=nets, **weights))(params)
    np.testing.assert_allclose(loss, np.mean(nll) + 2 * np.mean(cross) + 0.3 * (1.2 + 27.0) + 4 * decay, rtol=1e-5)
    np.testing.assert_allclose(metrics["bound_width"], 1.2 + 27.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["decay"], 4 * decay, rtol=1e-5)


def test_weight_decay_pulls_at_weights_and_not_at_biases():
    data = batch()

    def grad(decay):
        # Built inside the trace, with a traced float.
        model, params = built(cfg=GaussianConfig(hidden=(5,), weight_decay=decay))
        return jax.grad(lambda p: model.loss(p, jax.random.key(0), data)[0])(params)

    with_decay, without = jax.jit(jax.vmap(grad))(jnp.array([0.1, 0.0])), built()[1]
    difference = jax.tree.map(lambda leaf: leaf[0] - leaf[1], with_decay)
    for got, net in ((difference.net, without.net), (difference.termination, without.termination)):
        for name, layer in got["params"].items():
            np.testing.assert_allclose(layer["kernel"], 0.1 * net["params"][name]["kernel"], atol=1e-5)
            np.testing.assert_array_equal(layer["bias"], 0.0)
    np.testing.assert_array_equal(jnp.concatenate(difference.bounds), 0.0)


def test_scales_are_set_by_calibrate_and_left_alone_by_adam():
    model, params = built()
    data = batch()
    mask = jnp.array([True, True, False, True, True, True])
    poisoned = data._replace(reward=data.reward.at[2].set(jnp.nan), obs=data.obs.at[2].set(jnp.nan))
    assert model.calibrate is not None
    params = jax.jit(model.calibrate)(params, poisoned, mask)
    kept = np.asarray(mask)
    y = np.concatenate([np.asarray(data.next_obs - data.obs), np.asarray(data.reward)[:, None]], 1)[kept]
    x = np.concatenate([np.asarray(data.obs), np.eye(2)[np.asarray(data.action)]], 1)[kept]
    for got, rows in ((params.scales.inputs, x), (params.scales.targets, y)):
        np.testing.assert_allclose(got.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got.std, rows.std(0), rtol=1e-4)

    grads: Any = jax.jit(jax.grad(lambda p: model.loss(p, jax.random.key(0), data)[0]))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads.scales))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves((grads.net, grads.termination, grads.bounds)))
    adam = optax.adam(1e-2)
    after: Any = optax.apply_updates(params, adam.update(grads, adam.init(params))[0])
    jax.tree.map(np.testing.assert_array_equal, after.scales, params.scales)
    assert not np.array_equal(after.bounds.low, params.bounds.low)


def test_step_samples_the_predicted_gaussian():
    model, params = built()
    obs, action = jnp.array([0.3, -0.7]), jnp.int32(1)
    keys = jax.random.split(jax.random.key(1), 20_000)
    out = jax.jit(jax.vmap(model.step, (None, 0, None, None)))(params, keys, obs, action)
    mean, log_var = numpy_forward(params, np.asarray(obs), 1)
    scale, shift = np.asarray(params.scales.targets.std), np.append(np.asarray(obs), 0.0)
    drawn = np.concatenate([out.state, out.reward[:, None]], 1)
    std = scale * np.exp(0.5 * log_var)
    expected = shift + np.asarray(params.scales.targets.mean) + scale * mean
    assert (np.abs(drawn.mean(0) - expected) < 5 * std / np.sqrt(20_000)).all()
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.03)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.05
    z = np.array([numpy_end(params, np.asarray(obs), 1, np.asarray(state)) for state in out.state[:50]])
    np.testing.assert_allclose(out.discount[:50], 1 / (1 + np.exp(z)), rtol=1e-4)


def test_an_environment_that_never_ends_has_discount_one_and_no_head():
    model = gaussian(CFG, Spec(Box((2,)), Box((1,)), terminates=False))
    params = jax.jit(model.init)(jax.random.key(0))
    assert params.termination == ()
    data = batch(Spec(Box((2,)), Box((1,))))
    out = jax.jit(model.step)(params, jax.random.key(0), data.obs[0], data.action[0])
    assert out.discount == 1.0
    assert jax.jit(model.loss)(params, jax.random.key(0), data)[1]["termination"] == 0.0
    assert model.decode is not None
    np.testing.assert_array_equal(
        model.decode(params, model.encode(params, jax.random.key(0), data.obs[0])), data.obs[0]
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"weight_decay": -1.0}, "weight_decay"), ({"hidden": (0,)}, "hidden"), ({"activation": "no"}, "activation")],
)
def test_settings_are_checked(setting, words):
    with pytest.raises(ValueError, match=words):
        gaussian(GaussianConfig(**setting), SPEC)
