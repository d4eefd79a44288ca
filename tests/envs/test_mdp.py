"""Exact tables: hand-solved values, agreement of the two solvers, and the environment against its tables."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.envs import mdp as mdps


def corridor(by_successor=False):
    """States 0, 1, 2; action 1 goes right, 0 stays; reward 10 for reaching 2, which is terminal, 1 for staying in 0."""
    stay, right = np.eye(3), np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1.0]])
    transitions = np.stack([stay, right], 1)
    rewards = np.array([[1.0, 0.0], [0.0, 10.0], [5.0, 5.0]])  # what state 2 says must not count
    if by_successor:
        rewards = np.broadcast_to(rewards[:, :, None], (3, 2, 3))
    return mdps.MDP(
        jnp.array(transitions), jnp.array(rewards), jnp.array([False, False, True]), jnp.array([1.0, 0.0, 0.0])
    )


@pytest.mark.parametrize("by_successor", [False, True])
def test_value_iteration_by_hand(by_successor):
    # Impatient: 0.5 · 10 = 5 by going against 1 / (1 - 0.5) = 2 by staying for ever.
    values, q = mdps.value_iteration(corridor(by_successor), 0.5)
    np.testing.assert_allclose(values, [5.0, 10.0, 0.0], atol=2e-5)
    np.testing.assert_allclose(q, [[3.5, 5.0], [5.0, 10.0], [0.0, 0.0]], atol=2e-5)
    # Patient: 1 / (1 - 0.95) = 20 by staying against 9.5 by going.
    values, q = mdps.value_iteration(corridor(by_successor), 0.95)
    np.testing.assert_allclose(values, [20.0, 10.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(q[0], [20.0, 9.5], atol=1e-3)
    values, _ = mdps.value_iteration(corridor(by_successor), 0.0)
    np.testing.assert_allclose(values, [1.0, 10.0, 0.0])


def test_policy_evaluation_by_hand():
    # Both actions with probability 1/2, γ = 0.5: v1 = 5 + v1/4, v0 = 1/2 + v0/4 + v1/4.
    values, q = mdps.policy_evaluation(corridor(), jnp.full((3, 2), 0.5), 0.5)
    v1 = 20.0 / 3.0
    v0 = (0.5 + v1 / 4) * 4 / 3
    np.testing.assert_allclose(values, [v0, v1, 0.0], rtol=1e-6)
    np.testing.assert_allclose(q, [[1 + v0 / 2, v1 / 2], [v1 / 2, 10.0], [0.0, 0.0]], rtol=1e-6)


def test_solvers_agree_on_random_processes():
    @jax.jit
    @jax.vmap
    def solve(key):
        mdp = mdps.random_mdp(key, 6, 3, branching=3, terminals=1, by_successor=True)
        values, q = mdps.value_iteration(mdp, 0.9)
        policy = jax.nn.one_hot(q.argmax(-1), 3)
        return mdp, values, q, *mdps.policy_evaluation(mdp, policy, 0.9)

    mdp, values, q, policy_values, policy_q = solve(jax.random.split(jax.random.key(0), 8))
    np.testing.assert_allclose(values, policy_values, atol=5e-5)
    np.testing.assert_allclose(q, policy_q, atol=5e-5)
    assert np.all(values[:, :5] > 0.1)
    np.testing.assert_array_equal(values[:, 5], 0.0)
    # Of the tables themselves: distributions over three successors each, a start that is not terminal.
    np.testing.assert_allclose(mdp.transitions.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal((mdp.transitions > 0).sum(-1), 3)
    np.testing.assert_allclose(mdp.start[0], [0.2] * 5 + [0.0], rtol=1e-6)
    assert len(np.unique(mdp.transitions[:, 0, 0] > 0, axis=0)) > 1


def test_sweeps_can_be_limited():
    values, _ = mdps.value_iteration(corridor(), 0.95, iterations=2)
    np.testing.assert_allclose(values, [9.5, 10.0, 0.0])


def test_environment_follows_its_tables():
    env = mdps.as_env(corridor(by_successor=True), time_limit=3)
    assert (env.spec.obs, env.spec.action) == ((3,), (2,))
    assert (env.spec.time_limit, env.spec.terminates) == (3, True)
    state, obs = env.reset(jax.random.key(0))
    assert int(obs) == 0
    seen = []
    for action in (0, 1, 1):
        state, obs, reward, discount, last = env.step(jax.random.key(1), state, jnp.array(action))
        seen.append((int(obs), float(reward), float(discount), bool(last)))
    assert seen == [(0, 1.0, 1.0, False), (1, 0.0, 1.0, False), (2, 10.0, 0.0, True)]
    assert not mdps.as_env(corridor()._replace(terminal=jnp.zeros(3, bool))).spec.terminates


def test_environment_draws_from_its_tables():
    mdp = jax.jit(lambda key: mdps.random_mdp(key, 4, 2, branching=2, by_successor=True))(jax.random.key(2))
    env = mdps.as_env(mdp)
    keys = jax.random.split(jax.random.key(3), 20_000)
    _, obs, reward, discount, _ = jax.jit(jax.vmap(lambda key: env.step(key, jnp.array(1), jnp.array(0))))(keys)
    counts = np.bincount(obs, minlength=4) / len(keys)
    np.testing.assert_allclose(counts, mdp.transitions[1, 0], atol=0.015)  # four standard errors
    np.testing.assert_array_equal(counts == 0, mdp.transitions[1, 0] == 0)
    np.testing.assert_array_equal(reward, mdp.rewards[1, 0][obs])
    np.testing.assert_array_equal(discount, 1.0)
    _, starts = jax.jit(jax.vmap(env.reset))(keys)
    np.testing.assert_allclose(np.bincount(starts, minlength=4) / len(keys), 0.25, atol=0.015)


def test_invalid_sizes_are_refused():
    key = jax.random.key(0)
    for wrong in (dict(branching=5), dict(branching=0), dict(terminals=4), dict(terminals=-1)):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
            mdps.random_mdp(key, 4, 2, **wrong)
    good = corridor()
    with pytest.raises(ValueError, match=r"rewards must be \[3, 2\] or \[3, 2, 3\], got \[3\]"):
        mdps.as_env(good._replace(rewards=jnp.zeros(3)))
    with pytest.raises(ValueError, match=r"transitions must be \[S, A, S\]"):
        mdps.value_iteration(good._replace(transitions=jnp.zeros((3, 2, 2))), 0.9)
    with pytest.raises(ValueError, match=r"policy must be \[3, 2\], got \[2, 3\]"):
        mdps.policy_evaluation(good, jnp.zeros((2, 3)), 0.9)
