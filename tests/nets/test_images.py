"""Convolutions as products over windows, against XLA's convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.nets import images

NAMES = ("NHWC", "HWIO", "NHWC")


def drawn(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def unblocked(kernel, size, stride, channels):
    """[size² channels, out] in blocks of stride x stride as a kernel [size, size, channels, out]."""
    if stride == 1 or size % stride:
        return kernel.reshape(size, size, channels, -1)
    blocks = size // stride
    return kernel.reshape(blocks, blocks, stride, stride, channels, -1).swapaxes(1, 2).reshape(size, size, channels, -1)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "pad"),
    [((6, 8, 3), 4, 2, 1), ((9, 7, 2), 3, 1, 1), ((9, 11, 2), 5, 2, 0), ((13, 9, 1), 8, 4, 2), ((8, 8, 2), 2, 2, 0)],
)
def test_conv(shape, size, stride, pad):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    module = images.Conv(5, size, stride, pad)
    params = drawn(module, x)
    kernel = unblocked(params["params"]["Dense_0"]["kernel"], size, stride, shape[2])
    expected = jax.lax.conv_general_dilated(
        x[None], kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=NAMES
    )[0]
    np.testing.assert_allclose(
        jax.jit(module.apply)(params, x), expected + params["params"]["Dense_0"]["bias"], rtol=1e-4, atol=1e-4
    )


def test_down_is_a_convolution_and_up_its_transpose():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, 4, 3)), jnp.float32)
    down = images.Down(5)
    params = drawn(down, x)
    kernel = unblocked(params["params"]["Dense_0"]["kernel"], 4, 2, 3)
    expected = jax.lax.conv_general_dilated(x[None], kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=NAMES)[0]
    np.testing.assert_allclose(
        down.apply(params, x), expected + params["params"]["Dense_0"]["bias"], rtol=1e-4, atol=1e-4
    )

    up = images.Up(2)
    params = drawn(up, x)
    kernel, bias = (np.asarray(params["params"]["Dense_0"][name]) for name in ("kernel", "bias"))
    kernel, bias = kernel.reshape(2, 2, 3, 2, 2, 2), bias.reshape(2, 2, 2)
    wide = np.zeros((16, 12, 2))  # the new pixels, with two rows around
    for i in range(-1, 6):
        for j in range(-1, 4):  # a corner has the pixels (i, j) to (i + 1, j + 1) around it
            corner = bias.copy()
            for a in (0, 1):
                for b in (0, 1):
                    if 0 <= i + a < 6 and 0 <= j + b < 4:
                        corner = corner + np.einsum("c,cyxo->yxo", np.asarray(x)[i + a, j + b], kernel[a, b])
            wide[2 * i + 3 : 2 * i + 5, 2 * j + 3 : 2 * j + 5] += corner
    np.testing.assert_allclose(jax.jit(up.apply)(params, x), wide[2:14, 2:10], rtol=1e-4, atol=1e-4)
    assert up.apply(params, x).shape == (12, 8, 2)


def test_depth_to_space_undoes_space_to_depth():
    x = jnp.arange(4 * 6 * 3).reshape(4, 6, 3)
    blocks = images.space_to_depth(x, 2)
    np.testing.assert_array_equal(blocks[1, 2], np.asarray(x[2:4, 4:6]).reshape(-1))
    np.testing.assert_array_equal(images.depth_to_space(blocks), x)
