"""Frequencies of ε-greedy choices against what they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops.policies import epsilon_greedy, greedy

N = 20_000


@pytest.mark.parametrize(
    ("values", "epsilon", "expected"),
    [
        ([0.0, 3.0, 1.0, 2.0], 0.0, [0, 1, 0, 0]),
        ([0.0, 3.0, 1.0, 2.0], 0.2, [0.05, 0.85, 0.05, 0.05]),
        ([1.0, 0.0, 1.0, -5.0], 0.0, [0.5, 0, 0.5, 0]),  # ties at random
        ([1.0, 0.0, 1.0, -5.0], 0.4, [0.4, 0.1, 0.4, 0.1]),
        ([-2.0, -3.0, -9.0, -4.0], 1.0, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_epsilon_greedy_chooses_as_often_as_it_should(values, epsilon, expected):
    draw = jax.jit(jax.vmap(lambda key: epsilon_greedy(key, jnp.array(values), epsilon)))
    actions = np.asarray(draw(jax.random.split(jax.random.key(0), N)))
    assert actions.dtype == np.int32
    found = np.bincount(actions, minlength=4) / N
    expected = np.array(expected)
    np.testing.assert_array_less(np.abs(found - expected), 1e-9 + 4 * np.sqrt(expected * (1 - expected) / N))


def test_greedy_is_the_first_of_the_best():
    assert int(greedy(jnp.array([1.0, 4.0, 4.0]))) == 1
