"""MLPs against matrix products written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.nets.mlp import mlp, narrow_init, orthogonal_init


def test_forward_is_matrix_products_and_activations():
    net = mlp(3, (5, 4), 2, "silu")
    params = net.init(jax.random.key(0))
    layers = params["params"]
    x = h = np.array([0.5, -1.0, 2.0])
    for i in range(3):
        h = h @ np.asarray(layers[f"Dense_{i}"]["kernel"]) + np.asarray(layers[f"Dense_{i}"]["bias"])
        h = h / (1 + np.exp(-h)) if i < 2 else h
    np.testing.assert_allclose(net.apply(params, jnp.asarray(x, jnp.float32)), h, rtol=1e-5)


def test_layer_norm_comes_before_each_hidden_activation_and_not_at_the_end():
    net = mlp(3, (5, 4), 2, layer_norm=True)
    params = net.init(jax.random.key(0))
    layers = jax.tree.map(np.asarray, params["params"])
    assert sorted(layers) == ["Dense_0", "Dense_1", "Dense_2", "LayerNorm_0", "LayerNorm_1"]
    x = h = np.array([0.5, -1.0, 2.0])
    for i in range(3):
        h = h @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"]
        h = np.maximum((h - h.mean()) / np.sqrt(h.var() + 1e-6), 0) if i < 2 else h
    np.testing.assert_allclose(net.apply(params, jnp.asarray(x, jnp.float32)), h, rtol=1e-4)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (16, 16)])
def test_orthogonal_init_is_the_one_by_qr(shape):
    w = np.asarray(orthogonal_init(jax.random.key(3), shape))
    expected = jax.nn.initializers.orthogonal(2**0.5)(jax.random.key(3), shape)
    np.testing.assert_allclose(w, expected, atol=2e-5)
    gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 2 * np.eye(min(shape)), atol=1e-5)


def test_narrow_init_has_the_stated_spread():
    w = np.asarray(narrow_init(jax.random.key(0), (400, 300)))
    assert np.abs(w).max() <= 2 / (2 * 20) + 1e-6
    assert w.std() == pytest.approx(0.8796 / 40, rel=0.02)  # a normal cut at two deviations has 0.8796 of its spread


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(activation="gelu2"), "activation must be one of relu"),
        (dict(kernel_init="zeros?"), "kernel_init must be one of lecun"),
        (dict(hidden=(0,)), "at least 1"),
    ],
)
def test_refuses_unknown_names_and_empty_layers(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mlp(3, **{"hidden": (4,), "out": 2, **kwargs})
