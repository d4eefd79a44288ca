"""A small version of imitation from observations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from demo_inverse import demonstrate, first_episodes  # pyright: ignore[reportMissingImports]

from mbrl_jax.core import Transition


@pytest.mark.slow
def test_the_imitator_balances_the_pole_with_actions_it_never_saw():
    out = jax.jit(lambda key: demonstrate(key, 2_000, 4, 8, 20, 500))(jax.random.key(0))
    assert out["expert"] > 450
    assert out["random"] < 40
    assert out["labels_right"] > 0.98
    assert out["imitator"] >= 400


def test_returns_are_those_of_first_episodes():
    last = jnp.array([[False, True], [True, False], [False, False]])
    row = jnp.zeros((3, 2))
    rows = Transition(row, row, jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]), row, row, last)
    returns, mask = first_episodes(rows)
    np.testing.assert_array_equal(returns, [3.0, 10.0])
    np.testing.assert_array_equal(mask, [[True, True], [True, False], [False, False]])
