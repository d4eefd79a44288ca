"""Every agent in every kind of action it handles, made small, and compiled once for all contract tests."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import pytest
from jax.extend.core import jaxpr_as_fun

from mbrl_jax import presets
from mbrl_jax.core import Agent, Discrete, Env
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.cartpole import continuous_cartpole
from mbrl_jax.envs.mdp import as_env, random_mdp
from mbrl_jax.envs.probes import observation_action_reward
from mbrl_jax.train.loop import Loop, LoopConfig

SMALL_RSSM: dict[str, Any] = {
    "net.deter": 8, "net.units": 8, "net.layers": 1, "net.stoch": 2, "net.classes": 2, "batch": 4, "length": 4,
    "imagined": 2,
}  # fmt: skip

SMALL: dict[str, dict[str, Any]] = {
    "q_learning": {},
    "dyna_q": {"planning": 3},
    "dyna_q_plus": {"planning": 3},
    "sweeping": {"planning": 3},
    "dqn": {"hidden": (16, 16), "batch": 8, "decay_updates": 20},
    "dyna_dqn": {
        "policy.hidden": (16, 16), "policy.batch": 8, "policy.decay_updates": 20, "model.hidden": (16,),
        "fit.members": 3, "fit.elites": 2, "fit.batch": 8, "fit.max_epochs": 2, "rollouts": 8, "horizon": 2,
        "retain": 2, "planning": 2,
    },
    "ppo": {"hidden": (16, 16), "epochs": 2, "minibatches": 2},
    "sac": {"hidden": (16, 16), "batch": 8, "target_entropy": 0.1},
    "mbpo": {
        "policy.hidden": (16, 16), "policy.batch": 8, "policy.target_entropy": 0.1, "model.hidden": (16,),
        "fit.members": 3, "fit.elites": 2, "fit.batch": 8, "fit.max_epochs": 2, "rollouts": 8, "last_horizon": 2,
        "retain": 2,
    },
    "pets": {
        "model.hidden": (16,), "fit.members": 3, "fit.elites": 2, "fit.batch": 8, "fit.max_epochs": 2,
        "planner.kind": "shooting", "planner.shooting.horizon": 2, "planner.shooting.population": 8,
        "planner.shooting.particles": 3,
    },
    "mpc": {
        "planner.kind": "cem", "planner.cem.horizon": 3, "planner.cem.population": 8, "planner.cem.elites": 3,
        "planner.cem.iterations": 2,
    },
    "uct": {"uct.simulations": 4, "uct.rollout_depth": 3},
    "alphazero": {
        "search.gumbel.simulations": 4, "hidden": (16, 16), "support": 2, "n_steps": 2, "batch": 4,
    },
    "muzero": {
        "search.gumbel.simulations": 4, "net.latent": 8, "net.hidden": (8,), "net.support": 2, "unroll": 2,
        "n_steps": 2, "batch": 4, "reanalyse": 2,
    },
    "dreamer_v1": {name: value for name, value in SMALL_RSSM.items() if name != "net.classes"},
    "dreamer_v2": SMALL_RSSM | {"reinforce": 0.5},
    "dreamer_v3": {
        "net.deter": 8, "net.units": 8, "net.stoch": 2, "net.classes": 2, "net.blocks": 2, "net.bins": 5, "batch": 4,
        "length": 4, "imagined": 2, "lr_warmup": 1, "lr": 1e-3,
    },
    "world_models": {
        "vision.latent": 0, "memory.hidden": 8, "memory.components": 2, "memory.heads": (8,), "length": 3, "batch": 4,
        "memory_updates": 3, "horizon": 3, "dreams": 2, "population": 4, "generations": 2, "epsilon": 0.5, "lr": 1e-4,
    },
    "tdmpc2": {
        "net.size": "nano", "net.encoder": 16, "net.units": 16, "net.latent": 16, "net.bins": 11, "batch": 4,
        "planner.horizon": 2, "planner.population": 8, "planner.elites": 3, "planner.iterations": 2,
        "planner.proposals": 2,
    },
}  # fmt: skip

SMALL_OFFLINE: dict[str, Any] = {
    "policy.hidden": (16, 16), "policy.batch": 8, "policy.target_entropy": 0.1, "model.hidden": (16,),
    "fit.members": 3, "fit.elites": 2, "fit.batch": 8, "fit.max_epochs": 2, "imagined.rollouts": 8,
    "imagined.horizon": 2, "imagined.retain": 2,
}  # fmt: skip
SMALL |= {
    "bc": {"hidden": (16, 16), "batch": 8},
    "iql": {"hidden": (16, 16), "batch": 8},
    "mopo": SMALL_OFFLINE,
    "morel": SMALL_OFFLINE,
    "combo": SMALL_OFFLINE | {"actions": 2},
    "rambo": SMALL_OFFLINE | {"adversary_steps": 2},
}
"""Offline agents learn here from their own steps, as others do."""

EMITTERS = {"xla_cpu_use_fusion_emitters": True} if version("jaxlib").startswith("0.10.") else None

LEARNS_NOTHING = ("mpc", "uct")
PLANNING = ("pets", "mpc", "tdmpc2")  # act by drawing candidates, in evaluation too

LOOP = LoopConfig(num_envs=2, unroll=2, updates=2, inner=3, cycles=2, warmup=10, eval_episodes=2, capacity=64)

# Tables learn from one step at a time; enough of them to come by everything.
ONE = {"num_envs": 1, "unroll": 1, "updates": 1, "inner": 40, "warmup": 0}

# Every agent in every kind of action it handles, and in its first kind alone, the others being left to the slow tests:
# what stands between an action and its space is the same code in all of them.
CASES = [(algo, kind) for algo, made in presets.AGENTS.items() for kind in made.actions]
NAMES = [f"{algo}-{kind.__name__.lower()}" for algo, kind in CASES]
FIRST = [kind is presets.AGENTS[algo].actions[0] for algo, kind in CASES]


def params(fast: list[bool]) -> list[Any]:
    """All cases, but for the fast ones marked slow."""
    marks = [() if now else pytest.mark.slow for now in fast]
    return [pytest.param(*case, marks=m, id=name) for case, m, name in zip(CASES, marks, NAMES, strict=True)]


# The largest programs: some properties of these are left to the slow tests.
LARGE = {
    "mbpo", "dyna_dqn", "alphazero", "muzero", "dreamer_v1", "dreamer_v2", "dreamer_v3", "world_models", "tdmpc2",
    "mopo", "morel", "combo", "rambo",
}  # fmt: skip

# One agent for each kind of replay and of learning stands for the loop around them: tables from the last step, networks
# from the last trajectory and from stored steps, a fit by `refresh`. The programs of the others are compiled once less.
FOR_THE_LOOP = ("q_learning", "ppo", "sac", "pets")

# Dreamer v1 shares its parts with v2, MOPO and MOReL with COMBO and RAMBO.
SHARED = ("dreamer_v1", "mopo", "morel")
FIRST_CASES = params([first and algo not in SHARED for first, (algo, _) in zip(FIRST, CASES, strict=True)])
LOOP_CASES = params([first and algo in FOR_THE_LOOP for first, (algo, _) in zip(FIRST, CASES, strict=True)])


@cache
def world(kind: type, table: bool = False) -> Env:
    """Episodes that terminate and episodes that run out of time, in a few steps."""
    if table:
        return as_env(random_mdp(jax.random.key(0), 6, 3, branching=2, terminals=1), time_limit=3)
    if kind is Discrete:
        return wrappers.time_limit(observation_action_reward(), 3)
    return continuous_cartpole(steps=12)


class Case(NamedTuple):
    algo: str
    env: Env
    cfg: Any
    agent: Agent
    loop: Loop


def loop_settings(algo: str) -> LoopConfig:
    return replace(LOOP, ONE) if presets.AGENTS[algo].table else LOOP


def build(algo: str, kind: type, **loop: Any) -> Loop:
    table = presets.AGENTS[algo].table
    return presets.build(algo, world(kind, table), settings(algo), replace(loop_settings(algo), loop))


def settings(algo: str) -> Any:
    return replace(presets.AGENTS[algo].config(), SMALL[algo])


@cache
def compiled(algo: str, kind: type) -> tuple[Any, Any]:
    """`init` and `chunk` without evaluation, jitted as `run` jits them."""
    loop = build(algo, kind, eval_episodes=0)
    return jit(loop.init, algo), jit(loop.chunk, algo, donate_argnums=0)


def check_keys(fn: Any, *args: Any) -> None:
    """Raises `jax.errors.KeyReuseError` where a function uses a key twice; nothing runs.

    Traced first, and then checked as a whole: with the flag on, every function that is traced within another is checked
    again with each that it stands in.
    """
    closed = jax.make_jaxpr(fn)(*args)
    with jax.debug_key_reuse(True):
        jax.eval_shape(jax.jit(jaxpr_as_fun(closed)), *jax.tree.leaves(args))


def jit(fn: Any, algo: str, **how: Any) -> Any:
    """As users compile it, where two programs are held to the same bits: see the flag in tests/conftest.py."""
    return jax.jit(fn, compiler_options=EMITTERS if algo in FOR_THE_LOOP else None, **how)


@cache
def case(algo: str, kind: type) -> Case:
    env, cfg = world(kind, presets.AGENTS[algo].table), settings(algo)
    made = presets.AGENTS[algo].make(cfg, env if presets.AGENTS[algo].simulator else env.spec)
    if presets.AGENTS[algo].simulator:
        env = wrappers.reveal_state(env)
    return Case(algo, env, cfg, made, build(algo, kind))
