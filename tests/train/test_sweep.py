"""Slots that start the next seed give the results of one seed at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.train.sweep import advance_seeds, over_seeds, over_seeds_until


def init(key):
    return key, jnp.int32(0), jnp.zeros(())


def chunk(state):
    key, steps, total = state
    key, key_step = jax.random.split(key)
    return key, steps + 1, total + jax.random.uniform(key_step)


def done(state):
    return state[2] > 5.0


def alone(key):
    state = init(key)
    while not done(state):
        state = chunk(state)
    return int(state[1]), float(state[2])


@pytest.mark.parametrize("slots", [1, 3, 7, 20])
def test_every_seed_ends_as_it_does_alone(slots):
    keys = jax.vmap(jax.random.key)(jnp.arange(7))
    steps, totals = jax.jit(over_seeds_until(init, chunk, done, lambda state: state[1:], slots))(keys)
    expected = [alone(key) for key in keys]
    np.testing.assert_array_equal(steps, [each[0] for each in expected])
    np.testing.assert_allclose(totals, [each[1] for each in expected], rtol=1e-6)
    assert len(set(steps.tolist())) > 1, "runs of unequal length"


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        over_seeds_until(init, chunk, done, lambda state: state, 0)
    with pytest.raises(ValueError, match="devices must be at least 1 and at most 1, got 2"):
        over_seeds_until(init, chunk, done, lambda state: state, 1, devices=2)


@pytest.mark.parametrize(("count", "wave"), [(8, 4), (7, 3), (3, 4), (2, 1)])
def test_waves_equal_one_vmap_also_with_an_empty_leaf(count, wave):
    seeds = {"x": jnp.arange(count * 2.0).reshape(count, 2), "nothing": jnp.zeros((count, 0))}
    one = lambda seed: {"sum": seed["x"].sum(), "nothing": seed["nothing"]}  # noqa: E731
    got = jax.jit(over_seeds(one, wave))(seeds)
    np.testing.assert_array_equal(got["sum"], [4 * i + 1 for i in range(count)])
    assert got["nothing"].shape == (count, 0)


def walked(seed, any_going, steps):
    """A seed advanced by some random numbers, where any of its wave is to go on."""
    key, draw = jax.random.split(seed["key"])
    new = {"key": key, "total": seed["total"] + steps * jax.random.uniform(draw, (3,)), **rest_of(seed)}
    return new, {"sum": jnp.sum(new["total"]), "any": any_going}


def rest_of(seed):
    return {"going": seed["going"], "nothing": seed["nothing"]}


@pytest.mark.parametrize(
    ("count", "wave", "groups"), [(6, 1, 1), (6, 2, 1), (5, 2, 1), (3, 4, 1), (1, 1, 1), (6, 2, 3)]
)
def test_advanced_seeds_are_those_of_one_function_after_the_other(count, wave, groups):
    seeds = {
        "key": jax.vmap(jax.random.key)(jnp.arange(count)),
        "total": jnp.arange(3.0 * count).reshape(count, 3),
        "going": jnp.arange(count) % 3 == 0,
        "nothing": jnp.zeros((count, 0 if groups == 1 else 1)),  # groups of empty leaves cannot be split
    }
    how = {"groups": groups, "common": lambda seeds: jnp.any(seeds["going"])}
    expected_state, expected = jax.jit(over_seeds(walked, wave, **how))(seeds, 2.0)
    state, result = jax.jit(advance_seeds(walked, wave, **how))(seeds, 2.0)
    for name in ("total", "going", "nothing"):
        np.testing.assert_array_equal(state[name], expected_state[name])
    np.testing.assert_array_equal(jax.random.key_data(state["key"]), jax.random.key_data(expected_state["key"]))
    assert result["sum"].shape == (count,)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    assert not np.array_equal(state["total"], seeds["total"])


def test_advance_refuses_what_over_seeds_refuses():
    with pytest.raises(ValueError, match="wave must be at least 1, got 0"):
        advance_seeds(walked, 0)
    with pytest.raises(ValueError, match="groups must be a multiple of the 2 devices, got 3"):
        advance_seeds(walked, 1, 2, 3)
