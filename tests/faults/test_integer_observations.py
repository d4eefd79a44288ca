"""Observations of any dtype in models over observations: unsigned integers and bools are numbers like any other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import mbpo, pets
from mbrl_jax.buffers.prioritized import Feedback, prioritized
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Box, Spec, Transition
from mbrl_jax.core.config import replace
from mbrl_jax.models.dynamics import common, inverse
from mbrl_jax.ops.normalize import denormalize, fit_normalizer, normalize

DTYPES = [jnp.uint8, jnp.int32, jnp.bool_, jnp.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_targets_and_inputs_are_differences_of_numbers(dtype):
    before, after = jnp.array([1, 0, 1]).astype(dtype), jnp.array([0, 1, 1]).astype(dtype)
    row = Transition(before, jnp.zeros(1), jnp.int32(2), jnp.ones(()), after, jnp.zeros((), bool))
    got = common.target(row)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, [-1, 1, 0, 2])
    np.testing.assert_array_equal(inverse.features(before, after), [1, 0, 1, -1, 1, 0])
    scales = common.identity_scales(Spec(Box((3,)), Box((1,))))
    obs, reward = common.decode_target(scales, before, got)
    np.testing.assert_array_equal(obs, after.astype(jnp.float32))
    assert obs.dtype == jnp.float32
    assert float(reward) == 2.0


def test_unsigned_differences_do_not_wrap_around():
    row = Transition(jnp.array([5], jnp.uint8), jnp.zeros(1), jnp.zeros(()), jnp.ones(()), jnp.array([2], jnp.uint8), 0)
    np.testing.assert_array_equal(common.target(row), [-3, 0])


FIT = {"model.hidden": (8,), "fit.members": 2, "fit.elites": 2, "fit.batch": 16, "fit.max_epochs": 2}
AGENTS = {
    "mbpo": lambda spec: mbpo.make(
        replace(mbpo.MBPOConfig(), FIT | {"policy.hidden": (8,), "policy.batch": 8, "rollouts": 8}), spec
    ),
    "pets": lambda spec: pets.make(
        replace(
            pets.PETSConfig(),
            FIT | {"planner.kind": "cem", "planner.cem.horizon": 2, "planner.cem.population": 6,
                   "planner.cem.elites": 2, "planner.cem.particles": 2, "planner.cem.iterations": 1},
        ),
        spec,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param("mbpo", marks=pytest.mark.slow), "pets"])
def test_an_agent_with_a_model_learns_and_acts_on_integers(name):
    """As on the same numbers in float32, to rounding."""
    results = []
    for dtype in (jnp.uint8, jnp.float32):
        spec = Spec(Box((2,), 0, 9, dtype), Box((1,), -1.0, 1.0), 10)
        agent = AGENTS[name](spec)
        obs = jax.random.randint(jax.random.key(0), (2, 24, 2), 0, 10).astype(dtype)
        action = jax.random.uniform(jax.random.key(1), (24, 1), minval=-1.0)
        rows = Transition(obs[0], action, action[:, 0], jnp.ones(24), obs[1], jnp.zeros(24, bool))
        buffer = uniform(24)
        data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], rows)), jax.tree.map(lambda x: x[:, None], rows))

        @jax.jit
        def learn(data, agent=agent, buffer=buffer, spec=spec):
            keys = jax.random.split(jax.random.key(2), 4)
            learner, _ = agent.refresh(keys[1], agent.init(keys[0]), buffer.replay(data))
            learner, _, _ = agent.update(keys[2], learner, buffer.replay(data))
            return learner, agent.act(keys[3], learner, agent.carry(), data.rows.obs[0], True)[0]

        results.append(jax.tree.leaves(learn(data)))
    for integer, real in zip(*results, strict=True):
        np.testing.assert_allclose(integer, real, rtol=1e-3, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in results[0])


# Normalisers and buffers given what is no number, or too large a one ------------------------------------------------


def test_large_entries_have_a_finite_deviation():
    rows = jnp.array([[0.0, -1e37, 1e30, 1.0], [3e19, 1e37, 1e30, 2.0]])
    scale = fit_normalizer(rows, jnp.ones(2, bool))
    np.testing.assert_allclose(scale.mean, [1.5e19, 0.0, 1e30, 1.5], rtol=1e-6)
    np.testing.assert_allclose(scale.std, [1.5e19, 1e37, 1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(normalize(scale, rows[1]), [1.0, 1.0, 0.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(denormalize(scale, jnp.ones(4))[::3], [3e19, 2.0], rtol=1e-6)


def test_entries_that_are_no_number_do_not_count_in_a_normaliser():
    rows = jnp.array([[1.0, jnp.nan], [jnp.nan, jnp.nan], [3.0, jnp.inf], [jnp.inf, -jnp.inf]])
    scale = fit_normalizer(rows, jnp.ones(4, bool))
    np.testing.assert_array_equal(scale.mean, [2.0, 0.0])
    np.testing.assert_array_equal(scale.std, [1.0, 1.0])
    integers = fit_normalizer(jnp.array([[0], [4]], jnp.uint8), jnp.ones(2, bool))
    np.testing.assert_array_equal([integers.mean[0], integers.std[0]], [2.0, 2.0])


def flat_rows(count):
    x = jnp.arange(count, dtype=jnp.float32)
    return Transition(x[:, None], x, x, jnp.ones(count), x[:, None], jnp.zeros(count, bool))


def test_a_buffer_keeps_what_it_was_given_and_a_nan_row_stays_by_itself():
    rows = flat_rows(6)
    rows = rows._replace(reward=rows.reward.at[2].set(jnp.nan), obs=rows.obs.at[4].set(jnp.inf))
    buffer = uniform(6)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], rows)), jax.tree.map(lambda x: x[:, None], rows))
    for got, given in zip(jax.tree.leaves(data.rows), jax.tree.leaves(rows), strict=True):
        np.testing.assert_array_equal(got, given)


def test_a_priority_that_is_no_number_leaves_the_window_the_one_it_had():
    buffer = prioritized(8, 1, 1, 1.0, 1.0)
    rows = flat_rows(4)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], rows)), jax.tree.map(lambda x: x[:, None], rows))
    given = jnp.array([jnp.nan, jnp.inf, 3e38, 0.5])
    after = buffer.revise(data, Feedback(jnp.arange(4), given))
    np.testing.assert_allclose(after.mass.reshape(-1)[:4], [1.0, 1.0, 1e30, 0.5])
    assert jnp.isfinite(after.peak)
    batch = buffer.sample(jax.random.key(0), after, 16)
    assert jnp.isfinite(batch.weight).all()
    assert (batch.index < 4).all()
