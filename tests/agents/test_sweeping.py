"""Prioritized sweeping against a NumPy version with a queue, its targets against a table, its values exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular_steps import SPEC, A, S, replay_of, stream, transition

from mbrl_jax.agents import q_learning, sweeping
from mbrl_jax.buffers.latest import latest
from mbrl_jax.envs.mdp import as_env, random_mdp, value_iteration
from mbrl_jax.models import tabular
from mbrl_jax.train.loop import LoopConfig, make_loop


def fed(cfg, rows):
    """The agent after real steps, with what each update left behind."""
    agent = sweeping.make(cfg, SPEC)
    update = jax.jit(lambda learner, row: agent.update(jax.random.key(0), learner, replay_of(row))[:2])
    learner, trace = agent.init(jax.random.key(0)), []
    for s, a, r, d, t in rows:
        learner, metrics = update(learner, transition(s, a, r, d, t))
        trace.append((learner, metrics))
    return learner, trace


# At a step size of 1 whole groups of pairs have the same error to rounding, and any of them may be first.
@pytest.mark.parametrize("lr", [0.6, 0.4])
def test_every_backup_is_that_of_a_numpy_version_that_recomputes_expectations(lr):
    theta, n, gamma = 1e-2, 3, 0.9
    cfg = sweeping.SweepingConfig(policy=q_learning.QLearningConfig(lr=lr, gamma=gamma), planning=n, theta=theta)
    rows = stream(80, deterministic=False)
    _, trace = fed(cfg, rows)
    q, queue = np.zeros((S, A)), {}
    seen: dict = {}

    def error(pair):
        outcomes = seen[pair]
        return np.mean([r + gamma * d * q[t].max() for r, d, t in outcomes]) - q[pair]

    def insert(pair):
        queue.pop(pair, None)
        if abs(error(pair)) > theta:
            queue[pair] = abs(error(pair))

    for (s, a, r, d, t), (learner, metrics) in zip(rows, trace, strict=True):
        seen.setdefault((s, a), []).append((r, d, t))
        insert((s, a))
        done = 0
        while queue and done < n:
            pair = max(sorted(queue), key=queue.__getitem__)
            q[pair] += lr * error(pair)
            insert(pair)
            for other, outcomes in seen.items():
                if any(t1 == pair[0] and d1 for _, d1, t1 in outcomes):
                    insert(other)
            done += 1
        np.testing.assert_allclose(learner.q, q, atol=1e-3)
        assert float(metrics["backups"]) == done
        priorities = np.asarray(learner.priorities).reshape(S, A)
        np.testing.assert_allclose(
            priorities, [[queue.get((i, j), 0.0) for j in range(A)] for i in range(S)], atol=1e-3
        )


def test_incremental_targets_are_the_expectations_of_the_tabular_model():
    """After many steps the targets, only ever changed by increments, still are those of `models.tabular`."""
    cfg = sweeping.SweepingConfig(policy=q_learning.QLearningConfig(lr=0.5, gamma=0.9), planning=4, theta=1e-3)
    rows = stream(400, deterministic=False)
    learner, _ = fed(cfg, rows)
    table = tabular.init(S, A)
    count = jax.jit(tabular.update)
    for time, (s, a, r, d, t) in enumerate(rows):
        table = count(table, transition(s, a, r, d, t), time)
    np.testing.assert_array_equal(learner.visits, table.counts.sum(-1))
    for s, a in np.argwhere(np.asarray(learner.visits) > 0):
        reward, weights = tabular.expected(table, s, a)
        expected = reward + 0.9 * weights @ learner.q.max(-1)
        assert float(learner.targets[s * A + a]) == pytest.approx(float(expected), abs=1e-4)


def test_one_sweep_by_hand():
    """A chain 0 -> 1 -> 2 with one action, its last step rewarded: two backups carry the reward to the start."""
    onward = jnp.zeros((3, 3)).at[1, 0].set(2.0)  # (0, 0) led to 1 twice; (1, 0) ended the episode in 2
    learner = sweeping.Learner(
        q=jnp.zeros((3, 1)),
        visits=jnp.array([[2], [1], [0]], jnp.int32),
        rewards=jnp.array([[0.0], [1.0], [0.0]]),
        onward=onward,
        targets=jnp.array([0.0, 1.0, 0.0]),
        priorities=jnp.array([0.0, 1.0, 0.0]),
    )
    rates = {"lr": 1.0, "decay": 0.0, "gamma": 0.9, "theta": 1e-3}
    first, backups = sweeping.sweep(learner, planning=1, **rates)
    assert int(backups) == 1
    np.testing.assert_allclose(first.q[:, 0], [0.0, 1.0, 0.0])
    np.testing.assert_allclose(first.targets, [0.9, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(first.priorities, [0.9, 0.0, 0.0], rtol=1e-6)
    whole, backups = sweeping.sweep(learner, planning=10, **rates)
    assert int(backups) == 2  # then the queue is empty
    np.testing.assert_allclose(whole.q[:, 0], [0.9, 1.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(whole.priorities, 0.0)


def test_long_training_gives_the_exact_values_of_many_random_mdps():
    """20 deterministic processes, of which the table is exact: the optimum to within θ / (1 - γ)."""
    make = lambda key: random_mdp(key, 6, 3, branching=1, terminals=1)  # noqa: E731
    mdps = jax.vmap(make)(jax.random.split(jax.random.key(5), 20))
    exact = np.asarray(jax.vmap(lambda mdp: value_iteration(mdp, 0.8)[1])(mdps))
    policy = q_learning.QLearningConfig(lr=1.0, gamma=0.8, epsilon=1.0)
    cfg = sweeping.SweepingConfig(policy=policy, planning=5, theta=1e-4)

    def one(key, mdp):
        env = as_env(mdp, time_limit=20)
        loop_cfg = LoopConfig(inner=1000, cycles=1, warmup=0, eval_episodes=0, capacity=1)
        loop = make_loop(sweeping.make(cfg, env.spec), env, latest(1, 1), loop_cfg)
        return loop.train(key, 3)[0].learner.q

    found = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 20), mdps))
    visited = ~np.asarray(mdps.terminal)
    np.testing.assert_allclose(found[visited], exact[visited], atol=1e-4 / 0.2 + 1e-4)
