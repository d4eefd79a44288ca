"""Disagreement of members: against NumPy, and what its unit is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import StepOut, Transition, WorldModel
from mbrl_jax.models.dynamics.disagreement import disagreement, uncertainty, usual, variance, with_bonus
from mbrl_jax.models.dynamics.ensemble import bind

LINEAR = WorldModel(  # o' = o + w a, r = w o
    init=lambda key: jax.random.normal(key),
    loss=lambda params, key, data: (params, {}),
    encode=lambda params, key, obs: obs,
    step=lambda params, key, obs, action: StepOut(obs + params * action, params * obs[0], jnp.ones(())),
    moments=lambda params, obs, action: (jnp.append(obs + params * action, params * obs[0]), jnp.ones(3)),
)
WEIGHTS = np.array([0.5, 1.0, 3.0], np.float32)


def test_disagreement_is_the_members_variance_beside_that_on_the_rows():
    rng = np.random.default_rng(0)
    rows, one = rng.normal(size=(50, 4, 3)), rng.normal(size=(4, 3))
    scale = np.mean([[np.var(row[:, d]) for d in range(3)] for row in rows], axis=0)
    np.testing.assert_allclose(usual(rows.astype(np.float32)), scale, rtol=1e-5)
    expected = sum(np.var(one[:, d]) / scale[d] for d in range(3)) / 3
    assert float(disagreement(one.astype(np.float32), scale.astype(np.float32))) == pytest.approx(expected, rel=1e-5)


def test_it_is_1_on_average_over_the_rows_in_any_units():
    means = jax.random.normal(jax.random.key(0), (100, 5, 2))
    for unit in (1.0, np.array([1e3, 1e-3], np.float32)):
        own = jax.vmap(disagreement, (0, None))(means * unit, usual(means * unit))
        assert float(own.mean()) == pytest.approx(1.0, rel=1e-4)


def test_an_entry_that_all_members_know_adds_nothing():
    means = jax.random.normal(jax.random.key(0), (20, 3, 2)).at[..., 1].set(7.0)
    assert float(disagreement(means[0], usual(means))) == pytest.approx(
        0.5 * float(np.var(means[0, :, 0]) / np.mean(np.var(means[..., 0], axis=1))), rel=1e-4
    )


def test_the_unit_of_a_bonus_is_the_variance_of_what_changes_over_the_rows_that_are_there():
    rng = np.random.default_rng(1)
    obs, new, action = rng.normal(3.0, [2.0, 0.1], (3, 40, 2)).astype(np.float32)
    reward = np.full(40, 2.0, np.float32)  # never varies
    rows = Transition(*map(jnp.asarray, (obs, action, reward, np.ones(40, np.float32), new, np.zeros(40, bool))))
    buffer = uniform(64)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], rows)), jax.tree.map(lambda x: x[:, None], rows))
    np.testing.assert_allclose(variance(buffer.replay(data)), [*np.var(new - obs, axis=0), 1.0], rtol=1e-4)


def test_a_bonus_is_the_weighted_disagreement_at_the_state_and_action_of_each_step():
    obs, action, unit = np.array([0.3, -0.7], np.float32), np.array([0.2, 1.5], np.float32), np.array([4.0, 0.25, 2.0])
    means = np.array([[*(obs + w * action), w * obs[0]] for w in WEIGHTS])
    expected = np.mean(means.var(axis=0) / unit)
    unsure = uncertainty(LINEAR, jnp.asarray(WEIGHTS), jnp.asarray(unit, jnp.float32))
    assert float(unsure(obs, action)) == pytest.approx(expected, rel=1e-5)
    model = with_bonus(bind(LINEAR, jnp.asarray(WEIGHTS), members=3, resample_member=True), unsure, 10.0)
    assert (model.members, model.resample_member) == (3, True)
    for i in range(3):
        out = model.at(i).step(jax.random.key(0), obs, action)
        assert float(out.reward) == pytest.approx(WEIGHTS[i] * obs[0] + 10 * expected, rel=1e-5)
        np.testing.assert_allclose(out.state, obs + WEIGHTS[i] * action, rtol=1e-6)
    whole = float(model.step(jax.random.key(1), obs, action).reward) - 10 * expected
    assert np.min(np.abs(whole - WEIGHTS * obs[0])) < 1e-4


def test_members_that_agree_leave_no_bonus():
    unsure = uncertainty(LINEAR, jnp.full(4, 0.7), jnp.ones(3))
    assert float(unsure(jnp.ones(2), jnp.ones(2))) == pytest.approx(0.0, abs=1e-12)
