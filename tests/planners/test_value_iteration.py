"""Exact planning: policy iteration against value iteration and all policies; greedy policies and ties."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.envs import maze as mazes
from mbrl_jax.envs import mdp as mdps
from mbrl_jax.planners.value_iteration import greedy, policy_iteration, value_iteration


def best_of_all(mdp, gamma):
    """The optimum over all deterministic policies, by NumPy's float64 solver."""
    p, r, terminal = (np.asarray(x) for x in (mdp.transitions, mdp.rewards, mdp.terminal))
    states, actions, _ = p.shape
    p = np.where(terminal, 0.0, p.astype(np.float64))
    everywhere, best = np.arange(states), np.full(states, -np.inf)
    for policy in itertools.product(range(actions), repeat=states):
        chain = np.where(terminal[:, None], 0.0, p[everywhere, policy])
        rewards = np.where(terminal, 0.0, r[everywhere, policy])
        best = np.maximum(best, np.linalg.solve(np.eye(states) - gamma * chain, rewards))
    return best


def test_both_find_the_best_of_all_policies():
    gamma = 0.95

    @jax.jit
    @jax.vmap
    def solve(key):
        mdp = mdps.random_mdp(key, 5, 3, branching=3, terminals=1)
        return mdp, value_iteration(mdp, gamma), policy_iteration(mdp, gamma)

    processes, (values, q), (policy_values, policy_q, policy) = solve(jax.random.split(jax.random.key(0), 6))
    for i in range(6):
        wanted = best_of_all(jax.tree.map(lambda x, i=i: x[i], processes), gamma)
        np.testing.assert_allclose(policy_values[i], wanted, atol=1e-4)
        np.testing.assert_allclose(values[i], wanted, atol=1e-4)
    np.testing.assert_allclose(policy_q, q, atol=1e-4)
    chosen = np.take_along_axis(np.asarray(policy_q), np.asarray(policy)[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, policy_values, atol=1e-4)  # the values are those of the policy
    assert len(np.unique(policy)) == 3


def test_dyna_maze():
    mdp = mazes.as_mdp(mazes.DYNA)
    values, q = value_iteration(mdp, 0.95)
    by_policy, q_by_policy, _ = policy_iteration(mdp, 0.95)
    np.testing.assert_allclose(by_policy, values, atol=2e-5)
    np.testing.assert_allclose(q_by_policy, q, atol=2e-5)
    np.testing.assert_allclose(by_policy[18], 0.95**13, rtol=1e-5)
    # Row 2, the start: below the wall, so down or right; (3, 7), under a wall: right; (5, 8): up; (5, 0): up or right.
    policy = greedy(q)
    np.testing.assert_array_equal(policy[18], [0, 0.5, 0, 0.5])
    np.testing.assert_array_equal(policy[3 * 9 + 7], [0, 0, 0, 1])
    np.testing.assert_array_equal(policy[5 * 9 + 8], [1, 0, 0, 0])
    np.testing.assert_array_equal(policy[5 * 9], [0.5, 0, 0, 0.5])
    # Any choice among the ties is optimal: the uniform one has the optimal values.
    np.testing.assert_allclose(mdps.policy_evaluation(mdp, policy, 0.95)[0], values, atol=2e-5)


def test_ties():
    q = jnp.array([[1.0, 1.0 - 5e-6, 0.0], [0.0, 2.0, 1.0], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(greedy(q), [[0.5, 0.5, 0], [0, 1, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(greedy(q, 0.0)[0], [1, 0, 0])
    np.testing.assert_allclose(greedy(q, 1.0)[1], [0, 0.5, 0.5])


def test_iterations_can_be_limited():
    # One state where action 1 is better: the first round evaluates action 0 everywhere.
    mdp = mdps.MDP(jnp.ones((1, 2, 1)), jnp.array([[1.0, 2.0]]), jnp.zeros(1, bool), jnp.ones(1))
    values, q, policy = policy_iteration(mdp, 0.5, iterations=1)
    np.testing.assert_allclose(values, [2.0])
    np.testing.assert_allclose(q, [[2.0, 3.0]])
    assert policy.tolist() == [0]
    values, q, policy = policy_iteration(mdp, 0.5)
    np.testing.assert_allclose(values, [4.0])
    np.testing.assert_allclose(q, [[3.0, 4.0]])
    assert policy.tolist() == [1]
    # Small differences count down to the tolerance of 1e-5 (1 + 2).
    for better, action in ((1.001, 1), (1.00001, 0)):
        assert policy_iteration(mdp._replace(rewards=jnp.array([[1.0, better]])), 0.5)[2].tolist() == [action]
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        policy_iteration(mdp, 0.5, iterations=0)
    with pytest.raises(ValueError, match=r"transitions must be \[S, A, S\]"):
        policy_iteration(mdp._replace(transitions=jnp.ones((1, 2, 2))), 0.5)
