"""Dyna-Q against a NumPy one that is told the same pairs, and its values against exact ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import dyna_q, q_learning
from mbrl_jax.buffers.latest import latest
from mbrl_jax.core import Discrete, Replay, Spec, Transition
from mbrl_jax.envs.mdp import as_env, random_mdp, value_iteration
from mbrl_jax.models import tabular
from mbrl_jax.train.loop import LoopConfig, make_loop

S, A = 5, 3
SPEC = Spec(Discrete(S), Discrete(A))
POLICY = q_learning.QLearningConfig(lr=0.3, gamma=0.9)


def replayed(row):
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None, None], row)
    return Replay(lambda key, n: batch, lambda index: batch, jnp.int32(1), 1)


def stream(steps, deterministic, seed=0):
    """Real steps of a world in NumPy, endings included."""
    rng = np.random.default_rng(seed)
    leads = rng.integers(0, S, (S, A, 1 if deterministic else 3))
    s, rows = 0, []
    for _ in range(steps):
        a = int(rng.integers(A))
        t = int(rng.choice(leads[s, a]))
        d = float(t != S - 1)
        rows.append((s, a, float(np.float32(3 * np.sin(7 * s + 3 * a + 5 * t))), d, t))  # no two alike
        s = t if d else int(rng.integers(S - 1))
    return rows


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
        learner, metrics, _ = agent.update(key, learner, replayed(row))
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
    update = jax.jit(lambda learner, row: agent.update(jax.random.key(0), learner, replayed(row))[0])
    for s, a, r, d, t in rows:
        row = Transition(jnp.int32(s), jnp.int32(a), jnp.float32(r), jnp.float32(d), jnp.int32(t), jnp.asarray(d == 0))
        plain = update(plain, row)
    np.testing.assert_array_equal(learner.q, plain.q)
    np.testing.assert_array_equal(learner.visits, plain.visits)


@pytest.mark.parametrize("form", ["last", "sample", "expected"])
def test_planning_alone_solves_the_table_it_has(form):
    """A few hundred real steps, many planned ones: Q becomes the optimum of what the table says, not of the world.

    Only pairs that were tried are planned, so the others keep their first value, 0, in the oracle too.
    """
    deterministic = form == "last"
    steps, planning = 300, 1000
    decay = {"policy": q_learning.QLearningConfig(lr=0.02 if form == "sample" else 0.5, gamma=0.8)}
    rows = stream(steps, deterministic)
    learner, _, _ = fed(dyna_q.DynaQConfig(planning=planning, form=form, **decay), rows)
    exact = np.asarray(value_iteration(tabular.tables(learner.table), 0.8)[1])[:S]
    done = np.asarray(learner.visits) > 0
    assert done[: S - 1].all()
    tolerance = 0.15 if form == "sample" else 1e-4  # a constant step size leaves a spread of its own
    np.testing.assert_allclose(np.asarray(learner.q)[done], exact[done], atol=tolerance * np.abs(exact).max())


def test_long_training_gives_the_exact_values_of_many_random_worlds():
    """50 worlds with chance: expected backups leave only the error of the counted probabilities."""
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


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be one of last, sample, expected, got 'mean'"):
        dyna_q.make(dyna_q.DynaQConfig(form="mean"), SPEC)
