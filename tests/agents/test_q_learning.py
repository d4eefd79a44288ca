"""Q-learning: single backups by hand, and the exact optimum of many random decision processes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular_steps import replay_of, transition

from mbrl_jax.agents import q_learning
from mbrl_jax.buffers.latest import latest
from mbrl_jax.core import Box, Discrete, Replay, Spec
from mbrl_jax.envs.mdp import as_env, random_mdp, value_iteration
from mbrl_jax.train.loop import LoopConfig, make_loop

SPEC = Spec(Discrete(3), Discrete(2))


def step(s, a, r, d, t):
    """One real step as the `latest` buffer gives it."""
    return replay_of(transition(s, a, r, d, t))


def test_backups_by_hand():
    cfg = q_learning.QLearningConfig(lr=0.5, decay=1.0, gamma=0.9, first_value=2.0)
    agent = q_learning.make(cfg, SPEC)
    learner = agent.init(jax.random.key(0))
    np.testing.assert_array_equal(learner.q, np.full((3, 2), 2.0))
    learner, metrics, _ = agent.update(jax.random.key(1), learner, step(0, 1, 1.0, 1.0, 2))
    assert float(metrics["td_error"]) == pytest.approx(1 + 0.9 * 2 - 2)
    assert float(learner.q[0, 1]) == pytest.approx(2 + 0.5 * 0.8)
    # A terminating step bootstraps nothing, and the second visit's step size is half the first's.
    learner, metrics, _ = agent.update(jax.random.key(2), learner, step(0, 1, -1.0, 0.0, 2))
    assert float(metrics["td_error"]) == pytest.approx(abs(-1 - 2.4))
    assert float(learner.q[0, 1]) == pytest.approx(2.4 + 0.25 * -3.4)
    np.testing.assert_array_equal(learner.visits, [[0, 2], [0, 0], [0, 0]])
    assert np.sum(np.asarray(learner.q) != 2.0) == 1


def test_q_backup_changes_one_entry_by_the_formula():
    """Three visits of (2, 0): Q + α 3^-ω (r + γ d max Q(s', .) - Q), in NumPy."""
    q = np.array([[1.0, 3.0], [0.5, -1.0], [2.0, 4.0]], np.float32)
    visits = jnp.array([[0, 7], [0, 0], [3, 9]], jnp.int32)
    row = transition(2, 0, -0.5, 1.0, 0)
    got, error = q_learning.q_backup(jnp.asarray(q), visits, row, lr=0.8, decay=0.5, gamma=0.9)
    assert float(error) == pytest.approx(-0.5 + 0.9 * 3.0 - 2.0)
    q[2, 0] += 0.8 * 3**-0.5 * 0.2
    np.testing.assert_allclose(got, q, rtol=1e-6)
    # Without a decay the visits do not matter, and a terminating step bootstraps nothing.
    got, error = q_learning.q_backup(jnp.asarray(q), visits, row._replace(discount=jnp.zeros(())), lr=0.5, gamma=0.9)
    assert float(error) == pytest.approx(-0.5 - q[2, 0])
    assert float(got[2, 0]) == pytest.approx(q[2, 0] + 0.5 * (-0.5 - q[2, 0]))


@pytest.mark.parametrize(("visits", "size"), [(0, 0.8), (1, 0.8), (4, 0.4), (16, 0.2)])
def test_the_step_size_falls_with_the_visits(visits, size):
    assert float(q_learning.step_size(jnp.int32(visits), lr=0.8, decay=0.5)) == pytest.approx(size)


def test_evaluation_is_greedy_and_exploration_is_not():
    agent = q_learning.make(q_learning.QLearningConfig(epsilon=1.0), SPEC)
    learner = agent.init(jax.random.key(0))._replace(q=jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    keys = jax.random.split(jax.random.key(1), 200)
    act = lambda explore: jax.vmap(lambda key: agent.act(key, learner, (), jnp.int32(1), explore)[0])(keys)  # noqa: E731
    assert np.all(np.asarray(act(False)) == 0)
    assert 60 < np.sum(np.asarray(act(True))) < 140


def trained(mdps, gamma, steps, **settings):
    """Q [N, S, A] after a long random walk through each of N decision processes."""
    loop_cfg = LoopConfig(inner=1000, cycles=1, warmup=0, eval_episodes=0, capacity=1)
    cfg = q_learning.QLearningConfig(gamma=gamma, epsilon=1.0, **settings)

    def one(key, mdp):
        env = as_env(mdp, time_limit=20)  # so that every state is visited, at least as a start
        loop = make_loop(q_learning.make(cfg, env.spec), env, latest(1, 1), loop_cfg)
        return loop.train(key, steps // 1000)[0].learner.q

    count = mdps.terminal.shape[0]
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), count), mdps))


@pytest.mark.parametrize("branching", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_long_training_gives_the_exact_values_of_many_random_mdps(branching):
    """40 processes of 6 states and 3 actions. In deterministic ones a step size of 1 reaches the fixed point;
    in stochastic ones the falling step sizes leave a root mean square error below 3 % of the largest value."""
    make = lambda key: random_mdp(key, 6, 3, branching=branching, terminals=1, by_successor=True)  # noqa: E731
    mdps = jax.vmap(make)(jax.random.split(jax.random.key(0), 40))
    exact = np.asarray(jax.vmap(lambda mdp: value_iteration(mdp, 0.8)[1])(mdps))
    visited = ~np.asarray(mdps.terminal)
    assert visited.sum() == 200
    if branching == 1:
        error = trained(mdps, 0.8, 20_000, lr=1.0)[visited] - exact[visited]
        assert np.abs(error).max() < 1e-4
    else:
        error = trained(mdps, 0.8, 60_000, lr=1.0, decay=0.7)[visited] - exact[visited]
        assert np.sqrt(np.mean(error**2)) < 0.03 * exact.max()
        assert np.abs(error).max() < 0.15 * exact.max()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec(Box((4,)), Discrete(2), name="poles"), "poles: observations must be numbered states"),
        (Spec(Discrete(4), Box((1,)), name="arm"), "arm has continuous actions"),
    ],
)
def test_other_spaces_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        q_learning.make(q_learning.QLearningConfig(), spec)


def test_more_than_one_step_at_a_time_is_refused():
    agent = q_learning.make(q_learning.QLearningConfig(), SPEC)
    wide = jax.tree.map(lambda x: jnp.repeat(x, 2, 1), step(0, 0, 0.0, 1.0, 1).sample(jax.random.key(0), 1))
    replay = Replay(lambda key, n: wide, lambda index: wide, jnp.int32(2), 2)
    with pytest.raises(ValueError, match=r"unroll and num_envs must be 1 for tabular agents, got \(1, 2\)"):
        agent.update(jax.random.key(0), agent.init(jax.random.key(0)), replay)
