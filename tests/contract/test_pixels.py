"""Every agent that takes images: it stores bytes and learns for two chunks; all others refuse in one line."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import contract

from mbrl_jax import presets
from mbrl_jax.core import Array, Env
from mbrl_jax.core.config import replace
from mbrl_jax.envs import pixels, wrappers
from mbrl_jax.train import memory
from mbrl_jax.train.loop import Loop

SIDE = 32
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"channels": 2},
    "muzero": {"net.channels": 2},
    "dreamer_v1": {"net.depth": 2},
    "dreamer_v2": {"net.depth": 2},
    "dreamer_v3": {"net.depth": 2},
    "world_models": {
        "vision.latent": 8, "vision.coder.depth": 2, "vision.coder.units": 8, "vision_updates": 2,
    },
    "tdmpc2": {"net.channels": 4},
}  # fmt: skip
TAKES = [name for name, entry in presets.AGENTS.items() if entry.planes or entry.images]
REFUSES = [name for name, entry in presets.AGENTS.items() if name not in TAKES and not entry.simulator]
VARIANTS = [*((algo, {}) for algo in TAKES), ("muzero", {"net.blocks": 1}), ("dreamer_v3", {"net.decoder": False})]
QUICK = ("dqn",)


def draw(state: Any) -> list[pixels.Shape]:
    first: Array = jnp.asarray(jax.tree.leaves(state)[0], jnp.float32).reshape(-1)[0]
    return [pixels.Disc(jnp.stack([0.5 * first, jnp.float32(0)]), 0.3, (1.0, 0.5, 0.0))]


@cache
def world(kind: type) -> Env:
    return pixels.pixels(contract.world(kind), draw, SIDE)


def build(algo: str, changes: dict[str, Any]) -> Loop:
    cfg = replace(contract.settings(algo), SMALL.get(algo, {}) | changes)
    return presets.build(algo, world(presets.AGENTS[algo].actions[0]), cfg, contract.LOOP)


@pytest.mark.parametrize("algo", TAKES)
def test_replay_keeps_bytes(algo):
    state = jax.eval_shape(build(algo, {}).init, jax.random.key(0))
    images = [leaf for leaf in jax.tree.leaves(state.buffer) if leaf.shape[-3:] == (SIDE, SIDE, 3)]
    assert images
    assert all(leaf.dtype == jnp.uint8 for leaf in images)
    floats = [leaf for leaf in jax.tree.leaves(state.buffer) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(np.prod(leaf.shape[1:]) < SIDE**2 for leaf in floats)
    size = memory.reckon_parts({"replay": state.buffer}).parts["replay"]
    rows = sum(np.prod(leaf.shape[:-3], dtype=int) for leaf in images)
    assert rows * SIDE * SIDE * 3 <= size < 1.5 * rows * SIDE * SIDE * 3


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        pytest.param(algo, changes, marks=() if algo in QUICK else pytest.mark.slow, id="-".join([algo, *changes]))
        for algo, changes in VARIANTS
    ],
)
def test_agents_learn_from_images(algo, changes):
    loop = build(algo, changes)
    state = jax.jit(loop.init)(jax.random.key(0))
    chunk = jax.jit(loop.chunk, donate_argnums=0)
    before = jax.tree.map(np.asarray, state.learner)
    for _ in range(2):
        state, report = chunk(state)
        assert all(np.isfinite(value) for value in report.metrics.values())
        assert not any(bool(fault) for fault in report.not_finite.values())
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, state.learner)), strict=True)]
    assert np.mean(moved) > 0.7


@pytest.mark.parametrize("algo", REFUSES)
def test_other_agents_refuse(algo):
    env = world(presets.AGENTS[algo].actions[0])
    with pytest.raises(ValueError, match="env must have") as refusal:
        presets.suited(algo, env)
    said = str(refusal.value)
    assert "\n" not in said
    assert env.spec.name in said


def test_planes_are_still_flattened_where_an_agent_takes_images_alone():
    env = world(presets.AGENTS["tdmpc2"].actions[0])
    floats = wrappers.frame_stack(env, 1)
    floats = floats._replace(spec=floats.spec._replace(obs=floats.spec.obs._replace(dtype=jnp.float32)))
    assert presets.suited("tdmpc2", floats).spec.obs.shape == (SIDE * SIDE * 3,)
    assert presets.suited("tdmpc2", env).spec.obs.shape == (SIDE, SIDE, 3)
