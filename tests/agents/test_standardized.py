"""Agents behind scaled observations and rewards: the same as the agent on rows that were scaled by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import dqn, muzero, ppo, sac, tdmpc2
from mbrl_jax.agents.dreamer import v1, v2, v3
from mbrl_jax.agents.standardized import (
    Standardized,
    has_units,
    inner_of,
    standardized,
    with_inner,
)
from mbrl_jax.buffers.sequence import Step, Window
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Agent, Box, Discrete, Replay, Spec, Transition
from mbrl_jax.ops.running import Running

LOW, HIGH = np.array([-50.0, -3.0], np.float32), np.array([50.0, 3.0], np.float32)
SPEC = Spec(Box((2,), LOW, HIGH), Discrete(3))
RNG = np.random.default_rng(1)


def batch(shape: tuple[int, ...], action: Any) -> Transition:
    obs = RNG.normal([20.0, 1.0], [9.0, 0.2], (*shape, 2)).astype(np.float32)
    next_obs = RNG.normal([21.0, 1.0], [9.0, 0.2], (*shape, 2)).astype(np.float32)
    reward = RNG.normal(3_000.0, 400.0, shape).astype(np.float32)
    last = RNG.random(shape) < 0.2
    rows = (obs, action, reward, np.where(last, 0.0, 1.0).astype(np.float32), next_obs, last)
    return Transition(*(jnp.asarray(row) for row in rows))


def replay(rows: Transition) -> Replay:
    return Replay(lambda key, n: rows, lambda index: rows, jnp.int32(8), 8)


@pytest.mark.parametrize("module", [pytest.param(sac, marks=pytest.mark.slow), dqn])
def test_updates_are_those_on_rows_scaled_by_hand(module: Any) -> None:
    config = {sac: sac.SACConfig, dqn: dqn.DQNConfig}[module]
    sizes = {"hidden": (8,), "batch": 16} | ({"target_entropy": 0.5} if module is sac else {})
    plain = module.make(config(**sizes), SPEC)
    scaled = module.make(config(**sizes, normalize_obs=True, scale_rewards=True), SPEC)
    learner, by_hand = scaled.init(jax.random.key(0)), plain.init(jax.random.key(0))
    mean, std = np.zeros(2), np.ones(2)
    seen_obs, seen_rewards = [], []
    for i in range(3):
        rows = batch((16,), RNG.integers(3, size=16).astype(np.int32))
        seen_obs.append(np.asarray(rows.obs))
        seen_rewards.append(np.asarray(rows.reward))
        rms = np.sqrt(np.mean(np.square(np.concatenate(seen_rewards).astype(np.float64))))
        hand = rows._replace(
            obs=jnp.asarray(np.clip((rows.obs - mean) / std, -10, 10), jnp.float32),
            next_obs=jnp.asarray(np.clip((rows.next_obs - mean) / std, -10, 10), jnp.float32),
            reward=jnp.asarray(rows.reward / rms, jnp.float32),
        )
        learner, metrics, _ = scaled.update(jax.random.key(i), learner, replay(rows))
        by_hand, expected, _ = plain.update(jax.random.key(i), by_hand, replay(hand))
        mean, std = np.concatenate(seen_obs).mean(0), np.concatenate(seen_obs).std(0)
        np.testing.assert_allclose(metrics.pop("reward_scale"), rms, rtol=1e-5)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=f"{name} of update {i}")
    obs = jnp.array([30.0, 0.5])
    same = jnp.asarray((obs - mean) / std, jnp.float32)
    for seed in range(5):
        action, *_ = scaled.act(jax.random.key(seed), learner, (), obs, True)
        np.testing.assert_array_equal(action, plain.act(jax.random.key(seed), by_hand, (), same, True)[0])


def test_ppo_learns_from_the_observations_that_it_acted_on() -> None:
    """The stored log-probability is of the policy on observations as they were scaled then: the first ratio is 1."""
    sizes: dict[str, Any] = {"hidden": (8,), "epochs": 1, "minibatches": 1}
    agent = ppo.make(ppo.PPOConfig(**sizes, normalize_obs=True, scale_rewards=True), SPEC)
    learner = agent.init(jax.random.key(0))
    for i in range(3):
        rows = batch((6, 4), np.zeros((6, 4), np.int32))
        act = jax.vmap(jax.vmap(agent.act, (0, None, None, 0, None)), (0, None, None, 0, None))
        action, _, extras = act(jax.random.split(jax.random.key(i), (6, 4)), learner, (), rows.obs, True)
        rows = rows._replace(action=action, extras=extras)
        learner, metrics, _ = agent.update(jax.random.key(i), learner, replay(rows))
        np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)
    assert float(metrics["reward_scale"]) > 100.0


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Box((2,), LOW, HIGH), True),
        (Box((2,), -np.inf, np.inf), True),
        (Box((2,), -1.0, 1.0), False),
        (Box((4,), 0.0, 1.0), False),
        (Box((8, 8, 3), 0, 255, jnp.uint8), False),
        (Discrete(5), False),
    ],
)
def test_what_has_units(space: Any, expected: bool) -> None:
    assert has_units(SPEC._replace(obs=space)) is expected


def test_asking_for_nothing_gives_the_agent_itself() -> None:
    agent = sac.make(sac.SACConfig(hidden=(8,), target_entropy=0.5), SPEC)
    assert standardized(agent, SPEC, obs=False, rewards=False) is agent
    inside: Agent = standardized(agent, SPEC._replace(obs=Box((2,), 0.0, 1.0)), obs=True, rewards=False)
    assert inside is agent
    assert isinstance(standardized(agent, SPEC, obs=True, rewards=False).init(jax.random.key(0)), Standardized)


def test_deep_dyna_counts_real_updates_alone_also_behind_statistics():
    """Epsilon falls with the updates on real rows, whatever the policy sees the world through."""
    sizes: dict[str, Any] = {"hidden": (4,), "batch": 4, "normalize_obs": True, "scale_rewards": True}
    policy = dqn.make(dqn.DQNConfig(**sizes), SPEC)
    rows = batch((4,), np.zeros(4, np.int32))
    learner = policy.init(jax.random.key(0))
    for i in range(3):
        learner, *_ = policy.update(jax.random.key(i), learner, replay(rows))
    assert int(inner_of(learner).updates) == 3
    again = with_inner(learner, inner_of(learner)._replace(updates=jnp.int32(1)))
    assert isinstance(again, Standardized)
    assert (int(inner_of(again).updates), float(again.reward.rows)) == (1, 12.0)  # pyright: ignore
    plain = inner_of(learner)
    assert with_inner(plain, plain) is plain


# Agents that learn from windows --------------------------------------------------------------------------------------

SCALED = jnp.array([1.0, -1.0])
PUSH = SPEC._replace(action=Box((1,), -1.0, 1.0))
RSSM = {"net.deter": 8, "net.units": 8, "net.stoch": 2, "net.layers": 1, "batch": 4, "length": 6, "imagined": 2}
WINDOWED: dict[str, tuple[Any, Any, dict[str, Any], Spec]] = {
    "v1": (v1, v1.DreamerV1Config, RSSM, PUSH),
    "v2": (v2, v2.DreamerV2Config, RSSM | {"net.classes": 2, "reward_scale": 0.5}, SPEC),
    "v3": (v3, v3.DreamerV3Config, {"batch": 4, "length": 4, "imagined": 2, "context": False, "online": False}, SPEC),
    "tdmpc2": (tdmpc2, tdmpc2.TDMPC2Config, {"net.size": "nano", "batch": 4}, PUSH),
    "muzero": (
        muzero, muzero.MuZeroConfig,
        {"net.latent": 8, "net.hidden": (8,), "batch": 4, "unroll": 2, "n_steps": 2, "bootstrap": "network"}, SPEC,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWED)
def test_agents_that_learn_from_windows_keep_statistics_where_they_are_asked_to(name: str) -> None:
    module, config, sizes, spec = WINDOWED[name]
    rewards = {} if name == "v3" else {"scale_rewards": True}  # symlog and the range of returns do it there
    asked = replace(config(), sizes | {"normalize_obs": True} | rewards)
    learner = jax.eval_shape(module.make(asked, spec).init, jax.random.key(0))
    plain = jax.eval_shape(module.make(replace(config(), sizes), spec).init, jax.random.key(0))
    assert isinstance(learner, Standardized)
    assert not isinstance(plain, Standardized)
    assert jax.tree.structure(learner.inner) == jax.tree.structure(plain)
    assert isinstance(learner.obs, Running)
    assert learner.obs.mean.shape == (2,)
    assert isinstance(learner.reward, Running) == bool(rewards)


def test_windows_are_scaled_as_rows_are() -> None:
    """An agent that gives back the windows that it learns from; what it stored beside them stays as it is."""
    shape = (3, 4)
    agent = Agent(
        lambda key: (), lambda: (), lambda key, learner, carry, obs, explore: (obs, carry, ()),
        lambda key, learner, view: (learner, {}, view.sample(key, 4)),
    )  # fmt: skip
    scaled = standardized(agent, SPEC, obs=True, rewards=True)
    learner, mean, std = scaled.init(jax.random.key(0)), np.zeros(2), np.ones(2)
    obs, rewards = [], []
    for i in range(3):
        rows = batch(shape, np.zeros(shape, np.int32))
        steps = Step(rows.obs, rows.action, rows.reward, rows.discount, rows.last, rows.last, rows.reward)
        window = Window(steps, jnp.arange(4, dtype=jnp.int32), jnp.arange(4.0))
        learner, metrics, seen = scaled.update(jax.random.key(i), learner, Replay(lambda key, n: window, None, 8, 8))  # pyright: ignore # noqa: B023
        obs.append(np.asarray(steps.obs).reshape(-1, 2))
        rewards.append(np.asarray(steps.reward, np.float64).ravel())
        rms = np.sqrt(np.mean(np.square(np.concatenate(rewards))))
        np.testing.assert_allclose(metrics["reward_scale"], rms, rtol=1e-5)
        np.testing.assert_allclose(seen.steps.reward, steps.reward / rms, rtol=1e-5)
        np.testing.assert_allclose(seen.steps.obs, np.clip((steps.obs - mean) / std, -10, 10), rtol=1e-3, atol=1e-4)
        for kept in ("action", "discount", "first", "last", "extras"):
            np.testing.assert_array_equal(getattr(seen.steps, kept), getattr(steps, kept))
        np.testing.assert_array_equal(seen.weight, window.weight)
        mean, std = np.concatenate(obs).mean(0), np.concatenate(obs).std(0)


@pytest.mark.parametrize("name", WINDOWED)
def test_what_is_learned_comes_back_in_the_units_of_the_environment(name: str) -> None:
    module, config, sizes, spec = WINDOWED[name]
    cfg = replace(config(), sizes)
    inner = module.make(cfg, spec).init(jax.random.key(0))
    of_obs = Running(jnp.float32(9), jnp.array([20.0, 1.0]), jnp.array([81.0, 0.04]))
    of_reward = Running(jnp.float32(9), jnp.float32(3.0), jnp.float32(16.0))  # root mean square 5
    learner = Standardized(inner, of_obs, of_reward)
    obs, key = jnp.array([29.0, 0.8]), jax.random.key(1)  # scaled: [1, -1]
    action = jnp.int32(1) if isinstance(spec.action, Discrete) else jnp.array([0.3])
    plain, scaled = module.learned_model(cfg, spec, inner), module.learned_model(cfg, spec, learner)
    state = scaled.encode(key, obs)
    for got, expected in zip(jax.tree.leaves(state), jax.tree.leaves(plain.encode(key, SCALED)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    own, units = plain.model.step(key, state, action), scaled.model.step(key, state, action)
    np.testing.assert_allclose(units.reward, 5.0 * own.reward, rtol=1e-5)
    np.testing.assert_array_equal(units.discount, own.discount)
    if plain.model.value is not None:
        np.testing.assert_allclose(scaled.model.value(key, state), 5.0 * plain.model.value(key, state), rtol=1e-5)
    if not hasattr(module, "open_loop_model"):
        return
    looked, inside = (module.open_loop_model(cfg, spec, one) for one in (learner, inner))
    if looked.show is None:
        there = np.asarray(inside.decode(state)) * [9.0, 0.2] + [20.0, 1.0]
        np.testing.assert_allclose(looked.decode(state), there, rtol=1e-4)
    else:
        np.testing.assert_allclose(looked.show(obs), inside.show(SCALED), rtol=1e-3, atol=1e-5)


def test_a_factor_on_rewards_is_taken_back_by_the_model() -> None:
    """DreamerV2 with rewards x 0.5: its model's rewards are twice what it has learned."""
    cfg = replace(v2.DreamerV2Config(), RSSM | {"net.classes": 2})
    learner = v2.make(cfg, SPEC).init(jax.random.key(0))
    one, half = (v2.learned_model(replace(cfg, {"reward_scale": x}), SPEC, learner) for x in (1.0, 0.5))
    state = one.encode(jax.random.key(1), jnp.array([1.0, 2.0]))
    step = jax.random.key(2), state, jnp.int32(0)
    reward = float(one.model.step(*step).reward)
    assert reward != 0.0
    np.testing.assert_allclose(half.model.step(*step).reward, 2.0 * reward, rtol=1e-6)
