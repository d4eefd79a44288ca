"""Every agent in every kind of action it handles, made small, and compiled once for all contract tests."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax

from mbrl_jax import presets
from mbrl_jax.core import Agent, Discrete, Env
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.cartpole import continuous_cartpole
from mbrl_jax.envs.probes import observation_action_reward
from mbrl_jax.train.loop import Loop, LoopConfig

SMALL: dict[str, dict[str, Any]] = {
    "sac": {"hidden": (16, 16), "batch": 8, "target_entropy": 0.1},
    "mbpo": {
        "policy.hidden": (16, 16), "policy.batch": 8, "policy.target_entropy": 0.1, "model.hidden": (16,),
        "fit.members": 3, "fit.elites": 2, "fit.batch": 8, "fit.max_epochs": 2, "rollouts": 8, "last_horizon": 2,
        "retain": 2,
    },
}  # fmt: skip

LOOP = LoopConfig(num_envs=2, unroll=2, updates=2, inner=3, cycles=2, warmup=10, eval_episodes=2, capacity=64)

CASES = [(algo, kind) for algo, made in presets.AGENTS.items() for kind in made.actions]
NAMES = [f"{algo}-{kind.__name__.lower()}" for algo, kind in CASES]


@cache
def world(kind: type) -> Env:
    """Episodes that terminate and episodes that run out of time, in a few steps."""
    if kind is Discrete:
        return wrappers.time_limit(observation_action_reward(), 3)
    return continuous_cartpole(steps=12)


class Case(NamedTuple):
    algo: str
    env: Env
    cfg: Any
    agent: Agent
    loop: Loop


def build(algo: str, kind: type, **loop: Any) -> Loop:
    return presets.build(algo, world(kind), settings(algo), replace(LOOP, loop))


def settings(algo: str) -> Any:
    return replace(presets.AGENTS[algo].config(), SMALL[algo])


@cache
def compiled(algo: str, kind: type) -> tuple[Any, Any]:
    """`init` and `chunk`, jitted as `run` jits them."""
    loop = build(algo, kind)
    return jax.jit(loop.init), jax.jit(loop.chunk, donate_argnums=0)


@cache
def case(algo: str, kind: type) -> Case:
    env, cfg = world(kind), settings(algo)
    return Case(algo, env, cfg, presets.AGENTS[algo].make(cfg, env.spec), build(algo, kind))
