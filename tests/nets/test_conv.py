"""The convolution against loops in NumPy; vectors against the plain MLP."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.mlp import mlp


def by_hand(params, image):
    """Every window of 3 x 3 times every kernel, relu, flattened row by row, then the dense layers."""
    conv, dense = params["params"]["Conv_0"], params["params"]["MLP_0"]
    bias, kernel = np.asarray(conv["bias"]), np.asarray(conv["kernel"]).reshape(3, 3, image.shape[2], -1)
    rows, columns = image.shape[0] - 2, image.shape[1] - 2
    planes = np.zeros((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            for c in range(kernel.shape[-1]):
                planes[i, j, c] = (image[i : i + 3, j : j + 3] * kernel[..., c]).sum() + bias[c]
    x = np.maximum(planes, 0).reshape(-1)
    x = np.tanh(x @ np.asarray(dense["Dense_0"]["kernel"]) + np.asarray(dense["Dense_0"]["bias"]))
    return x @ np.asarray(dense["Dense_1"]["kernel"]) + np.asarray(dense["Dense_1"]["bias"])


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_an_image_is_convolved_then_flattened(dtype):
    rng = np.random.default_rng(0)
    image = (rng.random((6, 5, 2)) < 0.4) if dtype is bool else rng.normal(size=(6, 5, 2)).astype(np.float32)
    net = network(Box((6, 5, 2), 0, 1, dtype), (7,), 3, "tanh")
    params = jax.tree.map(lambda p: p + 0.1, net.init(jax.random.key(0)))  # biases other than 0
    assert params["params"]["Conv_0"]["kernel"].shape == (9 * 2, 16)
    np.testing.assert_allclose(net.apply(params, jnp.asarray(image)), by_hand(params, image), rtol=1e-4, atol=1e-5)


def test_a_batch_is_its_rows():
    net = network(Box((4, 4, 3)), (5,), 2)
    params = net.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, 4, 4, 3))
    batched = jax.jit(jax.vmap(net.apply, (None, 0)))(params, images)
    np.testing.assert_allclose(batched, [net.apply(params, image) for image in images], rtol=1e-5, atol=1e-6)


def test_a_vector_goes_through_the_plain_mlp():
    net, plain = network(Box((3,)), (5, 4), 2, "silu", "narrow"), mlp(3, (5, 4), 2, "silu", "narrow")
    params = net.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, plain.init(jax.random.key(0)))
    x = jnp.array([1, -2, 3])
    np.testing.assert_array_equal(net.apply(params, x), plain.apply(params, x.astype(jnp.float32)))


def test_without_channels_an_image_is_flattened():
    net, plain = network(Box((3, 4, 2)), (5,), 2, channels=0), mlp(24, (5,), 2)
    params = net.init(jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (3, 4, 2))
    np.testing.assert_array_equal(net.apply(params, image), plain.apply(params, image.reshape(-1)))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 3)], ids=["vector", "image"])
def test_the_last_layer_alone_is_scaled(shape):
    one, small = (network(Box(shape), (6,), 3, out_scale=scale).init(jax.random.key(0)) for scale in (1.0, 0.01))
    changed = 0
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(one)[0], jax.tree.leaves(small), strict=True):
        last = "Dense_1" in jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a * (0.01 if last else 1.0), rtol=1e-6)
        changed += bool((a != b).any())
    assert changed == 1


def test_orthogonal_weights_have_gain_sqrt_two():
    layers = network(Box((8,)), (5,), 3, kernel_init="orthogonal").init(jax.random.key(0))["params"]
    kernel = np.asarray(layers["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(5), atol=1e-5)


@pytest.mark.parametrize(
    ("space", "kwargs", "message"),
    [
        (Box((10, 5)), {}, r"must be a vector or an image \[height, width, channels\], got Box\(shape=\(10, 5\)"),
        (Discrete(4), {}, r"got Discrete\(n=4\)"),
        (Box((2, 9, 4)), {}, "at least 3 x 3"),
        (Box((5, 5, 1)), {"activation": "gelu2"}, "activation must be one of relu"),
        (Box((5, 5, 1)), {"kernel_init": "no"}, "kernel_init must be one of lecun"),
        (Box((5, 5, 1)), {"hidden": (0,)}, "at least 1"),
    ],
)
def test_bad_observations_and_settings_are_refused(space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        network(space, **{"hidden": (4,), "out": 2, **kwargs})


def test_an_image_goes_through_three_convolutions():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 36, 3), np.uint8)
    net = network(Box(image.shape, 0, 255, jnp.uint8), (7,), 3, "tanh", channels=4)
    params = jax.tree.map(lambda p: p + 0.1, jax.jit(net.init)(jax.random.key(0)))
    p, x = params["params"], jnp.asarray(image / 255.0, jnp.float32)[None]
    for i, (size, stride, pad) in enumerate(((8, 4, 2), (4, 2, 1), (3, 1, 1))):
        dense, blocks, channels = p[f"Conv_{i}"]["Dense_0"], size // stride, x.shape[-1]
        kernel = dense["kernel"].reshape(blocks, blocks, stride, stride, channels, -1).swapaxes(1, 2)
        x = jax.lax.conv_general_dilated(
            x, kernel.reshape(size, size, channels, -1), (stride, stride), [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = jnp.maximum(x + dense["bias"], 0)
    assert x.shape == (1, 4, 4, 8)
    plain = mlp(x.size, (7,), 3, "tanh")
    expected = plain.apply({"params": p["MLP_0"]}, x.reshape(-1))
    np.testing.assert_allclose(jax.jit(net.apply)(params, image), expected, rtol=1e-3, atol=1e-4)


def test_small_and_flat_images_are_scaled_too():
    space = Box((6, 5, 2), 0, 255, jnp.uint8)
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 2), np.uint8)
    net = network(space, (7,), 3, "tanh")
    params = net.init(jax.random.key(0))
    np.testing.assert_allclose(net.apply(params, image), by_hand(params, image / 255.0), rtol=1e-4, atol=1e-5)
    flat, plain = network(space, (5,), 2, channels=0), mlp(60, (5,), 2)
    params = flat.init(jax.random.key(0))
    np.testing.assert_allclose(
        flat.apply(params, image), plain.apply(params, image.reshape(-1) / 255.0), rtol=1e-4, atol=1e-5
    )
