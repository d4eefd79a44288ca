"""Layers with their norms against products written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.nets.layers import RMSNorm, joint, layers, scaled_init

X = np.array([0.5, -1.0, 2.0, 0.1])


def drawn(init):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape) + 0.1, jnp.float32), shapes)


def layer(p, x, kind, act):
    z = x @ np.asarray(p[f"Dense_{p['i']}"]["kernel"], np.float64) + np.asarray(p[f"Dense_{p['i']}"]["bias"])
    if kind == "rms":
        z = z / np.sqrt((z**2).mean() + 1e-4) * np.asarray(p[f"RMSNorm_{p['i']}"]["scale"])
    if kind == "layer":
        n = p[f"LayerNorm_{p['i']}"]
        z = (z - z.mean()) / np.sqrt(z.var() + 1e-3) * np.asarray(n["scale"]) + np.asarray(n["bias"])
    return act(z)


silu = lambda z: z / (1 + np.exp(-z))  # noqa: E731
elu = lambda z: np.where(z > 0, z, np.exp(z) - 1)  # noqa: E731


@pytest.mark.parametrize(("kind", "name", "act"), [("rms", "silu", silu), ("layer", "elu", elu), ("none", "elu", elu)])
def test_layers_by_numpy(kind, name, act):
    net = layers(4, (5, 3), 2, name, kind)
    params = drawn(net.init)
    p, h = params["params"], X
    for i in range(2):
        h = layer({**p, "i": i}, h, kind, act)
    h = h @ np.asarray(p["Dense_2"]["kernel"]) + np.asarray(p["Dense_2"]["bias"])
    np.testing.assert_allclose(net.apply(params, jnp.asarray(X, jnp.float32)), h, rtol=1e-4, atol=1e-5)


def test_without_an_output_the_last_layer_is_the_result_and_a_scale_of_0_starts_at_0():
    net = layers(4, (5,))
    params = drawn(net.init)
    out = layer({**params["params"], "i": 0}, X, "rms", silu)
    np.testing.assert_allclose(net.apply(params, jnp.asarray(X, jnp.float32)), out, rtol=1e-4, atol=1e-5)
    zero = layers(4, (5,), 3, out_scale=0.0)
    np.testing.assert_array_equal(zero.apply(jax.jit(zero.init)(jax.random.key(0)), jnp.ones(4)), np.zeros(3))


def test_weights_start_with_the_stated_deviation_and_biases_at_0():
    params = jax.jit(layers(400, (300,), 7, out_scale=0.01).init)(jax.random.key(0))["params"]
    w = np.asarray(params["Dense_0"]["kernel"])
    assert w.std() == pytest.approx(0.8796 * 1.1368 / 20, rel=0.01)  # 0.8796 of a normal remains after the cut
    assert np.abs(w).max() <= 2 * 1.1368 / 20 + 1e-6
    assert np.asarray(params["Dense_1"]["kernel"]).std() == pytest.approx(0.01 / 300**0.5, rel=0.05)
    assert all((np.asarray(params[f"Dense_{i}"]["bias"]) == 0).all() for i in (0, 1))
    blocks = scaled_init()(jax.random.key(1), (8, 64, 32))  # every block counts as an input
    assert float(blocks.std()) == pytest.approx(1 / (8 * 64) ** 0.5, rel=0.02)


def test_a_joint_network_is_layers_over_both_vectors():
    net, whole = joint((4, 3), (5, 6), 2), layers(7, (5, 6), 2)
    params = drawn(net.init)
    p = params["params"]
    as_whole = {
        "Dense_0": {"kernel": p["kernel"], "bias": p["bias"]}, "RMSNorm_0": p["first_norm"],
        "Dense_1": p["rest"]["Dense_0"], "RMSNorm_1": p["rest"]["RMSNorm_0"], "Dense_2": p["rest"]["Dense_1"],
    }  # fmt: skip
    x, y = jnp.asarray(X, jnp.float32), jnp.array([3.0, -1.0, 0.2])
    expected = whole.apply({"params": as_whole}, jnp.concatenate([x, y]))
    np.testing.assert_allclose(net.apply(params, x, net.ahead(params, y)), expected, rtol=1e-5)
    assert jax.tree.map(jnp.shape, jax.eval_shape(whole.init, jax.random.key(0))["params"]) == jax.tree.map(
        jnp.shape, as_whole
    )


def test_norms_are_taken_in_float32_and_given_in_the_type_of_the_input():
    x = jnp.full(300, 300.0, jnp.float16)  # squares beyond float16
    norm = RMSNorm()
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out, np.ones(300), rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers(3, (4,), activation="no"), "activation must be one of relu"),
        (lambda: layers(3, (4,), norm="batch"), "norm must be one of rms, layer, none, got 'batch'"),
        (lambda: layers(3, (0,)), "at least 1"),
        (lambda: layers(3, ()), "at least 1"),
        (lambda: joint((3, 0), (4,), 2), "at least 1"),
        (lambda: joint((3, 1), (), 2), "at least 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
