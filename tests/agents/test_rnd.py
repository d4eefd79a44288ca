"""Random network distillation: its loss, bonus and statistics against NumPy, and DQN and PPO with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.agents import dqn, ppo, rnd
from mbrl_jax.agents.rnd import Distilled, RNDConfig
from mbrl_jax.agents.standardized import inner_of, with_inner
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Agent, Box, DictSpace, Discrete, Replay, Spec, Transition, no_update

SPEC = Spec(Box((3,)), Discrete(2))
CFG = RNDConfig(weight=0.5, hidden=(8,), features=4, lr=1e-2)
RNG = np.random.default_rng(3)


def rows(shape: tuple[int, ...]) -> Transition:
    obs, next_obs = RNG.normal([5.0, -1.0, 0.0], [3.0, 0.1, 1.0], (2, *shape, 3)).astype(np.float32)
    last = RNG.random(shape) < 0.2
    action = RNG.integers(0, 2, shape).astype(np.int32)
    reward = RNG.normal(size=shape).astype(np.float32)
    return Transition(*map(jnp.asarray, (obs, action, reward, 1 - last.astype(np.float32), next_obs, last)))


def replay(found: Transition) -> Replay:
    return Replay(lambda key, n: found, lambda index: found, jnp.int32(8), 8)


def nothing() -> Agent:
    return Agent(lambda key: (), lambda: (), lambda *rest: (), no_update)


def output(params: Any, x: np.ndarray) -> np.ndarray:
    """A relu network's output, written out."""
    layers = [params["params"][f"Dense_{i}"] for i in range(len(params["params"]))]
    for i, layer in enumerate(layers):
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        x = np.maximum(x, 0.0) if i < len(layers) - 1 else x
    return x


def novelty(learner: Distilled, x: np.ndarray) -> np.ndarray:
    return np.mean(np.square(output(learner.predictor, x) - output(learner.target, x)), axis=-1)


def start(cfg: RNDConfig = CFG) -> tuple[rnd.Networks, Distilled]:
    return rnd.networks(cfg, SPEC), jax.jit(rnd.distilled(nothing(), SPEC, cfg).init)(jax.random.key(0))


def test_the_loss_is_the_mean_squared_error_of_the_predictor_and_does_not_move_the_target() -> None:
    nets, learner = start()
    assert len(learner.predictor["params"]) == len(learner.target["params"]) + 1
    x = RNG.normal(size=(6, 3))
    loss, metrics = rnd.rnd_loss(learner.predictor, jnp.asarray(x, jnp.float32), nets=nets, target=learner.target)
    assert float(loss) == pytest.approx(novelty(learner, x).mean(), rel=1e-4)
    assert float(metrics["rnd_loss"]) == float(loss)
    of_target = jax.grad(lambda g: rnd.novelty(learner.predictor, jnp.ones(3), nets=nets, target=g))(learner.target)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(of_target))


@pytest.mark.parametrize("gamma", [None, 0.9])
def test_rewards_have_the_bonus_in_units_of_all_bonuses_so_far(gamma: float | None) -> None:
    nets, learner = start()
    seen, sizes = np.zeros((0, 3)), np.zeros(0)
    for _ in range(3):
        batch = rows((5, 2) if gamma else (7,))
        found, learner, scaled = rnd.rewarded(learner, batch, nets=nets, weight=0.5, gamma=gamma)
        seen = np.concatenate([seen, np.asarray(batch.next_obs, np.float64).reshape(-1, 3)])
        x = np.clip((np.asarray(batch.next_obs) - seen.mean(0)) / seen.std(0), -5, 5)
        np.testing.assert_allclose(scaled, x, rtol=1e-3, atol=1e-3)
        raw = novelty(learner, x)
        sums = raw.copy()
        if gamma:
            for t in range(1, 5):
                sums[t] += gamma * sums[t - 1] * ~np.asarray(batch.last)[t - 1]
        sizes = np.concatenate([sizes, sums.reshape(-1)])
        size = sizes.std() if gamma else np.sqrt(np.mean(sizes**2))
        np.testing.assert_allclose(found.reward, batch.reward + 0.5 * raw / size, rtol=5e-3)
        for name in ("obs", "action", "discount", "next_obs", "last"):
            np.testing.assert_array_equal(getattr(found, name), getattr(batch, name))


def test_dqn_learns_from_the_rows_with_the_bonus_and_the_predictor_from_their_observations() -> None:
    cfg = dqn.DQNConfig(hidden=(8,), batch=7)
    plain, curious = dqn.make(cfg, SPEC), dqn.make(replace(cfg, {"explorer": "rnd"} | settings(CFG)), SPEC)
    nets, batch = rnd.networks(CFG, SPEC), rows((7,))
    before = jax.jit(curious.init)(jax.random.key(0))
    after, metrics, _ = jax.jit(lambda b, r: curious.update(jax.random.key(1), b, replay(r)))(before, batch)
    by_hand, _, scaled = rnd.rewarded(before, batch, nets=nets, weight=0.5)
    expected = jax.jit(lambda b, r: plain.update(jax.random.key(1), b, replay(r)))(before.inner, by_hand)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), after.inner, expected)
    assert float(metrics["bonus"]) == pytest.approx(float(jnp.mean(by_hand.reward - batch.reward)), rel=1e-4)
    grads = jax.grad(lambda f: rnd.rnd_loss(f, scaled, nets=nets, target=before.target)[0])(before.predictor)
    adam = optax.adam(1e-2)
    moved = optax.apply_updates(before.predictor, adam.update(grads, adam.init(before.predictor))[0])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), after.predictor, moved)
    jax.tree.map(np.testing.assert_array_equal, after.target, before.target)


def settings(cfg: RNDConfig) -> dict[str, Any]:
    return {f"rnd.{name}": getattr(cfg, name) for name in ("weight", "hidden", "features", "lr", "steps")}


def test_what_is_seen_often_loses_its_bonus() -> None:
    cfg = RNDConfig(hidden=(32,), features=8, lr=3e-3, steps=20)
    agent = rnd.distilled(Agent(lambda key: (), lambda: (), no_act, drawing), SPEC, cfg)
    nets, familiar = rnd.networks(cfg, SPEC), rows((64,))

    @jax.jit
    def train(key: Any) -> tuple[Distilled, Any]:
        step = lambda learner, key: agent.update(key, learner, replay(familiar))[:2]  # noqa: E731
        return jax.lax.scan(step, agent.init(key), jax.random.split(key, 30))

    learner, metrics = train(jax.random.key(0))
    assert float(metrics["rnd_loss"][-1]) < 0.05 * float(metrics["rnd_loss"][0])
    x = (familiar.next_obs - learner.obs.mean) / jnp.sqrt(learner.obs.var)
    of = jax.vmap(lambda obs: rnd.novelty(learner.predictor, obs, nets=nets, target=learner.target))
    assert float(of(x + 3.0).mean()) > 20 * float(of(x).mean())


def no_act(key: Any, learner: Any, carry: Any, obs: Any, explore: bool) -> Any:
    return jnp.int32(0), carry, ()


def drawing(key: Any, learner: Any, replay: Replay) -> Any:
    replay.sample(key, 64)
    return learner, {}, ()


def test_without_the_explorer_nothing_of_it_is_there() -> None:
    for module in (dqn, ppo):
        cfg = {dqn: dqn.DQNConfig, ppo: ppo.PPOConfig}[module](hidden=(8,))
        plain = jax.eval_shape(module.make(cfg, SPEC).init, jax.random.key(0))
        curious = jax.eval_shape(module.make(replace(cfg, {"explorer": "rnd"}), SPEC).init, jax.random.key(0))
        assert isinstance(plain, module.Learner)
        assert isinstance(curious, Distilled)
        assert jax.tree.structure(inner_of(curious)) == jax.tree.structure(plain)
        assert with_inner(curious, "other") == curious._replace(inner="other")


def test_scaled_images_reach_the_networks_as_they_are() -> None:
    shape = (5, 5, 2)
    planes, image = (rnd.networks(CFG, Spec(Box(shape, 0, 255, kind), Discrete(2))) for kind in (np.float32, np.uint8))
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    params = planes.target.init(jax.random.key(0))
    np.testing.assert_allclose(image.target.apply(params, x), planes.target.apply(params, x), rtol=1e-4, atol=1e-6)


def test_observations_of_several_arrays_are_refused() -> None:
    spec = Spec(DictSpace({"a": Box((2,)), "b": Box((3,))}), Discrete(2))
    with pytest.raises(ValueError, match="explorer must be none for environment, whose observations are no single"):
        ppo.make(ppo.PPOConfig(explorer="rnd"), spec)
    with pytest.raises(ValueError, match=r"rnd\.weight must be at least 0"):
        dqn.make(replace(dqn.DQNConfig(), {"rnd.weight": -1.0}), SPEC)
    with pytest.raises(ValueError, match="explorer must be one of none, rnd, got 'disagreement'"):
        dqn.make(dqn.DQNConfig(explorer="disagreement"), SPEC)
