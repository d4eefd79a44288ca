"""The tabular model: counts and means by NumPy, its three forms, and convergence to the true tables and optimum."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Transition, discounted_return, unroll
from mbrl_jax.envs import mdp as mdps
from mbrl_jax.models import tabular

# (s, a, reward, discount, s'): (0, 1) goes to 1 three times out of four, ending twice of these; the other goes to 2.
SEEN = [
    (0, 1, 1.0, 1.0, 1),
    (0, 1, 2.0, 0.0, 1),
    (0, 1, 6.0, 0.0, 1),
    (0, 1, -4.0, 1.0, 2),
    (1, 0, 0.5, 1.0, 0),
    (2, 1, 2.0, 1.0, 2),
]


def learn(rows, states, actions):
    s, a, reward, discount, following = (jnp.asarray(column) for column in zip(*rows, strict=True))
    return fold(tabular.init(states, actions), s, a, reward, discount, following)


@jax.jit
def fold(table, s, a, reward, discount, following):
    rows = Transition(s, a, reward, discount, following, discount == 0.0)

    def one(table, at):
        return tabular.update(table, *at), None

    return jax.lax.scan(one, table, (rows, jnp.arange(s.shape[0])))[0]


@pytest.fixture(scope="module")
def table():
    return learn(SEEN, 3, 2)


def test_counts_means_and_last_outcomes(table):
    counts, rewards = np.zeros((3, 2, 3)), np.zeros((3, 2, 3))
    discounts = np.ones((3, 2, 3))
    for s, a, t in itertools.product(range(3), range(2), range(3)):
        rows = [row for row in SEEN if (row[0], row[1], row[4]) == (s, a, t)]
        counts[s, a, t] = len(rows)
        if rows:
            rewards[s, a, t] = np.mean([row[2] for row in rows])
            discounts[s, a, t] = np.mean([row[3] for row in rows])
    np.testing.assert_array_equal(table.counts, counts)
    np.testing.assert_allclose(table.rewards, rewards, rtol=1e-6)
    np.testing.assert_allclose(table.discounts, discounts, rtol=1e-6)
    np.testing.assert_array_equal(table.last_tried, [[-1, 3], [4, -1], [-1, 5]])
    np.testing.assert_array_equal(tabular.tried(table), [[False, True], [True, False], [False, True]])


def test_last_outcome_and_untried(table):
    out = jax.vmap(jax.vmap(lambda s, a: tabular.last(table, s, a), (None, 0)), (0, None))(jnp.arange(3), jnp.arange(2))
    np.testing.assert_array_equal(out.state, [[0, 2], [0, 1], [2, 2]])
    np.testing.assert_array_equal(out.reward, [[0.0, -4.0], [0.5, 0.0], [0.0, 2.0]])
    np.testing.assert_array_equal(out.discount, 1.0)
    ended = learn([*SEEN, (0, 1, 3.0, 0.0, 1)], 3, 2)
    assert tabular.last(ended, jnp.array(0), jnp.array(1)) == (1, 3.0, 0.0)


def test_samples_follow_the_counts(table):
    step = tabular.model(table, "sample").step
    keys = jax.random.split(jax.random.key(0), 4_000)
    out = jax.vmap(step, (0, None, None))(keys, jnp.array(0), jnp.array(1))
    went = np.asarray(out.state)
    assert set(went.tolist()) == {1, 2}
    assert abs(np.mean(went == 1) - 0.75) < 0.035  # five standard errors
    np.testing.assert_allclose(out.reward, np.where(went == 1, 3.0, -4.0), rtol=1e-6)
    np.testing.assert_allclose(out.discount, np.where(went == 1, 1 / 3, 1.0), rtol=1e-6)
    out = jax.vmap(step, (0, None, None))(keys[:50], jnp.array(1), jnp.array(1))  # never tried
    for got, wanted in zip(out, (1, 0.0, 1.0), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_expected_backup(table):
    reward, onward = tabular.expected(table, jnp.array(0), jnp.array(1))
    np.testing.assert_allclose(reward, (1 + 2 + 6 - 4) / 4, rtol=1e-6)
    np.testing.assert_allclose(onward, [0.0, 0.25, 0.25], rtol=1e-6)
    reward, onward = tabular.expected(table, jnp.array(2), jnp.array(0))  # never tried
    np.testing.assert_array_equal(reward, 0.0)
    np.testing.assert_array_equal(onward, [0.0, 0.0, 1.0])


def test_expectation_model_gives_exact_open_loop_returns(table):
    step = tabular.model(table, "expectation").step
    actions = [1, 1, 0, 1]
    first = jax.nn.one_hot(0, 3)
    _, out = unroll(step, jax.random.key(0), first, jnp.array(actions))

    counts, means, going = (np.asarray(x, np.float64) for x in table[:3])

    def value(s, plan):
        """Expected discounted reward of a plan, by enumerating all outcomes."""
        if not plan:
            return 0.0
        total = counts[s, plan[0]].sum()
        if total == 0:
            return 0.9 * value(s, plan[1:])
        return sum(
            counts[s, plan[0], t] / total * (means[s, plan[0], t] + 0.9 * going[s, plan[0], t] * value(t, plan[1:]))
            for t in range(3)
        )

    np.testing.assert_allclose(discounted_return(out.rewards, 0.9 * out.discounts), value(0, actions), rtol=1e-5)
    assert value(0, actions) > 1.3  # more than the first step's reward: later ones count


def test_certain_termination_stays_certain():
    table = learn([(0, 0, 1.0, 0.0, 1)], 2, 1)
    step = tabular.model(table, "expectation").step
    _, out = unroll(step, jax.random.key(0), jax.nn.one_hot(0, 2), jnp.zeros(3, jnp.int32))
    np.testing.assert_array_equal(discounted_return(out.rewards, out.discounts), 1.0)
    assert np.all(np.isfinite(out.states))
    values, _ = mdps.value_iteration(tabular.tables(table), 0.9)
    np.testing.assert_array_equal(values, [1.0, 0.0, 0.0])


def test_tables_of_the_means(table):
    mdp = tabular.tables(table)
    assert mdp.transitions.shape == (4, 2, 4)
    np.testing.assert_allclose(mdp.transitions.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(mdp.transitions[0, 1], [0.0, 0.25, 0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(mdp.rewards, [[0.0, 1.25], [0.5, 0.0], [0.0, 2.0], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(mdp.terminal, [False, False, False, True])
    # v2 = 2 / (1 - γ) = 4, v1 = 1/2 + v0/2, v0 = 5/4 + (v1 + v2)/8, and the never tried stay where they are.
    v0 = (1.25 + (0.5 + 4.0) / 8) / (1 - 1 / 16)
    values, _ = mdps.value_iteration(mdp, 0.5)
    np.testing.assert_allclose(values, [v0, 0.5 + v0 / 2, 4.0, 0.0], atol=2e-5)


def test_many_samples_converge_to_the_true_tables_and_optimum():
    """Four random processes of 6 states, one of them terminal, 20,000 visits to every pair of the other five.

    Every probability and every backup of the true values within five standard errors, every mean reward exact; then
    every optimal value within the largest error of a backup times 1 / (1 - γ), and in all within 0.2, 3 % of the
    largest.
    """
    states, actions, visits, gamma = 6, 3, 20_000, 0.9

    def run(key):
        key_mdp, key_steps = jax.random.split(key)
        mdp = mdps.random_mdp(key_mdp, states, actions, branching=3, terminals=1, by_successor=True)
        env = mdps.as_env(mdp)
        pairs = jnp.arange((states - 1) * actions)
        s, a = jnp.divmod(jnp.repeat(pairs, visits), actions)
        _, following, reward, discount, last = jax.vmap(env.step)(jax.random.split(key_steps, s.shape[0]), s, a)
        rows = Transition(s, a, reward, discount, following, last)
        table, _ = jax.lax.scan(
            lambda table, row: (tabular.update(table, row, 0), None), tabular.init(states, actions), rows
        )
        counted = tabular.tables(table)
        return mdp, table, counted, mdps.value_iteration(counted, gamma), mdps.value_iteration(mdp, gamma)

    # One after the other: one small program. Worlds with keys of their own.
    mdp, table, counted, found, true = jax.jit(lambda keys: jax.lax.map(run, keys))(
        jax.random.split(jax.random.key(5), 4)
    )
    p = np.asarray(mdp.transitions)[:, :-1]
    counts = np.asarray(table.counts)[:, :-1]
    np.testing.assert_array_equal(counts.sum(-1), visits)
    error = np.abs(counts / visits - p)
    assert np.all(error <= 5 * np.sqrt(p * (1 - p) / visits) + 1e-6)
    assert error.max() > 1e-4  # it was sampled, not copied
    seen = counts > 0
    np.testing.assert_array_equal(seen, p > 0)
    np.testing.assert_allclose(np.asarray(table.rewards)[:, :-1][seen], np.asarray(mdp.rewards)[:, :-1][seen], 1e-4)
    ending = np.broadcast_to(np.asarray(mdp.terminal)[:, None, None], seen.shape)
    np.testing.assert_array_equal(np.asarray(table.discounts)[:, :-1][seen], ~ending[seen])
    assert np.max(true[0]) > 2.0
    after = np.asarray(mdp.rewards)[:, :-1] + gamma * np.asarray(true[0])[:, None, None]
    mean = np.sum(p * after, -1)
    spread = np.sqrt(np.sum(p * (after - mean[..., None]) ** 2, -1))
    backup = np.asarray(counted.rewards) + gamma * np.einsum(
        "wsat,wt->wsa", counted.transitions[..., :states], np.asarray(true[0])
    )
    error = np.abs(backup[:, : states - 1] - mean)
    assert np.all(error <= 5 * spread / np.sqrt(visits) + 1e-4)
    bound = np.max(error, (1, 2)) / (1 - gamma) + 1e-4
    for values, wanted in zip(found, true, strict=True):
        off = np.abs(values[:, :states] - wanted).reshape(4, -1).max(-1)
        assert np.all(off <= bound), (off, bound)
        assert np.all(off <= 0.2)


def test_wrong_settings(table):
    with pytest.raises(ValueError, match="form must be one of sample, expectation, last, got 'mean'"):
        tabular.model(table, "mean")
    with pytest.raises(ValueError, match="actions must be at least 1, got 0"):
        tabular.init(3, 0)
