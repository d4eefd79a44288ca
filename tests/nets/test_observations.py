"""Encoders and decoders against NumPy; their losses by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, DictSpace, Discrete
from mbrl_jax.nets.images import Up
from mbrl_jax.nets.observations import CoderConfig, decoder, encoder, kind, stages

RNG = np.random.default_rng(0)
SMALL = CoderConfig(units=6, layers=2, depth=1)
VECTOR, PLANES, IMAGE = Box((3,)), Box((5, 4, 2), 0, 1, jnp.bool_), Box((48, 64, 3), 0, 255, jnp.uint8)
H, Z = RNG.normal(size=(2, 16)).astype(np.float32)
Z = Z[:5]


def drawn(init):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape) + 0.1, jnp.float32), shapes)


def plain(params):
    return jax.tree.map(lambda p: np.asarray(p, np.float64), params["params"])


def normed(x, p):
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * p["scale"]
    return x / (1 + np.exp(-x))


def mlp(p, x, count, out=False):
    for i in range(count):
        x = normed(x @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"], p[f"RMSNorm_{i}"])
    return x @ p[f"Dense_{count}"]["kernel"] + p[f"Dense_{count}"]["bias"] if out else x


def conv(x, p, size=5):
    """Zeros around the edge; every offset of the window times its matrix."""
    edge = size // 2
    wide = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
    rows, columns = x.shape[:2]
    out = sum(wide[i : i + rows, j : j + columns] @ p["kernel"][i, j] for i in range(size) for j in range(size))
    return out + p["bias"]


def symlog(x):
    return np.sign(x) * np.log1p(np.abs(x))


def test_vectors():
    obs = np.array([0.5, -30.0, 1000.0], np.float32)
    made = encoder(VECTOR, SMALL)
    params = drawn(made.net.init)
    np.testing.assert_allclose(
        jax.jit(made.net.apply)(params, obs), mlp(plain(params), symlog(obs), 2), rtol=1e-4, atol=1e-5
    )
    assert made.size == 6
    back = decoder(VECTOR, 16, 5, SMALL)
    params = drawn(back.net.init)
    out = jax.jit(back.net.apply)(params, H, Z)
    expected = mlp(plain(params)["inner"], np.concatenate([H, Z]), 2, out=True)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert float(back.loss(out, obs)) == pytest.approx(((expected - symlog(obs)) ** 2).sum(), rel=1e-4)
    np.testing.assert_allclose(back.mode(jnp.asarray(symlog(obs))), obs, rtol=1e-4)


def test_vectors_as_they_are():
    cfg = CoderConfig(units=6, layers=2, squash=False, activation="elu", norm="none")
    obs, made = jnp.array([0.5, -30.0, 9.0]), encoder(VECTOR, cfg)
    params, x = drawn(made.net.init), np.asarray(obs, np.float64)
    for i in range(2):
        x = x @ plain(params)[f"Dense_{i}"]["kernel"] + plain(params)[f"Dense_{i}"]["bias"]
        x = np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)
    np.testing.assert_allclose(made.net.apply(params, obs), x, rtol=1e-4)
    back = decoder(VECTOR, 16, 5, cfg)
    assert float(back.loss(jnp.zeros(3), obs)) == pytest.approx(0.25 + 900 + 81)
    np.testing.assert_array_equal(back.mode(obs), obs)


def test_planes():
    obs = RNG.random((5, 4, 2)) < 0.4
    made = encoder(PLANES, SMALL)
    params = drawn(made.net.init)
    p = plain(params)
    first = {"kernel": p["Dense_0"]["kernel"].reshape(3, 3, 2, 4), "bias": p["Dense_0"]["bias"]}
    x = normed(conv(obs.astype(float), first, 3)[1:-1, 1:-1], p["RMSNorm_0"])
    expected = mlp(p["Layers_0"], x.reshape(-1), 1)
    np.testing.assert_allclose(jax.jit(made.net.apply)(params, obs), expected, rtol=1e-4, atol=1e-5)
    back = decoder(PLANES, 16, 5, SMALL)
    out = np.asarray(RNG.normal(size=40), np.float32)
    chance = 1 / (1 + np.exp(-out.astype(np.float64)))
    likelihood = np.where(obs.reshape(-1), chance, 1 - chance)
    assert float(back.loss(out, obs)) == pytest.approx(-np.log(likelihood).sum(), rel=1e-5)
    np.testing.assert_allclose(back.mode(jnp.asarray(out)), chance.reshape(5, 4, 2), rtol=1e-5)
    assert jax.eval_shape(back.net.apply, drawn(back.net.init), H, Z).shape == (40,)
    flat = encoder(PLANES, CoderConfig(units=6, layers=2, depth=0))
    params = drawn(flat.net.init)
    expected = mlp(plain(params), obs.reshape(-1).astype(float), 2)
    np.testing.assert_allclose(flat.net.apply(params, obs), expected, rtol=1e-4, atol=1e-5)


def test_images_with_pooling():
    cfg, obs = CoderConfig(units=6, layers=2, depth=2, images="pool"), RNG.integers(0, 256, IMAGE.shape, np.uint8)
    made = encoder(IMAGE, cfg)
    params = drawn(made.net.init)
    p, x = plain(params), obs / 255 - 0.5
    for i in range(4):
        x = conv(x, p[f"Conv_{i}"])
        x = np.max([x[i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        x = normed(x, p[f"RMSNorm_{i}"])
    token = jax.jit(made.net.apply)(params, obs)
    assert token.shape == (made.size,) == (3 * 4 * 8,)
    np.testing.assert_allclose(token, x.reshape(-1), rtol=1e-3, atol=1e-4)

    back = decoder(IMAGE, 16, 5, cfg)
    params = drawn(back.net.init)
    p, places = plain(params), np.zeros((3, 4, 8))
    for g in range(8):  # a block of the memory has one channel
        rows = H.reshape(8, 2)[g] @ p["blocks"][g] + p["blocks_bias"].reshape(8, 12)[g]
        places[:, :, g] = rows.reshape(3, 4)
    x = normed(places + mlp(p["Layers_0"], Z, 1, out=True).reshape(3, 4, 8), p["RMSNorm_0"])
    for i in range(4):
        x = conv(x.repeat(2, 0).repeat(2, 1), p[f"Conv_{i}"])
        x = normed(x, p[f"RMSNorm_{i + 1}"]) if i < 3 else x
    out = jax.jit(back.net.apply)(params, H, Z)
    np.testing.assert_allclose(out, x, rtol=2e-3, atol=1e-3)
    light = 1 / (1 + np.exp(-np.asarray(out, np.float64)))
    assert float(back.loss(out, obs)) == pytest.approx(((light - obs / 255) ** 2).sum(), rel=1e-4)
    np.testing.assert_allclose(back.mode(out), 255 * light, rtol=1e-4, atol=1e-3)


def strided(x, p, stride):
    """Windows 4 x 4 with zeros around, stride 2, as XLA convolves; the weights lie in blocks of 2 x 2."""
    kernel = p["Dense_0"]["kernel"].reshape(2, 2, 2, 2, x.shape[2], -1).swapaxes(1, 2).reshape(4, 4, x.shape[2], -1)
    names = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=names)
    return np.asarray(out[0], np.float64) + p["Dense_0"]["bias"]


@pytest.mark.parametrize(("shape", "last"), [((32, 32, 1), (4, 4)), ((48, 64, 3), (6, 8)), ((64, 64, 3), (4, 4))])
def test_images_with_a_stride(shape, last):
    space, cfg = Box(shape, 0, 255, jnp.uint8), CoderConfig(units=6, layers=2, depth=2)
    channels = stages(cfg, space)
    assert channels == [4, 8, 16, 16][: len(channels)]
    assert tuple(side // 2 ** len(channels) for side in shape[:2]) == last
    obs, made = RNG.integers(0, 256, shape, np.uint8), encoder(space, cfg)
    params = drawn(made.net.init)
    p, x = plain(params), obs / 255 - 0.5
    for i in range(len(channels)):
        x = normed(strided(x.astype(np.float32), p[f"Down_{i}"], 2), p[f"RMSNorm_{i}"])
    token = jax.jit(made.net.apply)(params, obs)
    assert token.shape == (made.size,) == (last[0] * last[1] * channels[-1],)
    np.testing.assert_allclose(token, x.reshape(-1), rtol=1e-3, atol=1e-4)
    back = decoder(space, 16, 5, cfg)
    assert jax.eval_shape(back.net.apply, drawn(back.net.init), H, Z).shape == shape


def test_a_decoder_with_a_stride():
    space, cfg = Box((32, 48, 3), 0, 255, jnp.uint8), CoderConfig(units=6, layers=2, depth=2)
    back = decoder(space, 16, 5, cfg)
    params = drawn(back.net.init)
    p, places = plain(params), np.zeros((4, 6, 16))
    for g in range(8):  # a block of the memory has two channels
        rows = H.reshape(8, 2)[g] @ p["blocks"][g] + p["blocks_bias"].reshape(8, 48)[g]
        places[:, :, 2 * g : 2 * g + 2] = rows.reshape(4, 6, 2)
    x = normed(places + mlp(p["Layers_0"], Z, 1, out=True).reshape(4, 6, 16), p["RMSNorm_0"])
    for i, channels in enumerate((8, 4, 3)):
        up = {"params": {"Dense_0": params["params"][f"Up_{i}"]["Dense_0"]}}
        x = np.asarray(Up(channels).apply(up, jnp.asarray(x, jnp.float32)), np.float64)  # against loops in test_images
        x = normed(x, p[f"RMSNorm_{i + 1}"]) if i < 2 else x
    np.testing.assert_allclose(jax.jit(back.net.apply)(params, H, Z), x, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kind(Discrete(3)), "must be a vector, or planes or an image"),
        (lambda: kind(Box((2, 9, 1))), "planes must be at least 3 x 3"),
        (lambda: kind(Box((50, 64, 3), 0, 255, jnp.uint8)), r"multiples of 16 from 32 to 256 \(wrappers.resize\)"),
        (lambda: encoder(IMAGE, SMALL), "depth must be even and at least 2 for images, got 1"),
        (lambda: decoder(IMAGE, 12, 5, CoderConfig()), "deter must be a multiple of 8 to decode images, got 12"),
        (lambda: encoder(VECTOR, CoderConfig(units=0)), "units must be at least 1"),
        (lambda: encoder(VECTOR, CoderConfig(norm="batch")), "norm must be one of rms"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_dict_of_arrays():
    spaces: dict = {"picture": Box((32, 32, 1), 0, 255, jnp.uint8), "flags": PLANES, "body": VECTOR}
    cfg, space = CoderConfig(units=6, layers=1, depth=2), DictSpace(spaces)
    obs = {
        "picture": RNG.integers(0, 256, (32, 32, 1), np.uint8), "flags": RNG.random((5, 4, 2)) < 0.5,
        "body": np.array([0.5, -3.0, 2.0], np.float32),
    }  # fmt: skip
    made = encoder(space, cfg)
    params = jax.jit(made.net.init)(jax.random.key(0))
    alone = {name: encoder(leaf, cfg) for name, leaf in spaces.items()}
    expected = [jax.jit(alone[name].net.apply)(params[name], obs[name]) for name in ("body", "flags", "picture")]
    np.testing.assert_allclose(jax.jit(made.net.apply)(params, obs), np.concatenate(expected), rtol=1e-5, atol=1e-6)
    assert made.size == sum(part.size for part in alone.values())

    back = decoder(space, 16, 5, cfg)
    out = jax.jit(lambda key: back.net.apply(back.net.init(key), H, Z))(jax.random.key(0))
    alone = {name: decoder(leaf, 16, 5, cfg) for name, leaf in spaces.items()}
    losses = {name: float(alone[name].loss(out[name], obs[name])) for name in spaces}
    assert float(back.loss(out, obs)) == pytest.approx(sum(losses.values()), rel=1e-5)
    halved = 0.5 * losses["picture"] + losses["flags"] + 0.5 * losses["body"]
    assert float(decoder(space, 16, 5, cfg, half=True).loss(out, obs)) == pytest.approx(halved, rel=1e-5)
    for name, mode in back.mode(out).items():
        np.testing.assert_array_equal(mode, alone[name].mode(out[name]))
        assert mode.shape == spaces[name].shape
