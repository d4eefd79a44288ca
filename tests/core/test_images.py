"""Images: grey, resized and stacked as loops in NumPy do it, for NumPy arrays and for JAX's; random shifts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, images

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 4, 3), np.uint8)


def both(function, image):
    """The result for a NumPy array, which must be one, and must be that for a JAX array, jitted or not."""
    out = function(image)
    assert type(out) is np.ndarray
    for result in (function(jnp.asarray(image)), jax.jit(function)(jnp.asarray(image))):
        assert result.dtype == out.dtype
        np.testing.assert_allclose(result, out, atol=1 if out.dtype == np.uint8 else 1e-5)  # a tie may round either way
    return out


def test_grey():
    out = both(images.grey, PICTURE)
    assert (out.shape, out.dtype) == ((6, 4, 1), np.uint8)
    for i in range(6):
        for j in range(4):
            red, green, blue = (int(value) for value in PICTURE[i, j])
            assert abs(int(out[i, j, 0]) - (0.299 * red + 0.587 * green + 0.114 * blue)) <= 0.501
    np.testing.assert_array_equal(images.grey(np.full((2, 2, 3), 255, np.uint8)), np.full((2, 2, 1), 255))
    assert images.grey(out) is out
    with pytest.raises(ValueError, match=r"must be \[height, width, 3\] or .*, got \[2, 2, 4\]"):
        images.grey(np.zeros((2, 2, 4)))


def covered(image, height, width):
    """The mean of the area under every new pixel, pixel by pixel."""
    rows, columns = image.shape[0] / height, image.shape[1] / width
    out = np.zeros((height, width, image.shape[2]))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for y in range(image.shape[0]):
                for x in range(image.shape[1]):
                    high = min((i + 1) * rows, y + 1) - max(i * rows, y)
                    wide = min((j + 1) * columns, x + 1) - max(j * columns, x)
                    total = total + max(high, 0.0) * max(wide, 0.0) * image[y, x].astype(float)
            out[i, j] = total / (rows * columns)
    return out


@pytest.mark.parametrize(("height", "width"), [(3, 2), (4, 3), (6, 4), (9, 8), (1, 1)])
def test_resize(height, width):
    out = both(lambda image: images.resize(image, height, width), PICTURE)
    assert np.abs(out - covered(PICTURE, height, width)).max() <= 0.501
    floats = RNG.normal(size=(6, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(images.resize(floats, height, width), covered(floats, height, width), atol=1e-5)


def test_resize_refuses():
    with pytest.raises(ValueError, match="height and width must be at least 1, got 0 and 2"):
        images.resize(PICTURE, 0, 2)
    with pytest.raises(ValueError, match=r"must be \[height, width, channels\], got \[6, 4\]"):
        images.resize(PICTURE[..., 0], 2, 2)


def test_stack():
    frames = RNG.integers(0, 256, (3, 5, 4, 2), np.uint8)
    out = both(images.stack, frames)
    assert out.shape == (5, 4, 6)
    for i in range(3):
        np.testing.assert_array_equal(out[..., 2 * i : 2 * i + 2], frames[i])


@pytest.mark.parametrize("pad", [1, 3])
def test_a_random_shift_is_a_window_of_the_padded_image(pad):
    wide = np.pad(PICTURE, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    allowed = {
        wide[i : i + 6, j : j + 4].tobytes(): (i, j) for i in range(2 * pad + 1) for j in range(2 * pad + 1)
    }  # fmt: skip
    shift = jax.jit(jax.vmap(lambda key: images.random_shift(key, jnp.asarray(PICTURE), pad)))
    out = np.asarray(shift(jax.random.split(jax.random.key(0), 400)))
    assert out.dtype == np.uint8
    counts = dict.fromkeys(allowed.values(), 0)
    for image in out:
        counts[allowed[image.tobytes()]] += 1  # a KeyError is no window
    expected = 400 / len(counts)
    assert min(counts.values()) > 0 or expected < 10
    assert max(counts.values()) < expected + 5 * expected**0.5
    np.testing.assert_array_equal(images.random_shift(jax.random.key(0), jnp.asarray(PICTURE), 0), PICTURE)


def test_what_counts_as_an_image():
    assert images.is_image(Box((4, 4, 3), 0, 255, jnp.uint8))
    assert not images.is_image(Box((4, 4, 3)))
    assert not images.is_image(Box((4,), 0, 255, jnp.uint8))
