"""Rows that are there from the start: alone, or before what is collected."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.buffers.fixed import fixed, preloaded
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Transition


def rows(count, start=0):
    x = jnp.arange(start, start + count, dtype=jnp.float32)
    return Transition(x[:, None], x[:, None], x, jnp.ones(count), x[:, None] + 1, x < 0)


def item():
    return jax.tree.map(lambda leaf: leaf[0], rows(1))


def test_a_fixed_buffer_keeps_its_rows_and_takes_no_others():
    buffer = fixed(rows(50))
    data = buffer.add(buffer.init(item()), rows(3, 100))
    assert jax.tree.leaves(data) == []  # nothing for a checkpoint to hold
    replay = buffer.replay(data)
    assert (int(replay.size), replay.capacity) == (50, 50)
    drawn = np.asarray(replay.sample(jax.random.key(0), 5_000).reward)
    counts = np.bincount(drawn.astype(int), minlength=50)
    assert counts.shape == (50,)
    assert counts.min() > 50  # 100 expected of each, with a deviation of 10
    np.testing.assert_array_equal(replay.take(jnp.array([3, 1])).reward, [3, 1])
    with pytest.raises(ValueError, match="at least 1"):
        fixed(rows(0))


def test_a_preloaded_buffer_begins_with_its_rows_in_their_order():
    buffer = preloaded(uniform(6), rows(4))
    data = buffer.init(item())
    np.testing.assert_array_equal(data.rows.reward[:4], [0, 1, 2, 3])
    assert (int(data.size), int(data.head)) == (4, 4)
    added = jax.tree.map(lambda x: x[:, None], rows(3, 10))
    np.testing.assert_array_equal(buffer.add(data, added).rows.reward, [12, 1, 2, 3, 10, 11])  # the oldest goes
