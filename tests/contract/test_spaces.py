"""Vectors of discrete actions and observations that are a dict: agents take them, or refuse them in one line."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import contract

from mbrl_jax import presets
from mbrl_jax.core import Box, DictSpace, Discrete, Env, MultiDiscrete, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.loop import Loop

PIXELS: dict[str, dict[str, Any]] = {
    "ppo": {"channels": 2}, **{f"dreamer_v{i}": {"net.depth": 2} for i in (1, 2, 3)},
}  # fmt: skip
FACTORED = [name for name, entry in presets.AGENTS.items() if entry.factored]
DICTS = [name for name, entry in presets.AGENTS.items() if entry.dicts]
QUICK = ("ppo",)


def params(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def learns(loop: Loop) -> Any:
    state = jax.jit(loop.init)(jax.random.key(0))
    chunk, before = jax.jit(loop.chunk, donate_argnums=0), jax.tree.map(np.asarray, state.learner)
    for _ in range(2):
        state, report = chunk(state)
        assert all(np.isfinite(value) for value in report.metrics.values())
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, state.learner)), strict=True)]
    assert np.mean(moved) > 0.7
    return state


@pytest.mark.parametrize("algo", params(FACTORED))
def test_vectors_of_discrete_actions_are_learned(algo):
    env = wrappers.time_limit(make_env("Reach"), 4)
    state = learns(presets.build(algo, env, contract.settings(algo), contract.LOOP))
    stored = getattr(state.buffer, "steps", getattr(state.buffer, "rows", state.buffer))
    if algo != "ppo":
        assert (stored.action.dtype, stored.action.shape[1:]) == (jnp.int32, (2,))
        assert set(np.unique(stored.action)) == {0, 1, 2}


@pytest.mark.parametrize("algo", params([name for name in DICTS if name != "dqn"]))
def test_dicts_are_learned(algo):
    env = wrappers.time_limit(make_env("Reach-seen"), 4)
    cfg = replace(contract.settings(algo), PIXELS.get(algo, {}))
    learns(presets.build(algo, env, cfg, contract.LOOP))


def dict_env(spaces: dict[str, Any], obs: Any, action: Any = Discrete(2)) -> Env:
    def step(key, state, action):
        return state, obs, jnp.ones(()), jnp.ones(()), jnp.zeros((), bool)

    spec = Spec(DictSpace(spaces), action, time_limit=4, name="dict")
    return wrappers.time_limit(Env(spec, lambda key: (jnp.zeros(()), obs), step), 4)


EVERY = {
    "scalar": Box(()), "grid": Box((2, 3), 0, 9, jnp.int32), "number": Discrete(3), "numbers": MultiDiscrete((2, 3)),
    "planes": Box((4, 4, 1)), "vector": Box((2,)),
}  # fmt: skip
VALUES = {
    "scalar": jnp.float32(7), "grid": jnp.arange(6).reshape(2, 3), "number": jnp.int32(1),
    "numbers": jnp.array([1, 2]), "planes": jnp.ones((4, 4, 1)), "vector": jnp.array([3.0, 4.0]),
}  # fmt: skip


def test_each_array_of_a_dict_gets_the_form_that_networks_take():
    env = presets.suited("ppo", dict_env(EVERY, VALUES))
    obs = env.reset(jax.random.key(0))[1]
    np.testing.assert_array_equal(obs["scalar"], [7.0])
    np.testing.assert_array_equal(obs["grid"], np.arange(6.0))
    np.testing.assert_array_equal(obs["number"], [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(obs["numbers"], [0.0, 1.0, 0.0, 0.0, 1.0])
    assert obs["planes"].shape == (4, 4, 1)
    assert isinstance(env.spec.obs, DictSpace)
    for name, space in env.spec.obs.spaces.items():
        assert (obs[name].shape, obs[name].dtype) == (space.shape, jnp.float32)
    flat = wrappers.by_leaf(dict_env(EVERY, VALUES)).reset(jax.random.key(0))[1]
    assert flat["planes"].shape == (16,)


def test_a_dict_is_seen_whole():
    """The outputs of every network depend on every array of the dict."""
    env = presets.suited("dqn", dict_env(EVERY, VALUES))
    agent = presets.AGENTS["dqn"].make(contract.settings("dqn"), env.spec)
    learner = agent.init(jax.random.key(0))
    from mbrl_jax.nets.conv import network

    net = network(env.spec.obs, (16,), 2)
    params = net.init(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(network(env.spec.obs, (16,), 2).init(jax.random.key(1)))
    obs = env.reset(jax.random.key(0))[1]
    slopes = jax.grad(lambda obs: jnp.sum(net.apply(params, obs) ** 2))(obs)
    assert all(np.abs(slope).sum() > 0 for slope in slopes.values())
    assert agent.act(jax.random.key(0), learner, (), obs, False)[0].shape == ()


@pytest.mark.parametrize("algo", [name for name, entry in presets.AGENTS.items() if not entry.factored])
def test_other_agents_refuse_vectors_of_discrete_actions(algo):
    with pytest.raises(ValueError, match=r"env must have .* actions for .*, got Reach with MultiDiscrete") as refusal:
        presets.suited(algo, make_env("Reach"))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith("take vectors of discrete ones")


@pytest.mark.parametrize("algo", [n for n, entry in presets.AGENTS.items() if not (entry.dicts or entry.simulator)])
def test_other_agents_refuse_dicts(algo):
    action = Discrete(2) if "discrete" in presets.AGENTS[algo].action_kinds else Box((1,), -1.0, 1.0)
    env = dict_env({"a": Box((2,)), "b": Box((3,))}, {"a": jnp.zeros(2), "b": jnp.zeros(3)}, action)
    with pytest.raises(ValueError, match=r"env must have .* got dict with") as refusal:
        presets.suited(algo, env)
    assert "\n" not in str(refusal.value)


def test_what_is_wrong_with_a_dict_is_said():
    with pytest.raises(ValueError, match="observations must be a dict of \\['a'\\], got \\['b'\\]"):
        presets.suited("ppo", dict_env({"a": Box((2,))}, {"b": jnp.zeros(2)})).reset(jax.random.key(0))
    with pytest.raises(ValueError, match="dict: observation 'a' must be an array, got DictSpace"):
        presets.suited("ppo", dict_env({"a": DictSpace({"b": Box((1,))})}, {}))
    with pytest.raises(ValueError, match="flatten needs a Box of observations"):
        wrappers.flatten(dict_env({"a": Box((2,))}, {"a": jnp.zeros(2)}))


@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_scalars_and_matrices_become_vectors(shape):
    spec = Spec(Box(shape, 0, 9, jnp.int32), Discrete(2), time_limit=3, name="grid")
    obs = jnp.full(shape, 5, jnp.int32)
    env = Env(spec, lambda key: (jnp.zeros(()), obs), lambda key, state, action: None)
    for algo in ("dqn", "sac", "dreamer_v3", "pets"):
        suited = presets.suited(algo, env)
        seen = suited.reset(jax.random.key(0))[1]
        assert (suited.spec.obs.shape, seen.shape, seen.dtype) == ((obs.size,), (obs.size,), jnp.float32)
        np.testing.assert_array_equal(seen, np.full(obs.size, 5.0))
