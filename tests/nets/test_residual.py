"""Residual networks: the convolution against XLA's own, a block by its formula, sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.nets import residual


def convolved(params, x):
    """A 3 x 3 convolution with zeros around, by XLA."""
    kernel = params["Dense_0"]["kernel"].reshape(3, 3, x.shape[-1], -1)
    out = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out[0] + params["Dense_0"]["bias"]


def block(params, x):
    y = x
    for i in range(2):
        norm = params[f"LayerNorm_{i}"]
        y = (y - y.mean()) / jnp.sqrt(y.var() + 1e-6) * norm["scale"] + norm["bias"]
        y = convolved(params[f"Conv_{i}"], jnp.maximum(y, 0))
    return x + y


def shaken(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def test_an_encoder_is_a_convolution_and_blocks():
    net = residual.encoder((4, 5, 2), 3, 2)
    params, x = shaken(jax.jit(net.init)(jax.random.key(0))), jax.random.normal(jax.random.key(1), (4, 5, 2))
    p = params["params"]
    expected = jax.jit(lambda x: block(p["Block_1"], block(p["Block_0"], convolved(p["Conv_0"], x))))(x)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), expected, atol=1e-4)
    assert net.apply(params, (x > 0)).dtype == jnp.float32  # planes of bools


def test_a_transition_adds_what_the_action_changes():
    net = residual.transition((4, 5, 3), 6, 1)
    params, x = shaken(jax.jit(net.init)(jax.random.key(0))), jax.random.normal(jax.random.key(1), (4, 5, 3))
    p = params["params"]
    reference = jax.jit(
        lambda x, plane: block(p["Block_0"], x + convolved(p["Conv_0"], jnp.concatenate([x, plane], -1)))
    )
    for action in (0, 4):
        plane = (p["Dense_0"]["kernel"][action] + p["Dense_0"]["bias"]).reshape(4, 5, 1)
        got = jax.jit(net.apply)(params, x, jax.nn.one_hot(action, 6))
        np.testing.assert_allclose(got, reference(x, plane), atol=1e-4)


@pytest.mark.parametrize("make", [lambda: residual.encoder((3,), 2, 1), lambda: residual.transition((3, 3, 2), 0, 1)])
def test_what_are_no_planes_is_refused(make):
    with pytest.raises(ValueError, match=r"planes must be \[height, width, channels\] of at least 1"):
        make()


@pytest.mark.parametrize(("side", "latent"), [(32, 8), (24, 6), (20, 5), (96, 6), (64, 8)])
def test_an_image_is_made_smaller(side, latent):
    net, shape = residual.image_encoder((side, side, 3), 4, 1)
    assert shape == (latent, latent, 4)
    image = jax.ShapeDtypeStruct((side, side, 3), jnp.uint8)
    out = jax.eval_shape(lambda image: net.apply(net.init(jax.random.key(0)), image), image)
    assert (out.shape, out.dtype) == (shape, jnp.float32)


def test_an_image_encoder_is_convolutions_of_stride_2_blocks_and_means():
    net, _ = residual.image_encoder((40, 40, 3), 4, 1)
    params = shaken(jax.jit(net.init)(jax.random.key(0)))
    image = jax.random.randint(jax.random.key(1), (40, 40, 3), 0, 256).astype(jnp.uint8)
    p = params["params"]

    def halved(params, x):
        kernel = params["Dense_0"]["kernel"].reshape(3, 3, x.shape[-1], -1)
        names = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x[None], kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=names)[0]
            + params["Dense_0"]["bias"]
        )

    @jax.jit
    def expected(x):
        x = block(p["Block_0"], halved(p["Conv_0"], x / 255.0))
        x = block(p["Block_1"], halved(p["Conv_1"], x))
        x = sum(x[i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4  # 10 x 10 -> 5 x 5
        return block(p["Block_2"], x)

    np.testing.assert_allclose(
        jax.jit(net.apply)(params, image), expected(image.astype(jnp.float32)), rtol=1e-3, atol=1e-3
    )
