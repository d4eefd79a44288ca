"""Tree helpers by hand-made values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree


def test_where_broadcasts_the_mask_over_trailing_axes():
    a, b = {"x": jnp.ones((2, 3)), "y": jnp.ones(2)}, {"x": jnp.zeros((2, 3)), "y": jnp.zeros(2)}
    out = tree.where(jnp.array([True, False]), a, b)
    np.testing.assert_array_equal(out["x"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(out["y"], [1, 0])


def test_where_picks_keys():
    keys = jax.random.split(jax.random.key(0))
    picked = tree.where(jnp.array(False), keys[0], keys[1])
    assert jnp.array_equal(jax.random.key_data(picked), jax.random.key_data(keys[1]))


def test_stack_take_tile_flatten():
    x = {"x": jnp.arange(3)}
    np.testing.assert_array_equal(tree.stack([x, x])["x"], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(tree.take(x, jnp.array([2, 0]))["x"], [2, 0])
    np.testing.assert_array_equal(tree.tile(x, 2)["x"], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(tree.flatten_dims({"x": jnp.arange(8).reshape(2, 2, 2)}, 2)["x"][3], [6, 7])


def test_counts():
    x = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4, jnp.int8)}
    assert tree.num_params(x) == 10
    assert tree.num_bytes(x) == 28


def test_strip_weak_types():
    assert jnp.asarray(1.0).weak_type
    assert not tree.strip_weak_types(jnp.asarray(1.0)).weak_type
