"""The ring: what was added is what is kept, in order, whatever the block sizes."""

from __future__ import annotations

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_jax.buffers.uniform import append, empty, uniform
from mbrl_jax.core import Transition


def rows(start: int, count: int) -> Transition:
    """Transitions distinguished by their numbers."""
    x = jnp.arange(start, start + count, dtype=jnp.float32)
    return Transition(jnp.stack([x, -x], 1), jnp.arange(start, start + count), x, x, jnp.stack([x, x], 1), x > 1e9)


ITEM = jax.tree.map(lambda leaf: leaf[0], rows(0, 1))


def kept(ring) -> list[int]:
    return sorted(int(x) for x in ring.rows.reward[: int(ring.size)])


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.lists(st.integers(1, 3), min_size=1, max_size=12))
def test_keeps_exactly_the_newest_rows(capacity, blocks):
    ring, expected, start = empty(ITEM, capacity), deque(maxlen=capacity), 0
    for count in blocks:
        ring = append(ring, rows(start, count))
        expected.extend(range(start, start + count))
        start += count
        assert kept(ring) == sorted(expected)
    size = int(ring.size)
    np.testing.assert_array_equal(ring.rows.obs[:size, 1], -ring.rows.reward[:size])
    np.testing.assert_array_equal(ring.rows.action[:size], ring.rows.reward[:size])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_masked_rows_are_left_out_and_the_rest_written_side_by_side(masks):
    ring, expected = empty(ITEM, 7), deque(maxlen=7)
    for i, mask in enumerate(masks):
        ring = append(ring, rows(4 * i, 4), jnp.array(mask))
        expected.extend(4 * i + j for j in range(4) if mask[j])
        assert kept(ring) == sorted(expected)


def test_wrap_grows_in_use_and_overwrites_the_oldest_first():
    ring = empty(ITEM, 8)
    every = jnp.ones(2, bool)
    for start in (0, 2, 4):  # four rows in use: 4 and 5 lie over 0 and 1
        ring = append(ring, rows(start, 2), every, jnp.int32(4))
    assert kept(ring) == [2, 3, 4, 5]
    ring = append(ring, rows(6, 2), every, jnp.int32(8))  # room for eight: goes on at the head, over 2 and 3
    assert kept(ring) == [4, 5, 6, 7]
    ring = append(ring, rows(8, 2), every, jnp.int32(8))
    ring = append(ring, rows(10, 2), every, jnp.int32(8))
    assert kept(ring) == [4, 5, 6, 7, 8, 9, 10, 11]
    ring = append(ring, rows(12, 2), every, jnp.int32(8))
    assert kept(ring) == [6, 7, 8, 9, 10, 11, 12, 13]


def test_every_row_is_reached_and_none_beyond_the_size():
    buffer = uniform(50)
    data = buffer.add(buffer.init(ITEM), jax.tree.map(lambda x: x.reshape(5, 2, *x.shape[1:]), rows(1, 10)))
    batch = buffer.sample(jax.random.key(0), data, 2000)
    counts = np.bincount(np.asarray(batch.action), minlength=11)
    assert counts[0] == 0
    assert counts[1:].min() > 130  # 200 expected of each; five standard deviations below
    assert counts[1:].max() < 270


def test_trajectory_is_stored_in_time_order():
    buffer = uniform(6)
    data = buffer.add(buffer.init(ITEM), jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), rows(0, 6)))
    replay = buffer.replay(data)
    np.testing.assert_array_equal(replay.take(jnp.arange(6)).reward, np.arange(6))
    assert int(replay.size) == 6
    assert replay.capacity == 6


def test_donated_add_writes_in_place():
    buffer = uniform(1000)
    data = buffer.init(ITEM)
    add = jax.jit(buffer.add, donate_argnums=0)
    trajectory = jax.tree.map(lambda x: x[None], rows(0, 1))
    before = data.rows.obs.unsafe_buffer_pointer()
    assert add(data, trajectory).rows.obs.unsafe_buffer_pointer() == before


@pytest.mark.parametrize("capacity", [0, -3])
def test_refuses_a_capacity_below_one(capacity):
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        uniform(capacity)


def test_refuses_more_rows_than_fit():
    with pytest.raises(ValueError, match="capacity must be at least the 5 rows"):
        append(empty(ITEM, 4), rows(0, 5))
