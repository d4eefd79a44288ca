"""PPO: one update against its equations, its first minibatch, and the probe environments' known values."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import ppo
from mbrl_jax.buffers.latest import latest
from mbrl_jax.core import Box, Discrete, Replay, Spec, Transition
from mbrl_jax.envs.probes import PROBES
from mbrl_jax.nets.conv import network
from mbrl_jax.train.loop import LoopConfig, make_loop

STEPS, ENVS, HIDDEN = 4, 3, (8,)
ACTIONS = {"discrete": Discrete(3), "continuous": Box((2,), -1.0, 1.0)}
kinds = pytest.mark.parametrize("kind", list(ACTIONS))


def trajectory(kind: str, rng: Any) -> Transition:
    """[T, N] random rows: one termination, one truncation, and old log-probabilities of no policy in particular."""
    obs, next_obs = rng.normal(size=(2, STEPS, ENVS, 5)).astype(np.float32)
    action = rng.integers(0, 3, (STEPS, ENVS)) if kind == "discrete" else 1.5 * rng.normal(size=(STEPS, ENVS, 2))
    discount: Any = np.ones((STEPS, ENVS), np.float32)
    last: Any = np.zeros((STEPS, ENVS), bool)
    discount[1, 0], last[1, 0], last[2, 1] = 0, True, True
    reward = rng.normal(size=(STEPS, ENVS)).astype(np.float32)
    old = rng.normal(-1.1 if kind == "discrete" else -3.0, 0.4, (STEPS, ENVS)).astype(np.float32)
    action = jnp.asarray(action, ACTIONS[kind].dtype)
    return Transition(obs, jnp.clip(action, -1, 1), reward, discount, next_obs, last, ppo.Extras(action, old))


def advantages(v, v_next, rows, gamma, lam):
    """The sums of each environment's errors up to where its episode ends."""
    out = np.zeros((STEPS, ENVS))
    for n in range(ENVS):
        later = 0.0
        for t in reversed(range(STEPS)):
            d = gamma * rows.discount[t, n]
            error = rows.reward[t, n] + d * v_next[t, n] - v[t, n]
            later = error + (0 if rows.last[t, n] else d * lam * later)
            out[t, n] = later
    return out.reshape(-1)


def forward(params, x):
    layers = params["params"]
    x = jnp.tanh(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    return x @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]


def log_prob_and_entropy(kind, policy, obs, action):
    if kind == "discrete":
        logits = forward(policy, obs)
        p = jnp.exp(logits) / jnp.exp(logits).sum(1, keepdims=True)
        return jnp.log(p)[np.arange(len(obs)), action], -(p * jnp.log(p)).sum(1)
    mean, log_std = forward(policy["mean"], obs), policy["log_std"]
    density = -0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return density.sum(1), jnp.full(len(obs), (log_std + 0.5 * np.log(2 * np.pi * np.e)).sum())


@kinds
def test_one_update_is_the_equations(kind):
    """All metrics, and the parameters after one Adam step along the gradient scaled down to norm 0.05."""
    cfg = ppo.PPOConfig(hidden=HIDDEN, lr=1e-2, gamma=0.9, lam=0.7, epochs=1, minibatches=1, max_grad_norm=0.05)
    agent = ppo.make(cfg, Spec(Box((5,)), ACTIONS[kind]))
    rows = trajectory(kind, np.random.default_rng(0))
    old = jax.jit(agent.init)(jax.random.key(0))
    old = old._replace(policy=jax.tree.map(lambda p: p + 0.1 * np.cos(np.arange(p.size)).reshape(p.shape), old.policy))
    new, metrics, feedback = jax.jit(
        lambda key, learner: agent.update(key, learner, latest(STEPS, ENVS).replay(jax.tree.map(jnp.asarray, rows)))
    )(jax.random.key(1), old)

    v, v_next = (np.asarray(forward(old.value, x))[..., 0] for x in (rows.obs, rows.next_obs))
    raw = advantages(v, v_next, rows, 0.9, 0.7)
    target = raw + v.reshape(-1)
    scaled = (raw - raw.mean()) / raw.std()
    obs, action, before = (np.asarray(x).reshape(STEPS * ENVS, *x.shape[2:]) for x in (rows.obs, *rows.extras))

    def loss(params):
        log_prob, entropy = log_prob_and_entropy(kind, params[0], obs, action)
        ratio = jnp.exp(log_prob - before)
        chosen = jnp.where(scaled > 0, jnp.minimum(ratio, 1.2), jnp.maximum(ratio, 0.8)) * scaled
        value_loss = 0.5 * jnp.mean((forward(params[1], obs)[:, 0] - target) ** 2)
        policy_loss, entropy = -jnp.mean(chosen), jnp.mean(entropy)
        return policy_loss + 0.5 * value_loss - 0.01 * entropy, (policy_loss, value_loss, entropy, ratio)

    grads, (policy_loss, value_loss, entropy, ratio) = jax.grad(loss, has_aux=True)((old.policy, old.value))
    ratio = np.asarray(ratio, np.float64)
    for past, sign in [(ratio > 1.2, 1), (ratio > 1.2, -1), (ratio < 0.8, 1), (ratio < 0.8, -1)]:
        assert (past & (np.sign(scaled) == sign)).any()  # the rows hold both sides of the clip with both signs
    expected = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "kl": (ratio - 1 - np.log(ratio)).mean(),
        "clip_fraction": ((ratio > 1.2) | (ratio < 0.8)).mean(),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4), name
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads)))
    assert norm > 0.05
    before_after = zip(*map(jax.tree.leaves, ((old.policy, old.value), grads, (new.policy, new.value))), strict=True)
    for p, g, after in before_after:
        g = g * 0.05 / norm
        np.testing.assert_allclose(after, p - 1e-2 * g / (np.abs(g) + 1e-5), rtol=1e-3, atol=1e-5)
    assert feedback == ()


def test_advantages_are_normalised():
    x = np.array([1.0, 2.0, 6.0], np.float32)
    np.testing.assert_allclose(ppo.normalised(jnp.asarray(x)), (x - 3) / np.sqrt(14 / 3), rtol=1e-5)
    np.testing.assert_array_equal(ppo.normalised(jnp.full(4, 2.0)), 0)


@kinds
def test_losses_are_the_equations(kind):
    """Each loss alone, on rows of given advantages and returns."""
    cfg, spec = ppo.PPOConfig(hidden=HIDDEN), Spec(Box((5,)), ACTIONS[kind])
    nets, learner = ppo.networks(cfg, spec), jax.jit(ppo.make(cfg, spec).init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    moved = trajectory(kind, rng)
    obs, action, before = (np.asarray(x).reshape(STEPS * ENVS, *x.shape[2:]) for x in (moved.obs, *moved.extras))
    advantage, target = rng.normal(size=(2, STEPS * ENVS)).astype(np.float32)
    batch = ppo.Row(*map(jnp.asarray, (obs, action, before, advantage, target)))

    log_prob, entropy = log_prob_and_entropy(kind, learner.policy, obs, action)
    ratio, scaled = np.exp(log_prob - before), (advantage - advantage.mean()) / advantage.std()
    chosen = np.where(scaled > 0, np.minimum(ratio, 1.1), np.maximum(ratio, 0.9)) * scaled
    surrogate, metrics = ppo.policy_loss(learner.policy, batch, nets=nets, clip=0.1)
    np.testing.assert_allclose(surrogate, -chosen.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["entropy"], entropy.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], (np.abs(ratio - 1) > 0.1).mean(), rtol=1e-6)

    error, metrics = ppo.value_loss(learner.value, batch, nets=nets)
    expected = 0.5 * np.mean((np.asarray(forward(learner.value, obs))[:, 0] - target) ** 2)
    np.testing.assert_allclose([error, metrics["value_loss"]], [expected] * 2, rtol=1e-4)

    whole, metrics = ppo.ppo_loss(
        (learner.policy, learner.value), batch, nets=nets, clip=0.1, value_weight=0.7, entropy_weight=0.2
    )
    np.testing.assert_allclose(whole, -chosen.mean() + 0.7 * expected - 0.2 * entropy.mean(), rtol=1e-4)
    assert set(metrics) == {"policy_loss", "value_loss", "entropy", "kl", "clip_fraction"}


def test_advantages_and_returns_of_a_trajectory():
    cfg, spec = ppo.PPOConfig(hidden=HIDDEN), Spec(Box((5,)), ACTIONS["discrete"])
    nets, rows = ppo.networks(cfg, spec), trajectory("discrete", np.random.default_rng(2))
    value = jax.jit(nets.value.init)(jax.random.key(0))
    v, v_next = (np.asarray(forward(value, x))[..., 0] for x in (rows.obs, rows.next_obs))
    estimates, returns = ppo.advantages(value, jax.tree.map(jnp.asarray, rows), nets=nets, gamma=0.9, lam=0.7)
    np.testing.assert_allclose(estimates.reshape(-1), advantages(v, v_next, rows, 0.9, 0.7), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(returns, estimates + v, rtol=1e-5, atol=1e-6)


@pytest.mark.optimized  # clips to the same bits
@kinds
def test_what_is_acted_is_what_is_learned_from(kind):
    """`act` gives the environment the clipped action and remembers the sampled one with its log-probability."""
    agent = ppo.make(ppo.PPOConfig(hidden=HIDDEN), Spec(Box((5,)), ACTIONS[kind]))
    learner = jax.jit(agent.init)(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (64, 5))
    act = jax.jit(
        lambda key, explore: jax.vmap(lambda k, o: agent.act(k, learner, (), o, explore))(
            jax.random.split(key, 64), obs
        ),
        static_argnums=1,
    )
    action, _, extras = act(jax.random.key(2), True)
    expected, _ = log_prob_and_entropy(kind, learner.policy, obs, extras.action)
    np.testing.assert_allclose(extras.log_prob, expected, rtol=1e-4, atol=1e-5)
    if kind == "discrete":
        np.testing.assert_array_equal(action, extras.action)
        np.testing.assert_array_equal(act(jax.random.key(2), False)[0], jnp.argmax(forward(learner.policy, obs), 1))
    else:
        assert (np.abs(extras.action) > 1).any()
        np.testing.assert_array_equal(action, np.clip(extras.action, -1, 1))
        mean = forward(learner.policy["mean"], obs)
        np.testing.assert_allclose(act(jax.random.key(2), False)[0], mean, rtol=1e-4, atol=1e-6)


def test_first_minibatch_has_ratio_one_and_later_ones_move_away():
    cfg = ppo.PPOConfig(hidden=HIDDEN, lr=0.1, clip=0.02, epochs=1, minibatches=1)
    agent = ppo.make(cfg, Spec(Box((4, 4, 2), dtype=bool), Discrete(3)))
    obs = jnp.asarray(np.random.default_rng(0).random((STEPS, ENVS, 4, 4, 2)) < 0.5)
    learner = jax.jit(agent.init)(jax.random.key(0))
    act = jax.jit(jax.vmap(jax.vmap(lambda key, obs: agent.act(key, learner, (), obs, True))))
    action, _, extras = act(jax.random.split(jax.random.key(1), (STEPS, ENVS)), obs)
    reward, ones = (action == 0).astype(jnp.float32), jnp.ones((STEPS, ENVS))
    replay = latest(STEPS, ENVS).replay(Transition(obs, action, reward, 0 * ones, obs, ones > 0, extras))
    update = jax.jit(lambda key, learner: agent.update(key, learner, replay)[:2])
    learner, first = update(jax.random.key(2), learner)
    assert float(first["kl"]) == pytest.approx(0, abs=1e-9)
    assert float(first["clip_fraction"]) == 0
    assert float(first["policy_loss"]) == pytest.approx(0, abs=1e-6)  # the mean of normalised advantages
    _, later = update(jax.random.key(3), learner)
    assert float(later["kl"]) > 1e-3
    assert float(later["clip_fraction"]) > 0


@cache
def learn(probe: str, continuous: bool, updates: int = 150):
    """PPO on a probe: (V of an observation, the policy's mode in one, evaluation returns)."""
    env = PROBES[probe](continuous)
    env = env._replace(spec=env.spec._replace(time_limit=2))
    cfg = ppo.PPOConfig(hidden=(16,), lr=1e-2, gamma=0.9, epochs=2, minibatches=2, entropy_weight=1e-3)
    agent = ppo.make(cfg, env.spec)
    clocks = LoopConfig(num_envs=16, unroll=4, inner=updates, cycles=1, warmup=0, eval_episodes=20)
    loop = make_loop(agent, env, latest(4, 16), clocks)
    state, report = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    net = network(env.spec.obs, (16,), 1, "tanh")

    def value(obs: float) -> float:
        return float(net.apply(state.learner.value, jnp.array([obs]))[0])

    def policy(obs: float):
        return agent.act(jax.random.key(0), state.learner, (), jnp.array([obs]), False)[0]

    return value, policy, report.returns


def test_probe_bootstrapping():
    value, _, returns = learn("delayed_reward", True)
    assert value(1) == pytest.approx(1, abs=0.05)
    assert value(0) == pytest.approx(0.9, abs=0.05)
    np.testing.assert_array_equal(returns, 1)


def test_probe_policy_depends_on_the_observation():
    value, policy, returns = learn("observation_action_reward", False)
    assert (int(policy(1)), int(policy(-1))) == (1, 0)
    assert value(1) == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(returns, 1)


def test_probe_continuous_policy_depends_on_the_observation():
    _, policy, returns = learn("observation_action_reward", True, 300)
    assert float(policy(1)[0]) == pytest.approx(0.5, abs=0.15)
    assert float(policy(-1)[0]) == pytest.approx(-0.5, abs=0.15)
    assert returns.mean() > -0.02


def test_rows_that_do_not_divide_are_refused_when_traced():
    agent = ppo.make(ppo.PPOConfig(hidden=HIDDEN, minibatches=5), Spec(Box((5,)), Discrete(3)))
    rows = jax.tree.map(jnp.asarray, trajectory("discrete", np.random.default_rng(0)))
    replay: Replay = latest(STEPS, ENVS).replay(rows)
    with pytest.raises(ValueError, match="minibatches must divide the trajectory's 12 rows, got 5"):
        jax.eval_shape(lambda key: agent.update(key, agent.init(key), replay), jax.random.key(0))


@pytest.mark.parametrize(
    ("spec", "cfg", "message"),
    [
        (Spec(Box((3, 3)), Discrete(2)), {}, "observations must be a vector or an image"),
        (Spec(Box((3,)), Box((1,), -2.0, 2.0)), {}, r"actions must be a vector in \[-1, 1\]"),
        (Spec(Box((3,)), Discrete(2)), {"clip": 0.0}, "clip must be above 0, got 0"),
        (Spec(Box((3,)), Discrete(2)), {"lam": 1.5}, "lam must be at least 0 and at most 1, got 1.5"),
        (Spec(Box((3,)), Discrete(2)), {"activation": "gelu"}, "activation must be one of relu"),
    ],
)
def test_bad_settings_are_refused(spec, cfg, message):
    with pytest.raises(ValueError, match=message):
        ppo.make(ppo.PPOConfig(**cfg), spec)
