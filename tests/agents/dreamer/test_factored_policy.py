"""Policies over vectors of discrete actions: every entry is the policy over its own choices, and terms are sums."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents.dreamer import actor_critic_v1_v2, actor_critic_v3
from mbrl_jax.agents.dreamer.v1 import exploration_action
from mbrl_jax.agents.world_models.controller import control
from mbrl_jax.core import Discrete, MultiDiscrete
from mbrl_jax.models.rssm.rssm import action_code, code_size

SPACE = MultiDiscrete((3, 2))
OUT = jnp.array([0.3, -1.0, 0.8, 0.1, 0.6])


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_dreamer_v3s_policy():
    policy = actor_critic_v3.make_policy(SPACE, 0.1)
    chances = [0.9 * softmax(np.asarray(x, float)) + 0.1 / n for x, n in ((OUT[:3], 3), (OUT[3:], 2))]
    pairs = list(itertools.product(range(3), range(2)))
    expected = [np.log(chances[0][i]) + np.log(chances[1][j]) for i, j in pairs]
    log_probs = jax.jit(jax.vmap(lambda pair: policy.log_prob(OUT, pair)))(jnp.array(pairs))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5)
    assert float(policy.entropy(OUT)) == pytest.approx(-sum((p * np.log(p)).sum() for p in chances), rel=1e-5)
    assert policy.mode(OUT).tolist() == policy.to_env(policy.mode(OUT)).tolist() == [2, 1]
    drawn = jax.jit(jax.vmap(lambda key: policy.sample(key, OUT)))(jax.random.split(jax.random.key(0), 3000))
    assert (drawn.dtype, policy.outputs) == (jnp.int32, 5)
    for i, p in enumerate(chances):
        np.testing.assert_allclose(np.bincount(drawn[:, i]) / 3000, p, atol=0.03)


def test_the_first_dreamers_policy_is_relaxed_entry_by_entry():
    policy = actor_critic_v1_v2.make_policy(SPACE, lambda size: pytest.fail("continuous"))
    chances = [softmax(np.asarray(x, float)) for x in (OUT[:3], OUT[3:])]
    action = policy.sample(jax.random.key(3), OUT)
    i, j = policy.to_env(action).tolist()
    np.testing.assert_allclose(action, SPACE.one_hot(jnp.array([i, j])), atol=1e-6)
    assert float(policy.log_prob(OUT, action)) == pytest.approx(np.log(chances[0][i]) + np.log(chances[1][j]), rel=1e-4)
    assert float(policy.entropy(OUT)) == pytest.approx(-sum((p * np.log(p)).sum() for p in chances), rel=1e-5)
    weights = jnp.arange(1.0, 6.0)
    slope = jax.grad(lambda out: jnp.sum(weights * policy.sample(jax.random.key(3), out)))(OUT)
    p, q = chances
    expected = np.concatenate(
        [p * (np.arange(1, 4) - p @ np.arange(1, 4)), q * (np.arange(4, 6) - q @ np.arange(4, 6))]
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-4)  # straight through: that of the probabilities
    assert policy.to_env(policy.mode(OUT)).tolist() == [2, 1]


def test_a_single_entry_is_the_policy_over_its_choices():
    one, several = (actor_critic_v3.make_policy(space, 0.01) for space in (Discrete(3), MultiDiscrete((3,))))
    assert float(several.log_prob(OUT[:3], jnp.array([1]))) == pytest.approx(float(one.log_prob(OUT[:3], jnp.int32(1))))
    assert float(several.entropy(OUT[:3])) == pytest.approx(float(one.entropy(OUT[:3])))


def test_codes_controllers_and_exploration():
    assert code_size(SPACE) == 5
    np.testing.assert_array_equal(action_code(SPACE, jnp.array([1, 0])), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(action_code(SPACE, OUT), OUT)
    controller = jnp.concatenate([jnp.zeros((5, 2)), OUT[:, None]], axis=1).reshape(-1)
    assert control(SPACE, controller, jnp.ones(2)).tolist() == [2, 1]
    at = lambda key: exploration_action(key, jnp.array([2, 1]), space=SPACE, noise=0.5)  # noqa: E731
    drawn = np.asarray(jax.vmap(at)(jax.random.split(jax.random.key(0), 2000)))
    assert np.mean((drawn == [2, 1]).all(-1)) == pytest.approx(0.5 + 0.5 / 6, abs=0.04)
    assert set(map(tuple, drawn.tolist())) == set(itertools.product(range(3), range(2)))
