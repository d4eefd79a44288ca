"""SAC: one update against NumPy, and the probe environments' known values."""

from __future__ import annotations

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


def test_twins_start_different_and_targets_equal():
    learner = sac.make(sac.SACConfig(hidden=HIDDEN), Spec(Box((3,)), Box((1,), -1.0, 1.0))).init(jax.random.key(0))
    kernel = learner.critic["params"]["Dense_0"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])
    np.testing.assert_array_equal(learner.target["params"]["Dense_0"]["kernel"], kernel)


def learn(probe: str, continuous: bool, turns: int = 600):
    """SAC with a small fixed share of entropy on a probe: (Q [2, ...] of an observation and action, policy)."""
    env = PROBES[probe](continuous)
    env = env._replace(spec=env.spec._replace(time_limit=2))
    cfg = sac.SACConfig(hidden=HIDDEN, batch=64, lr=5e-3, gamma=0.9, tau=0.05, alpha=1e-3, target_entropy=-3.0)
    if not continuous:
        cfg = sac.SACConfig(hidden=HIDDEN, batch=64, lr=5e-3, gamma=0.9, tau=0.05, alpha=1e-3, target_entropy=0.0)
    agent = sac.make(cfg, env.spec)
    loop = make_loop(agent, env, uniform(2000), LoopConfig(inner=turns, cycles=1, warmup=100, eval_episodes=20))
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
        (Spec(Box((3,)), Box((1,), -1.0, 1.0)), {"hidden": (0,)}, "hidden must be at least 1"),
    ],
)
def test_bad_settings_are_refused(spec, cfg, message):
    with pytest.raises(ValueError, match=message):
        sac.make(sac.SACConfig(**cfg), spec)
