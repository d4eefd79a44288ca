"""Dyna-Q against a NumPy version that plans the same pairs, and its values against exact ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular_steps import SPEC, A, S, replay_of, stream, transition

from mbrl_jax.agents import dyna_q, q_learning
from mbrl_jax.buffers.latest import latest
from mbrl_jax.core import Transition
from mbrl_jax.envs.mdp import as_env, random_mdp, value_iteration
from mbrl_jax.models import tabular
from mbrl_jax.train.loop import LoopConfig, make_loop

POLICY = q_learning.QLearningConfig(lr=0.3, gamma=0.9)


def fed(cfg, rows, seed=1):
    """The agent after real steps, and the keys its updates were given."""
    agent = dyna_q.make(cfg, SPEC)
    names = ("obs", "action", "reward", "discount", "next_obs")
    kinds = (jnp.int32, jnp.int32, jnp.float32, jnp.float32, jnp.int32)
    columns = {name: jnp.array(column, kind) for name, column, kind in zip(names, np.array(rows).T, kinds, strict=True)}
    batch = Transition(**columns, last=columns["discount"] == 0)
    keys = jax.random.split(jax.random.key(seed), len(rows))

    def one(learner, at):
        key, row = at
        learner, metrics, _ = agent.update(key, learner, replay_of(row))
        return learner, (learner.q, metrics)

    return (*jax.jit(lambda: jax.lax.scan(one, agent.init(jax.random.key(0)), (keys, batch)))(), keys)


def drawn(key, n, found):
    """Which of the pairs found so far an update plans."""
    share = np.asarray(jax.random.uniform(jax.random.split(key, 3)[1], (n,)))
    return np.minimum((share * np.float32(found)).astype(int), found - 1)


@pytest.mark.parametrize("untried", [False, True])
def test_every_backup_is_that_of_a_plain_numpy_dyna_q(untried):
    cfg = dyna_q.DynaQConfig(policy=POLICY, planning=4, form="last", bonus=0.05, untried=untried)
    rows = stream(60, deterministic=True)
    learner, (tables, metrics), keys = fed(cfg, rows)
    q = np.zeros((S, A))
    memory, pairs, tried = {}, [], {}
    for time, (s, a, r, d, t) in enumerate(rows):
        new = [(s, b) for b in range(A)] if untried else [(s, a)]
        pairs += [pair for pair in new if pair not in pairs]
        error = r + 0.9 * d * q[t].max() - q[s, a]
        assert float(metrics["td_error"][time]) == pytest.approx(abs(error), abs=1e-4)
        q[s, a] += 0.3 * error
        memory[s, a], tried[s, a] = (r, d, t), time
        for i in drawn(keys[time], 4, len(pairs)):
            pair = pairs[i]
            r1, d1, t1 = memory.get(pair, (0.0, 1.0, pair[0]))
            waited = time - tried.get(pair, -1)
            q[pair] += 0.3 * (r1 + 0.05 * np.sqrt(waited) + 0.9 * d1 * q[t1].max() - q[pair])
        np.testing.assert_allclose(tables[time], q, atol=2e-4)
    assert int(learner.found) == len(pairs) == (12 if untried else len(memory))
    assert [(int(p) // A, int(p) % A) for p in learner.pairs[: len(pairs)]] == pairs
    assert int(learner.time) == 60
    np.testing.assert_allclose(metrics["backups"], 5)


def test_without_planning_it_is_q_learning_bitwise():
    rows = stream(50, deterministic=False)
    learner, _, _ = fed(dyna_q.DynaQConfig(policy=POLICY, planning=0), rows)
    agent = q_learning.make(POLICY, SPEC)
    plain = agent.init(jax.random.key(0))
    update = jax.jit(lambda learner, row: agent.update(jax.random.key(0), learner, replay_of(row))[0])
    for s, a, r, d, t in rows:
        plain = update(plain, transition(s, a, r, d, t))
    np.testing.assert_array_equal(learner.q, plain.q)
    np.testing.assert_array_equal(learner.visits, plain.visits)


@pytest.mark.parametrize("form", ["last", "sample", "expected"])
def test_planning_alone_solves_the_table_it_has(form):
    """A few hundred real steps, many planned ones: Q becomes the optimum of the table, not of the environment.

    Only pairs that were tried are planned, so the others keep their initial value, 0, in the oracle too.
    """
    deterministic = form == "last"
    steps, planning = 300, 1000
    policy = q_learning.QLearningConfig(lr=0.02 if form == "sample" else 0.5, gamma=0.8)
    rows = stream(steps, deterministic)
    learner, _, _ = fed(dyna_q.DynaQConfig(policy=policy, planning=planning, form=form), rows)
    exact = np.asarray(value_iteration(tabular.tables(learner.table), 0.8)[1])[:S]
    done = np.asarray(learner.visits) > 0
    assert done[: S - 1].all()
    tolerance = 0.15 if form == "sample" else 1e-4  # a constant step size leaves a spread of its own
    np.testing.assert_allclose(np.asarray(learner.q)[done], exact[done], atol=tolerance * np.abs(exact).max())


@pytest.mark.slow
def test_long_training_gives_the_exact_values_of_many_random_mdps():
    """50 stochastic processes: expected backups leave only the error of the estimated probabilities."""
    make = lambda key: random_mdp(key, 6, 3, branching=3, terminals=1, by_successor=True)  # noqa: E731
    mdps = jax.vmap(make)(jax.random.split(jax.random.key(5), 50))
    exact = np.asarray(jax.vmap(lambda mdp: value_iteration(mdp, 0.8)[1])(mdps))
    policy = q_learning.QLearningConfig(lr=1.0, decay=0.5, gamma=0.8, epsilon=1.0)
    cfg = dyna_q.DynaQConfig(policy=policy, planning=5, form="expected")

    def one(key, mdp):
        env = as_env(mdp, time_limit=20)
        loop_cfg = LoopConfig(inner=1000, cycles=1, warmup=0, eval_episodes=0, capacity=1)
        loop = make_loop(dyna_q.make(cfg, env.spec), env, latest(1, 1), loop_cfg)
        learner = loop.train(key, 10)[0].learner
        return learner.q, value_iteration(tabular.tables(learner.table), 0.8)[1][:6]

    found, planned = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 50), mdps))
    visited = ~np.asarray(mdps.terminal)
    scale = exact.max()
    close = found[visited] - planned[visited]  # the real backups, which are sampled ones, leave a spread
    assert np.sqrt(np.mean(close**2)) < 0.01 * scale
    error = found[visited] - exact[visited]
    assert np.sqrt(np.mean(error**2)) < 0.02 * scale
    assert np.abs(error).max() < 0.2 * scale


def counted():
    """A table of three steps: (0, 1) led to 2 and to 1, (2, 0) ended the episode in 3."""
    table = tabular.init(S, A)
    for time, (s, a, r, d, t) in enumerate([(0, 1, 1.0, 1.0, 2), (0, 1, 3.0, 1.0, 1), (2, 0, -2.0, 0.0, 3)]):
        table = tabular.update(table, transition(s, a, r, d, t), time)
    return table


@pytest.mark.parametrize(("form", "reward", "value"), [("last", 3.0, 7.0), ("expected", 2.0, 0.5 * 5.0 + 0.5 * 7.0)])
def test_planned_backups_by_hand(form, reward, value):
    """Two backups of (0, 1), then (2, 0), and (1, 2), never tried: at time 4, τ is 3, 2 and 5 steps."""
    q = np.zeros((S, A), np.float32)
    q[1, 0], q[2, 1] = 7.0, 5.0
    visits = jnp.zeros((S, A), jnp.int32).at[0, 1].set(4)
    pairs = jnp.array([1, 1, 2 * A, A + 2], jnp.int32)
    settings = {"bonus": 0.1, "lr": 0.4, "decay": 0.5, "gamma": 0.9}
    got = dyna_q.plan(
        jax.random.key(0), jnp.asarray(q), counted(), visits, pairs, time=jnp.int32(4), form=form, **settings
    )
    for _ in range(2):
        q[0, 1] += 0.2 * (reward + 0.1 * np.sqrt(3) + 0.9 * value - q[0, 1])  # 4 visits halve the step size
    q[2, 0] += 0.4 * (-2.0 + 0.1 * np.sqrt(2))  # terminal: nothing is bootstrapped
    q[1, 2] += 0.4 * (0.1 * np.sqrt(5) + 0.9 * 7.0)  # back to the same state, reward 0
    np.testing.assert_allclose(got, q, rtol=1e-5)


def test_a_full_list_of_pairs_stays_as_it_is():
    pairs = jnp.arange(S * A, dtype=jnp.int32)
    for untried in (False, True):
        visits = jnp.ones(A, jnp.int32)
        got, found = dyna_q.add_pairs(pairs, jnp.int32(S * A), visits, jnp.int32(1), jnp.int32(2), untried=untried)
        np.testing.assert_array_equal(got, pairs)
        assert int(found) == S * A


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be one of last, sample, expected, got 'mean'"):
        dyna_q.make(dyna_q.DynaQConfig(form="mean"), SPEC)
