"""The last trajectory, whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.buffers.latest import latest
from mbrl_jax.core import Transition


def trajectory(start: float) -> Transition:
    x = start + jnp.arange(6.0).reshape(3, 2)
    return Transition(x, x, x, x, x, x > 0)


def test_holds_the_last_trajectory_alone():
    buffer = latest(3, 2)
    data = buffer.init(jax.tree.map(lambda leaf: leaf[0, 0], trajectory(0)))
    for start in (0.0, 10.0):
        data = buffer.add(data, trajectory(start))
    replay = buffer.replay(data)
    np.testing.assert_array_equal(replay.sample().reward, [[10, 11], [12, 13], [14, 15]])
    np.testing.assert_array_equal(replay.take(jnp.array([5, 0])).obs, [15, 10])
    assert replay.capacity == 6


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="at least 1"):
        latest(0, 1)
    buffer = latest(2, 2)
    data = buffer.init(jax.tree.map(lambda leaf: leaf[0, 0], trajectory(0)))
    with pytest.raises(ValueError, match=r"must be \(2, 2\)"):
        buffer.add(data, trajectory(0))
