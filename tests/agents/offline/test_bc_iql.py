"""Behaviour cloning and IQL against their equations written out in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.loss_cases.model_free import SPECS, batch

from mbrl_jax.agents.offline import bc, iql
from mbrl_jax.buffers.fixed import fixed
from mbrl_jax.core import Transition

KINDS = ("continuous", "discrete")


def softmax_log(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
def test_cloning_is_regression_to_the_actions(kind):
    spec = SPECS[kind]
    net = bc.network(bc.BCConfig(hidden=(8,)), spec)
    policy, rows = net.init(jax.random.key(0)), batch(spec)
    out = np.stack([np.asarray(net.apply(policy, obs), np.float64) for obs in rows.obs])
    if kind == "discrete":
        expected = -np.mean([softmax_log(out)[i, a] for i, a in enumerate(np.asarray(rows.action))])
    else:
        expected = np.mean(np.sum((np.tanh(out) - np.asarray(rows.action)) ** 2, 1))
    loss, metrics = bc.policy_loss(policy, rows, net=net, discrete=kind == "discrete")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics["policy_loss"] == loss


def of_iql(kind):
    spec, cfg = SPECS[kind], iql.IQLConfig(hidden=(8,))
    return iql.networks(cfg, spec), jax.jit(iql.make(cfg, spec).init)(jax.random.key(0)), batch(spec)


def critics(nets, critic, obs, action, discrete):
    """Q_i(s, a) of both critics, one network and one row at a time."""
    x = obs if discrete else jnp.concatenate([obs, action])
    out = [nets.critic.apply(jax.tree.map(lambda leaf: leaf[i], critic), x) for i in range(2)]  # noqa: B023
    return np.array([each[action if discrete else 0] for each in out], np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_iql_follows_its_three_equations(kind):
    nets, learner, rows = of_iql(kind)
    discrete, tau, gamma, beta, most = kind == "discrete", 0.8, 0.9, 3.0, 1.5
    q = [critics(nets, learner.target, rows.obs[i], rows.action[i], discrete) for i in range(4)]
    v = np.array([nets.value.apply(learner.value, obs)[0] for obs in rows.obs], np.float64)
    v_next = np.array([nets.value.apply(learner.value, obs)[0] for obs in rows.next_obs], np.float64)

    u = np.array([each.min() for each in q]) - v
    expected = np.mean(np.abs(tau - (u < 0)) * u**2)
    loss, metrics = iql.value_loss(learner.value, rows, nets=nets, target=learner.target, expectile=tau)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["advantage"], u.mean(), rtol=1e-4, atol=1e-6)

    y = np.asarray(rows.reward) + gamma * np.asarray(rows.discount) * v_next
    expected = np.mean([0.5 * np.sum((each - y[i]) ** 2) for i, each in enumerate(q)])
    loss, _ = iql.critic_loss(learner.critic, rows, nets=nets, value=learner.value, gamma=gamma)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

    out = np.stack([np.asarray(nets.policy.apply(learner.policy.net, obs), np.float64) for obs in rows.obs])
    if discrete:
        log_prob = np.array([softmax_log(out)[i, a] for i, a in enumerate(np.asarray(rows.action))])
    else:
        std = np.exp(np.clip(np.asarray(learner.policy.log_std, np.float64), -5, 2))
        z = (np.asarray(rows.action) - np.tanh(out)) / std
        log_prob = np.sum(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi), 1)
    advantage = jnp.array([0.5, -0.2, 0.1, 2.0])
    weight = np.minimum(np.exp(beta * np.asarray(advantage)), most)
    assert (weight == most).any()  # the bound is reached
    loss, metrics = iql.policy_loss(
        learner.policy, rows, nets=nets, advantage=advantage, temperature=beta, max_weight=most
    )
    np.testing.assert_allclose(loss, -np.mean(weight * log_prob), rtol=1e-5)
    np.testing.assert_allclose(metrics["weight"], weight.mean(), rtol=1e-6)


def test_iql_prefers_the_better_of_two_actions_where_cloning_takes_their_mean():
    """One state; action 0.5 is worth 1, action -0.5 nothing, and the data holds as many of each."""
    n, spec = 64, SPECS["continuous"]._replace(obs=SPECS["continuous"].obs._replace(shape=(1,)))
    sign = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    obs, action = jnp.ones((n, 1)), jnp.stack([0.5 * sign, jnp.zeros(n)], 1)
    rows = Transition(obs, action, (sign + 1) / 2, jnp.zeros(n), obs, jnp.ones(n, bool))
    replay = fixed(rows).replay(())
    found = {}
    for name, agent in {
        "iql": iql.make(iql.IQLConfig(hidden=(16,), lr=1e-2, batch=32, temperature=10.0, expectile=0.9), spec),
        "bc": bc.make(bc.BCConfig(hidden=(16,), lr=1e-2, batch=32), spec),
    }.items():

        def update(learner, key, agent=agent):
            return agent.update(key, learner, replay)[0], None

        keys = jax.random.split(jax.random.key(1), 600)
        learner, _ = jax.jit(lambda start, keys, update=update: jax.lax.scan(update, start, keys))(
            agent.init(keys[0]), keys
        )
        found[name] = float(agent.act(jax.random.key(2), learner, (), jnp.ones(1), False)[0][0])
    assert found["iql"] > 0.4
    assert abs(found["bc"]) < 0.15
