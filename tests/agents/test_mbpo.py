"""MBPO: its schedule, its imagined rows, a member of one's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import mbpo
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Box, Discrete, Spec, Transition
from mbrl_jax.core.config import replace
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, DeterministicParams, deterministic
from mbrl_jax.train.loop import LoopConfig, make_loop

SMALL = replace(
    mbpo.MBPOConfig(),
    {
        "policy.hidden": (16, 16), "policy.lr": 5e-3, "policy.gamma": 0.9, "policy.tau": 0.05, "policy.alpha": 1e-3,
        "policy.batch": 64, "policy.target_entropy": -3.0, "model.hidden": (16, 16), "fit.members": 3,
        "fit.elites": 2, "fit.batch": 32, "fit.max_epochs": 20, "fit.lr": 3e-3, "rollouts": 40,
    },
)  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "lengths"),
    [  # the paper's [epoch to start, epoch to end, k0, k1], by hand
        ((20, 150, 1, 15), {0: 1, 20: 1, 29: 1, 30: 2, 85: 8, 149: 14, 150: 15, 400: 15}),
        ((20, 100, 1, 25), {0: 1, 23: 1, 24: 2, 60: 13, 100: 25}),
        ((1, 15, 1, 1), {0: 1, 7: 1, 20: 1}),
    ],
)
def test_the_rollout_length_follows_the_schedule(schedule, lengths):
    start, end, first, last = schedule
    schedule = {"grow_from": start, "grow_until": end, "first_horizon": first, "last_horizon": last}
    assert {i: int(mbpo.rollout_length(jnp.int32(i), **schedule)) for i in lengths} == lengths


def test_imagined_rows_come_from_the_model_and_their_capacity_grows_with_the_rollout_length():
    """A point that moves by its action: after a fit, imagined rows obey the same dynamics, and none is left empty."""
    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0), 10, terminates=False)
    cfg = replace(
        SMALL,
        {"rollouts": 40, "retain": 2, "last_horizon": 3, "grow_until": 2, "fit.max_epochs": 60, "fit.lr": 1e-2},
    )
    agent = mbpo.make(cfg, spec)
    key_obs, key_action = jax.random.split(jax.random.key(0))
    obs = jax.random.uniform(key_obs, (400, 1), minval=-1, maxval=1)
    action = jax.random.uniform(key_action, (400, 1), minval=-1, maxval=1)
    new, ones = obs + 0.3 * action, jnp.ones(400)
    real = Transition(obs, action, 2.0 * obs[:, 0], ones, new, ones < 0)
    buffer = uniform(400)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], real)), jax.tree.map(lambda x: x[:, None], real))
    refresh = jax.jit(lambda key, learner: agent.refresh(key, learner, buffer.replay(data)))
    learner = agent.init(jax.random.key(1))
    used = []
    for i in range(4):
        learner, metrics = refresh(jax.random.key(10 + i), learner)
        used.append((int(metrics["model/horizon"]), int(learner.imagined.size)))
    # k = 1, 2, 3, 3: capacity 80, 160, 240, 240 and rows written 40, 80, 120, 120
    assert used == [(1, 40), (2, 120), (3, 240), (3, 240)]
    rows = learner.imagined.rows
    assert float(jnp.mean(jnp.abs(rows.next_obs - rows.obs - 0.3 * rows.action))) < 0.05
    assert float(jnp.mean(jnp.abs(rows.reward - 2 * rows.obs[:, 0]))) < 0.15
    np.testing.assert_array_equal(rows.discount, 1)


def test_terminated_rollouts_are_dropped():
    """Where every step terminates, longer rollouts add no rows."""
    spec = Spec(Box((1,)), Discrete(2), 10)
    changes = {"policy.target_entropy": 0.1, "first_horizon": 3, "last_horizon": 3, "fit.max_epochs": 60}
    agent = mbpo.make(replace(SMALL, changes), spec)
    x = jax.random.normal(jax.random.key(0), (200, 1))
    ended = Transition(x, jnp.zeros(200, jnp.int32), x[:, 0], jnp.zeros(200), x, jnp.ones(200, bool))
    buffer = uniform(200)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], ended)), jax.tree.map(lambda x: x[:, None], ended))
    learner, _ = jax.jit(lambda key: agent.refresh(key, agent.init(key), buffer.replay(data)))(jax.random.key(0))
    assert int(learner.imagined.size) == 40
    assert float(jnp.max(learner.imagined.rows.discount[:40])) < 0.1


@pytest.mark.parametrize(
    ("how", "most"),
    [({}, 8), ({"cut_by": "information", "cut_budget": 5.0}, 8), ({"cut_by": "information", "cut_budget": 1e-3}, 1.01)],
)
def test_cut_rollouts_end_where_the_elites_know_little_and_rows_of_the_latest_refreshes_are_kept(how, most):
    """The policy drives a point out of the real rows: rollouts of 20 steps must stop where nothing is known."""
    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0), 10, terminates=False)
    changes = {"cut": True, "first_horizon": 20, "last_horizon": 20, "retain": 2, "rollouts": 40, "fit.members": 5,
               "fit.elites": 4, "policy.alpha": 1.0} | how  # fmt: skip
    cfg = replace(SMALL, changes)
    agent = mbpo.make(cfg, spec)
    key_obs, key_action = jax.random.split(jax.random.key(0))
    obs = jax.random.uniform(key_obs, (200, 1), minval=-0.3, maxval=0.3)
    action = jax.random.uniform(key_action, (200, 1), minval=-1, maxval=1)
    real = Transition(obs, action, obs[:, 0], jnp.ones(200), obs + jnp.sign(obs) * 0.2, jnp.zeros(200, bool))
    buffer = uniform(200)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], real)), jax.tree.map(lambda x: x[:, None], real))
    refresh = jax.jit(lambda key, learner: agent.refresh(key, learner, buffer.replay(data)))
    learner, written = agent.init(jax.random.key(1)), []
    for i in range(3):
        learner, metrics = refresh(jax.random.key(10 + i), learner)
        written.append(round(float(metrics["model/steps"]) * 40))
        assert int(learner.imagined.size) == sum(written[-2:])
    assert all(40 <= rows < most * 40 for rows in written)
    if not how:  # uncut, 20 steps of 0.2 go to 4
        assert np.asarray(learner.imagined.rows.obs)[: sum(written[-2:])].max() < 2.0


def test_nothing_of_the_cut_is_there_where_it_is_off():
    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0), 10)
    plain = jax.eval_shape(mbpo.make(SMALL, spec).init, jax.random.key(0))
    assert plain.written == ()
    cut = jax.eval_shape(mbpo.make(replace(SMALL, {"cut": True, "retain": 3}), spec).init, jax.random.key(0))
    assert cut.written.shape == (2,)
    member = deterministic(DeterministicConfig(hidden=(4,)), spec)._replace(moments=None)
    with pytest.raises(ValueError, match="cut must be False for a member without moments"):
        mbpo.make(replace(SMALL, {"cut": True}), spec, member=member)


def test_an_ensemble_that_cannot_disagree_explores_nothing():
    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0), 10)
    cfg = replace(SMALL, {"explorer": "disagreement"})
    member = deterministic(DeterministicConfig(hidden=(4,)), spec)._replace(moments=None)
    with pytest.raises(ValueError, match="explorer must be none for a member without moments"):
        mbpo.make(cfg, spec, member=member)
    with pytest.raises(ValueError, match=r"fit\.elites must be at least 2 with explorer disagreement, got 1"):
        mbpo.make(replace(cfg, {"fit.elites": 1}), spec)


@pytest.mark.parametrize(
    "continuous",
    [
        pytest.param(True, id="continuous", marks=pytest.mark.slow),
        pytest.param(False, id="discrete", marks=pytest.mark.slow),
    ],
)
def test_probe_policy_depends_on_the_observation(continuous):
    """With no real rows in its batches, all that the policy learns has gone through the model."""
    env = PROBES["observation_action_reward"](continuous)
    env = env._replace(spec=env.spec._replace(time_limit=2))
    cfg = replace(SMALL, {"real_ratio": 0.0, "policy.target_entropy": -3.0 if continuous else 0.0})
    loop = make_loop(mbpo.make(cfg, env.spec), env, uniform(600), LoopConfig(inner=50, cycles=5, updates=4, warmup=150))
    state, report = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    assert float(jnp.mean(report.returns)) > (-0.02 if continuous else 0.99)
    assert int(state.learner.refreshes) == 5


def test_an_ensemble_of_a_member_of_ones_own():
    """The member's parameters are the learner's, whatever `cfg.model` says."""
    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0), 10)
    member = deterministic(DeterministicConfig(hidden=(4,)), spec)
    learner = jax.eval_shape(mbpo.make(SMALL, spec, member=member).init, jax.random.key(0))
    assert isinstance(learner.model.params, DeterministicParams)
    assert learner.model.params.net["params"]["Dense_0"]["kernel"].shape == (3, 2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts": 41}, r"rollouts must be a multiple of fit.elites \(2\), got 41"),
        ({"first_horizon": 3, "last_horizon": 2}, r"last_horizon must be at least first_horizon \(3\), got 2"),
        ({"grow_from": 5, "grow_until": 5}, r"grow_until must be above grow_from \(5\), got 5"),
        ({"real_ratio": 1.5}, "real_ratio must be at least 0 and at most 1"),
        ({"policy.lr": 0.0}, "policy.lr must be above 0"),
        ({"fit.elites": 4, "rollouts": 40}, "elites"),
        ({"bonus": -0.1}, "bonus must be at least 0"),
    ],
)
def test_settings_at_odds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mbpo.make(replace(SMALL, changes), Spec(Box((1,)), Box((1,), -1.0, 1.0)))
