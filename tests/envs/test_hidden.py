"""Partial observations: the entries that remain, and that nothing else changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, Env, Spec
from mbrl_jax.envs.hidden import hide, select

KEY = jax.random.key(0)


def ramp(space=Box((4,), np.array([-1.0, -2.0, -3.0, -4.0]), 9.0)) -> Env:
    """Observes its state times 1, 2, 3 and 4."""

    def view(state):
        return state * jnp.arange(1.0, 5.0)

    def step(key, state, action):
        return state + 1, view(state + 1), 10.0 * state, jnp.ones(()), state > 3

    return Env(Spec(space, Discrete(2), 7, False, "ramp"), lambda key: (jnp.ones(()), view(1.0)), step, view)


def test_selected_entries_come_in_the_order_given():
    env = select(ramp(), (2, 0))
    space = env.spec.obs
    assert isinstance(space, Box)
    np.testing.assert_array_equal(space.low, [-3.0, -1.0])
    assert (space.shape, space.high, space.dtype) == ((2,), 9.0, jnp.float32)
    assert env.spec[1:] == (Discrete(2), 7, False, "ramp-hidden")
    state, obs = env.reset(KEY)
    np.testing.assert_array_equal(obs, [3.0, 1.0])
    state, obs, reward, discount, last = env.step(KEY, state, jnp.int32(0))
    np.testing.assert_array_equal(obs, [6.0, 2.0])
    assert (float(reward), float(discount), bool(last)) == (10.0, 1.0, False)
    assert env.observe is not None
    np.testing.assert_array_equal(env.observe(state), obs)


def test_hiding_leaves_the_others_in_order():
    env = hide(ramp(), (1,), "part")
    assert env.spec.name == "part"
    np.testing.assert_array_equal(env.reset(KEY)[1], [1.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: select(ramp(), ()), r"entries must be different numbers from 0 to 3, got \(\)"),
        (lambda: select(ramp(), (1, 1)), r"entries must be different numbers from 0 to 3, got \(1, 1\)"),
        (lambda: select(ramp(), (4,)), r"entries must be different numbers from 0 to 3, got \(4,\)"),
        (lambda: hide(ramp(), (-1,)), r"entries must be numbers from 0 to 3, got \(-1,\)"),
        (lambda: hide(ramp(), (0, 1, 2, 3)), "entries must be different numbers"),
        (lambda: select(ramp(Box((2, 2))), (0,)), "select needs vectors as observations, ramp has"),
    ],
)
def test_invalid_entries_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change()
