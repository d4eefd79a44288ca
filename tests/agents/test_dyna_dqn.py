"""Deep Dyna: DQN without planning, DQN on imagined rows with it, and rows that obey the environment's dynamics."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import dqn, dyna_dqn
from mbrl_jax.buffers.uniform import Ring, uniform
from mbrl_jax.core import Box, Discrete, Replay, Spec, Transition
from mbrl_jax.core.config import replace
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.nets.mlp import mlp

HIDDEN = (16, 16)

SMALL = replace(
    dyna_dqn.DynaDQNConfig(),
    {
        "policy.hidden": HIDDEN, "policy.lr": 5e-3, "policy.gamma": 0.9, "policy.tau": 0.05, "policy.batch": 32,
        "policy.epsilon": 0.3, "policy.decay_updates": 50, "model.hidden": (16, 16), "fit.members": 3,
        "fit.elites": 2, "fit.batch": 32, "fit.max_epochs": 60, "fit.lr": 1e-2, "rollouts": 40, "horizon": 3,
        "retain": 3,
    },
)  # fmt: skip


LINE = Spec(Box((1,)), Discrete(2), 10)
"""A line 0 -> 1 -> 5, where 5 ends the episode and the step there pays 2."""


def line() -> Replay:
    """Rows of the line, one in three of its second step."""
    n = 300
    second = jnp.arange(n) % 3 == 0
    obs, next_obs = (jnp.where(second, *ends)[:, None] for ends in ((1.0, 0.0), (5.0, 1.0)))
    rows = Transition(obs, jnp.arange(n) % 2, 2.0 * second, 1.0 - second, next_obs, second)
    buffer = uniform(n)
    item, trajectory = jax.tree.map(lambda x: x[0], rows), jax.tree.map(lambda x: x[:, None], rows)
    return buffer.replay(buffer.add(buffer.init(item), trajectory))


@cache
def refreshed() -> tuple:
    """Learners after one, two and three refreshes on the line, the first one's metrics, and where it branched off."""
    agent, replay = dyna_dqn.make(SMALL, LINE), line()

    @jax.jit
    def refresh(key, learner):
        drawn = []
        watched = replay._replace(sample=lambda key, n: drawn.append(replay.sample(key, n)) or drawn[-1])
        return *agent.refresh(key, learner, watched), drawn

    first, metrics, drawn = refresh(jax.random.key(2), agent.init(jax.random.key(1)))
    second, _, _ = refresh(jax.random.key(3), first)
    third, _, _ = refresh(jax.random.key(4), second)
    return (first, second, third), metrics, drawn


def same(n: int, reward: float) -> Transition:
    """`n` times one row."""
    obs, full = jnp.full((n, 1), reward), lambda x: jnp.full(n, x)
    return Transition(obs, full(jnp.int32(1)), full(reward), full(0.5), -obs, full(False))


def always(row: float) -> Replay:
    return Replay(lambda key, n: same(n, row), lambda index: same(1, row), jnp.int32(9), 9)


def assert_same(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_allclose(x, y, **(tolerance or {"rtol": 0}))


def test_without_planning_it_is_dqn_bit_for_bit():
    agents = dyna_dqn.make(replace(SMALL, {"planning": 0}), LINE), dqn.make(SMALL.policy, LINE)

    def run(agent, key):
        """Refreshing, learning and acting, as a loop does."""

        def iteration(learner, key):
            key_act, key_update, key_refresh = jax.random.split(key, 3)
            learner, refreshing = agent.refresh(key_refresh, learner, line())
            learner, learning, _ = agent.update(key_update, learner, line())
            action, _, _ = agent.act(key_act, learner, agent.carry(), jnp.ones(1), True)
            return learner, (action, learning, refreshing)

        return jax.lax.scan(iteration, agent.init(key), jax.random.split(key, 3))

    ours, theirs = (jax.jit(partial(run, agent))(jax.random.key(0)) for agent in agents)
    assert_same(ours, theirs)
    assert int(ours[0].updates) == 3
    assert ours[1][2] == {}  # no model is fitted


def test_update_is_one_step_on_real_rows_and_then_steps_on_imagined_ones():
    """Real rows are all alike, and so are imagined ones: what is drawn does not matter, only from where."""
    agent, plain = dyna_dqn.make(replace(SMALL, {"planning": 7}), LINE), dqn.make(SMALL.policy, LINE)
    start = agent.init(jax.random.key(0))
    ring = Ring(same(start.imagined.rows.reward.size, 0.7), jnp.int32(0), jnp.int32(5))
    update = jax.jit(lambda learner: agent.update(jax.random.key(1), learner, always(-0.4)))
    got, metrics, feedback = update(start._replace(imagined=ring))

    step = jax.jit(lambda learner, row: plain.update(jax.random.key(2), learner, always(row))[:2])
    expected, first = step(start.policy, -0.4)
    values = []
    for _ in range(7):
        expected, planned = step(expected, 0.7)
        values.append(float(planned["q"]))
    expected = expected._replace(updates=jnp.int32(1))  # imagined updates do not speed up the decay of exploration
    assert_same(got.policy, expected, rtol=1e-4, atol=1e-6)
    assert float(metrics["q"]) == pytest.approx(float(first["q"]), rel=1e-5)
    assert float(metrics["imagined/q"]) == pytest.approx(np.mean(values), rel=1e-4)
    assert feedback == ()

    # Capacity for many rows, five written: had an empty one been drawn, what is learned would differ.
    written = jnp.arange(ring.rows.reward.size) < 5
    rows = jax.tree.map(lambda x: jnp.where(written.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x)), ring.rows)
    assert_same(update(start._replace(imagined=ring._replace(rows=rows)))[0].policy, got.policy)


def test_imagined_rows_obey_the_dynamics_and_none_starts_after_termination():
    learners, metrics, drawn = refreshed()
    # A rollout from 0 takes two steps, one from 1 a single step.
    assert len(drawn) == 1
    size = int(learners[0].imagined.size)
    assert size == 40 + int(jnp.sum(drawn[0].obs == 0))
    assert float(metrics["model/rows"]) == size
    rows = jax.tree.map(lambda x: np.asarray(x[:size]), learners[0].imagined.rows)
    late = rows.obs[:, 0] > 0.5
    assert 0 < late.sum() < size
    np.testing.assert_allclose(rows.obs[:, 0], late, atol=0.1)
    np.testing.assert_allclose(rows.next_obs[:, 0], np.where(late, 5, 1), atol=0.15)
    np.testing.assert_allclose(rows.reward, 2 * late, atol=0.15)
    np.testing.assert_allclose(rows.discount, 1 - late, atol=0.1)
    np.testing.assert_array_equal(rows.last, late)


@pytest.mark.slow
def test_rows_of_several_refreshes_are_kept():
    first, second, third = (int(learner.imagined.size) for learner in refreshed()[0])
    assert first + 40 < second < third <= 3 * 2 * 40
    kept = jax.tree.map(lambda x: x[:first], refreshed()[0][2].imagined.rows)
    assert_same(kept, jax.tree.map(lambda x: x[:first], refreshed()[0][0].imagined.rows))


def test_rollouts_explore_with_their_own_probability():
    """Of two actions, the share of greedy ones in the ring gives the probability."""
    spec = LINE._replace(terminates=False)
    cfg = replace(SMALL, {"rollouts": 1000, "horizon": 2, "retain": 1, "fit.max_epochs": 1})
    start = dyna_dqn.make(cfg, spec).init(jax.random.key(0))

    @jax.jit
    def share(explore):
        agent = dyna_dqn.make(replace(cfg, {"explore": explore}), spec)
        rows = agent.refresh(jax.random.key(1), start, line())[0].imagined.rows
        greedy = jax.vmap(lambda obs: agent.act(jax.random.key(0), start, (), obs, False)[0])(rows.obs)
        return jnp.mean(rows.action == greedy)

    assert float(share(0.0)) == 1
    assert float(share(0.4)) == pytest.approx(0.8, abs=0.03)
    assert float(share(1.0)) == pytest.approx(0.5, abs=0.04)


def test_planning_learns_from_fewer_updates_on_real_rows():
    """The line's values are 1.8 and 2. With 20 imagined updates each, 20 real ones find them; alone they do not."""
    values = {}
    for planning in (0, 20):
        agent = dyna_dqn.make(replace(SMALL, {"planning": planning, "policy.lr": 1e-2}), LINE)
        start = refreshed()[0][0] if planning else agent.init(jax.random.key(1))
        learn = jax.jit(lambda at, key: (agent.update(key, at, line())[0], ()))  # noqa: B023
        learner, _ = jax.lax.scan(learn, start, jax.random.split(jax.random.key(5), 20))
        q = learner.policy.q if planning else learner.q
        values[planning] = jax.vmap(mlp(1, HIDDEN, 2, layer_norm=True).apply, (None, 0))(q, jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(values[20], [[1.8, 1.8], [2, 2]], atol=0.15)
    assert float(jnp.max(values[0][0])) < 1.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts": 41}, r"rollouts must be a multiple of fit.elites \(2\), got 41"),
        ({"fit.elites": 4}, "elites must be at most members, 3, got 4"),
        ({"planning": -1}, "planning must be at least 0"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"policy.lr": 0.0}, "policy.lr must be above 0"),
    ],
)
def test_settings_at_odds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dyna_dqn.make(replace(SMALL, changes), Spec(Box((1,)), Discrete(2)))


def test_an_ensemble_of_a_member_of_ones_own():
    """The member's parameters are the learner's, whatever `cfg.model` says."""
    agent = dyna_dqn.make(SMALL, LINE, member=gaussian(GaussianConfig(hidden=(4,)), LINE))
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    assert learner.model.params.bounds.low.shape == (3, 2)
    assert learner.model.params.net["params"]["Dense_0"]["kernel"].shape == (3, 3, 4)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="continuous actions; this needs discrete ones"):
        dyna_dqn.make(SMALL, Spec(Box((1,)), Box((1,), -1.0, 1.0)))
