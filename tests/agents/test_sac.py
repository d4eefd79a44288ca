"""SAC: one update against NumPy, and the probe environments' known values."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import sac
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Box, Discrete, Replay, Spec, Transition
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.train.loop import LoopConfig, make_loop

HIDDEN = (16, 16)


def forward(params, x):
    """A relu MLP in NumPy over rows."""
    layers = params["params"]
    for i in range(len(layers)):
        x = x @ np.asarray(layers[f"Dense_{i}"]["kernel"]) + np.asarray(layers[f"Dense_{i}"]["bias"])
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def twin(params, x):
    return np.stack([forward(jax.tree.map(lambda p: p[i], params), x) for i in range(2)])  # noqa: B023


def soft(policy, critic, alpha, obs):
    logits = forward(policy, obs)
    log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value = (np.exp(log_prob) * (twin(critic, obs).min(0) - alpha * log_prob)).sum(1)
    return value, -(np.exp(log_prob) * log_prob).sum(1)


def test_one_discrete_update_is_the_equations():
    spec = Spec(Box((3,)), Discrete(4))
    cfg = sac.SACConfig(hidden=HIDDEN, batch=5, lr=1e-2, gamma=0.9, tau=0.25, alpha=0.3, target_entropy=0.5)
    agent = sac.make(cfg, spec)
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 5, 3)).astype(np.float32)
    action, reward = rng.integers(0, 4, 5), rng.normal(size=5).astype(np.float32)
    discount = np.array([1, 0, 1, 1, 0], np.float32)
    batch = Transition(*map(jnp.asarray, (obs, action, reward, discount, next_obs, discount == 0)))
    replay = Replay(lambda key, n: batch, lambda index: batch, jnp.int32(5), 5)
    old = agent.init(jax.random.key(0))
    new, metrics, feedback = jax.jit(lambda key, learner: agent.update(key, learner, replay))(jax.random.key(1), old)

    target = reward + 0.9 * discount * soft(old.policy, old.target, 0.3, next_obs)[0]
    q = twin(old.critic, obs)[:, np.arange(5), action]
    assert float(metrics["critic_loss"]) == pytest.approx((0.5 * (q - target) ** 2).sum(0).mean(), rel=1e-4)
    value, entropy = soft(old.policy, new.critic, 0.3, obs)  # the policy is improved against the new critics
    assert float(metrics["policy_loss"]) == pytest.approx(-value.mean(), rel=1e-4)
    assert float(metrics["entropy"]) == pytest.approx(entropy.mean(), rel=1e-4)
    assert entropy.mean() > 0.5  # so the temperature must fall, by Adam's first step, which is the rate itself
    assert float(new.log_alpha) == pytest.approx(np.log(0.3) - 1e-2, rel=1e-4)
    for moved, online, before in zip(*map(jax.tree.leaves, (new.target, new.critic, old.target)), strict=True):
        np.testing.assert_allclose(moved, 0.25 * online + 0.75 * before, rtol=1e-5, atol=1e-7)
    assert feedback == ()


def hand_batch(spec: Spec, seed: int = 0) -> Transition:
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, 5, 3)).astype(np.float32)
    discrete = isinstance(spec.action, Discrete)
    action = rng.integers(0, 4, 5) if discrete else rng.uniform(-1, 1, (5, 2)).astype(np.float32)
    reward, discount = rng.normal(size=5).astype(np.float32), np.array([1, 0, 1, 1, 0], np.float32)
    return Transition(*map(jnp.asarray, (obs, action, reward, discount, next_obs, discount == 0)))


def test_targets_and_losses_of_discrete_actions_are_the_equations():
    spec = Spec(Box((3,)), Discrete(4))
    cfg, batch, alpha = sac.SACConfig(hidden=HIDDEN, target_entropy=0.5), hand_batch(spec), jnp.float32(0.3)
    nets, learner = sac.networks(cfg, spec), sac.make(cfg, spec).init(jax.random.key(0))
    target = jax.tree.map(lambda p: p + 0.1, learner.critic)
    key = jax.random.key(1)
    targets = sac.td_targets(learner.policy, target, key, batch, nets=nets, alpha=alpha, gamma=0.9)
    obs, next_obs, rows = np.asarray(batch.obs), np.asarray(batch.next_obs), np.arange(5)
    expected = batch.reward + 0.9 * batch.discount * soft(learner.policy, target, 0.3, next_obs)[0]
    np.testing.assert_allclose(targets, expected, rtol=1e-4)

    q = twin(learner.critic, obs)[:, rows, np.asarray(batch.action)]
    loss, metrics = sac.critic_loss(learner.critic, batch, nets=nets, targets=jnp.arange(5.0))
    np.testing.assert_allclose(loss, (0.5 * (q - np.arange(5.0)) ** 2).sum(0).mean(), rtol=1e-4)
    np.testing.assert_allclose([metrics["critic_loss"], metrics["q"]], [loss, q.mean()], rtol=1e-4)

    value, entropy = soft(learner.policy, learner.critic, 0.3, obs)
    loss, metrics = sac.policy_loss(learner.policy, key, batch, nets=nets, critic=learner.critic, alpha=alpha)
    np.testing.assert_allclose([loss, metrics["entropy"]], [-value.mean(), entropy.mean()], rtol=1e-4)

    loss, metrics = sac.temperature_loss(jnp.log(0.3), jnp.float32(1.25), target_entropy=0.5)
    np.testing.assert_allclose([loss, metrics["alpha"]], [np.log(0.3) * 0.75, 0.3], rtol=1e-5)


def test_targets_and_policy_loss_of_continuous_actions_are_the_equations():
    """The actions are those that the policy samples with the same keys; log-probabilities by change of variables."""
    spec = Spec(Box((3,)), Box((2,), -1.0, 1.0))
    cfg, batch, alpha = sac.SACConfig(hidden=HIDDEN), hand_batch(spec), jnp.float32(0.3)
    nets, learner = sac.networks(cfg, spec), sac.make(cfg, spec).init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 5)

    def soft_value(obs):
        out = forward(learner.policy, np.asarray(obs, np.float64))
        mean, log_std = out[:, :2], np.clip(out[:, 2:], -20, 2)
        action = np.asarray(jax.vmap(nets.act, (None, 0, 0, None))(learner.policy, keys, obs, True), np.float64)
        noise = (np.arctanh(action) - mean) / np.exp(log_std)
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)).sum(1)
        return twin(learner.critic, np.concatenate([obs, action], 1))[..., 0].min(0) - 0.3 * log_prob, -log_prob

    targets = sac.td_targets(
        learner.policy, learner.critic, jax.random.key(1), batch, nets=nets, alpha=alpha, gamma=0.9
    )
    expected = batch.reward + 0.9 * batch.discount * soft_value(batch.next_obs)[0]
    np.testing.assert_allclose(targets, expected, rtol=1e-3)
    loss, metrics = sac.policy_loss(
        learner.policy, jax.random.key(1), batch, nets=nets, critic=learner.critic, alpha=alpha
    )
    value, entropy = soft_value(batch.obs)
    np.testing.assert_allclose([loss, metrics["entropy"]], [-value.mean(), entropy.mean()], rtol=1e-3)


def test_redq_draws_critics_for_the_target_and_climbs_the_mean_of_all():
    spec = Spec(Box((3,)), Discrete(4))
    cfg = sac.SACConfig(hidden=HIDDEN, target_entropy=0.5, critics=5, drawn=2, policy_q="mean", batch=5, alpha=0.3)
    agent, nets, batch = sac.make(cfg, spec), sac.networks(cfg, spec), hand_batch(spec)
    learner = jax.jit(agent.init)(jax.random.key(0))
    learner = learner._replace(target=jax.tree.map(lambda p: 1.1 * p + 0.1, learner.critic))
    replay = Replay(lambda key, n: batch, lambda index: batch, jnp.int32(5), 5)
    each = lambda params, obs: np.stack(  # noqa: E731
        [forward(jax.tree.map(lambda leaf, i=i: leaf[i], params), np.asarray(obs)) for i in range(5)]
    )
    logits = forward(learner.policy, np.asarray(batch.next_obs))
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = each(learner.critic, batch.obs)[:, np.arange(5), np.asarray(batch.action)]
    losses = []
    for i, j in itertools.combinations(range(5), 2):
        least = each(learner.target, batch.next_obs)[[i, j]].min(0)
        y = batch.reward + 0.99 * batch.discount * (prob * (least - 0.3 * np.log(prob))).sum(1)
        losses.append(float((0.5 * (q - np.asarray(y)) ** 2).sum(0).mean()))
    assert len(set(np.round(losses, 5))) == 10
    update = jax.jit(jax.vmap(lambda key: agent.update(key, learner, replay)[1]["critic_loss"]))
    seen = np.asarray(update(jax.random.split(jax.random.key(4), 40)))
    nearest = [int(np.argmin(np.abs(np.array(losses) - one))) for one in seen]
    np.testing.assert_allclose(seen, [losses[i] for i in nearest], rtol=1e-4)
    assert len(set(nearest)) >= 7  # of 10 pairs

    logits = forward(learner.policy, np.asarray(batch.obs))
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss, _ = sac.policy_loss(
        learner.policy, jax.random.key(0), batch, nets=nets, critic=learner.critic, alpha=jnp.float32(0.3), of=sac.mean
    )
    value = (prob * (each(learner.critic, batch.obs).mean(0) - 0.3 * np.log(prob))).sum(1)
    assert float(loss) == pytest.approx(-value.mean(), rel=1e-4)


def test_twins_start_different_and_targets_equal():
    learner = sac.make(sac.SACConfig(hidden=HIDDEN), Spec(Box((3,)), Box((1,), -1.0, 1.0))).init(jax.random.key(0))
    kernel = learner.critic["params"]["Dense_0"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])
    np.testing.assert_array_equal(learner.target["params"]["Dense_0"]["kernel"], kernel)


def learn(probe: str, continuous: bool, updates: int = 600):
    """SAC with a low initial temperature on a probe: (mean Q of an observation and action, policy, report)."""
    env = PROBES[probe](continuous)
    env = env._replace(spec=env.spec._replace(time_limit=2))
    cfg = sac.SACConfig(hidden=HIDDEN, batch=64, lr=5e-3, gamma=0.9, tau=0.05, alpha=1e-3, target_entropy=-3.0)
    if not continuous:
        cfg = sac.SACConfig(hidden=HIDDEN, batch=64, lr=5e-3, gamma=0.9, tau=0.05, alpha=1e-3, target_entropy=0.0)
    agent = sac.make(cfg, env.spec)
    loop = make_loop(agent, env, uniform(2000), LoopConfig(inner=updates, cycles=1, warmup=100, eval_episodes=20))
    state, report = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    critic = mlp(2, HIDDEN, 1) if continuous else mlp(1, HIDDEN, 2)

    def q(obs: float, action: float) -> float:
        x = jnp.array([obs, action]) if continuous else jnp.array([obs])
        out = jax.vmap(critic.apply, (0, None))(state.learner.critic, x)
        return float(jnp.mean(out[:, 0] if continuous else out[:, int(action)]))

    def policy(obs: float):
        return agent.act(jax.random.key(0), state.learner, (), jnp.array([obs]), False)[0]

    return q, policy, report


def test_probe_value_of_a_constant():
    q, _, _ = learn("constant", False)
    assert q(0, 0) == pytest.approx(1, abs=0.1)
    assert q(0, 1) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_probe_value_depends_on_the_observation():
    q, _, _ = learn("random_observation", False)
    assert q(1, 0) == pytest.approx(1, abs=0.15)
    assert q(-1, 0) == pytest.approx(-1, abs=0.15)


def test_probe_bootstrapping():
    q, _, _ = learn("delayed_reward", True, 1000)
    assert q(1, 0) == pytest.approx(1, abs=0.1)
    assert q(0, 0) == pytest.approx(0.9, abs=0.15)


@pytest.mark.slow
def test_probe_choice_of_a_discrete_action():
    q, policy, report = learn("action_reward", False)
    assert q(0, 0) == pytest.approx(1, abs=0.15)
    assert int(policy(0)) == 0
    np.testing.assert_array_equal(report.returns, 1)


@pytest.mark.slow
def test_probe_choice_of_a_continuous_action():
    _, policy, _ = learn("action_reward", True)
    assert float(policy(0)[0]) == pytest.approx(0.5, abs=0.15)


def test_probe_policy_depends_on_the_observation():
    _, policy, report = learn("observation_action_reward", False)
    assert (int(policy(1)), int(policy(-1))) == (1, 0)
    np.testing.assert_array_equal(report.returns, 1)
    _, policy, _ = learn("observation_action_reward", True, 1000)
    assert float(policy(1)[0]) == pytest.approx(0.5, abs=0.15)
    assert float(policy(-1)[0]) == pytest.approx(-0.5, abs=0.15)


@pytest.mark.parametrize(
    ("spec", "cfg", "message"),
    [
        (Spec(Box((3, 3)), Discrete(2)), {"target_entropy": 0.1}, "observations must be a vector"),
        (Spec(Box((3,)), Discrete(2)), {"target_entropy": -1.0}, "target_entropy must be at least 0 and at most 0.693"),
        (Spec(Box((3,)), Box((1,), -1.0, 1.0)), {"lr": -1.0}, "lr must be above 0"),
        (Spec(Box((3,)), Box((1,), -1.0, 1.0)), {"drawn": 3}, r"drawn must be at most critics \(2\), got 3"),
        (Spec(Box((3,)), Box((1,), -1.0, 1.0)), {"hidden": (0,)}, "hidden must be at least 1"),
    ],
)
def test_bad_settings_are_refused(spec, cfg, message):
    with pytest.raises(ValueError, match=message):
        sac.make(sac.SACConfig(**cfg), spec)
