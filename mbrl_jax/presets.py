"""Which agents and environments there are by name, and good settings for each pair of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mbrl_jax.agents import mbpo, sac
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core.config import check, flat, replace
from mbrl_jax.core.types import Agent, Box, Buffer, Discrete, Env, Spec, no_refresh
from mbrl_jax.envs import cartpole, gymnax, wrappers
from mbrl_jax.train.loop import Loop, LoopConfig, make_loop


class Algorithm(NamedTuple):
    """How an agent is made from its settings."""

    config: Any  # a `@config` class whose defaults suit no environment in particular
    make: Callable[[Any, Spec], Agent]
    buffer: Callable[[LoopConfig], Buffer]
    actions: tuple[type, ...] = (Discrete, Box)  # the action spaces it can handle
    summary: str = ""


class Preset(NamedTuple):
    """Settings of one agent for one environment."""

    agent: Any
    loop: LoopConfig
    steps: int  # real environment steps of one seed
    threshold: float  # the evaluation return that counts as solved


def _ring(cfg: LoopConfig) -> Buffer:
    return uniform(cfg.capacity)


AGENTS: dict[str, Algorithm] = {
    "sac": Algorithm(sac.SACConfig, sac.make, _ring, summary="soft actor-critic, model-free"),
    "mbpo": Algorithm(mbpo.MBPOConfig, mbpo.make, _ring, summary="SAC on short rollouts of a learned ensemble"),
}

ENVS: dict[str, Callable[[], Env]] = {
    "Pendulum-v1": lambda: _from_gymnax("Pendulum-v1"),
    "CartPole-v1": lambda: _from_gymnax("CartPole-v1"),
    "ContinuousCartPole": cartpole.continuous_cartpole,
    "CartPoleSwingUp": cartpole.cartpole_swingup,
}


def _from_gymnax(name: str) -> Env:
    env = wrappers.flatten(gymnax.make(name))
    return env if isinstance(env.spec.action, Discrete) else wrappers.scale_action(env)


def make_env(name: str) -> Env:
    """An environment by name: one of `ENVS`, or any of gymnax's, flattened and with actions in [-1, 1].

    Raises:
      ValueError: no environment has this name.
    """
    if name in ENVS:
        return ENVS[name]()
    try:
        return _from_gymnax(name)
    except ValueError as error:
        close = difflib.get_close_matches(name, ENVS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        allowed = f"env must be one of {', '.join(ENVS)} or a gymnax environment"
        raise ValueError(f"{allowed}, got {name!r}{hint}") from error


def algorithm(algo: str) -> Algorithm:
    """An agent by name.

    Raises:
      ValueError: no agent has this name.
    """
    if algo not in AGENTS:
        raise ValueError(f"algo must be one of {', '.join(AGENTS)}, got {algo!r}")
    return AGENTS[algo]


# What an environment asks of every agent: steps of the loop, when it is solved, and settings of SAC alone, as MBPO's.
_THRESHOLD = {"Pendulum-v1": -200.0, "CartPole-v1": 475.0, "ContinuousCartPole": 199.5, "CartPoleSwingUp": 150.0}

_POLICY: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"hidden": (64, 64), "lr": 1e-3},
    "CartPole-v1": {"hidden": (64, 64), "lr": 1e-3, "target_entropy": 0.2},
    "ContinuousCartPole": {"hidden": (64, 64), "lr": 1e-3},
    # Swinging up pays nothing until it succeeds: near-uniform actions (at most log 2 nats) keep looking for it.
    "CartPoleSwingUp": {"hidden": (64, 64), "lr": 1e-3, "target_entropy": 0.55, "alpha": 0.1},
}

# Small tasks, a few thousand real rows: small members, more gradient steps per epoch, and rollouts long enough to reach
# states that replay has not seen.
_MODEL: dict[str, Any] = {
    "model.hidden": (128, 128),
    "fit.members": 5,
    "fit.elites": 4,
    "fit.batch": 64,
    "rollouts": 512,
    "first_horizon": 8,
    "last_horizon": 8,
    "retain": 2,
    "real_ratio": 0.25,
}

_MODEL_OF: dict[str, dict[str, Any]] = {"Pendulum-v1": {"fit.batch": 32, "retain": 4}}

_LOOP: dict[tuple[str, str], dict[str, Any]] = {
    ("sac", "Pendulum-v1"): {"steps": 20_000, "cycles": 2},
    ("sac", "CartPole-v1"): {"steps": 50_000},
    ("sac", "ContinuousCartPole"): {"steps": 20_000},
    ("sac", "CartPoleSwingUp"): {"steps": 30_000},
    ("mbpo", "Pendulum-v1"): {"steps": 3_000, "updates": 30, "inner": 25, "cycles": 4},
    ("mbpo", "CartPole-v1"): {"steps": 6_000, "updates": 20},
    ("mbpo", "ContinuousCartPole"): {"steps": 3_000, "updates": 20},
    ("mbpo", "CartPoleSwingUp"): {"steps": 6_000, "updates": 20},
}


def preset(algo: str, env: str) -> Preset:
    """Settings of an agent for an environment; environments without their own get the agent's defaults.

    Raises:
      ValueError: no agent or environment has this name.
    """
    defaults = algorithm(algo).config()
    prefix = "policy." if algo == "mbpo" else ""
    spec = None if env in ENVS else make_env(env).spec
    changes = {f"{prefix}{name}": value for name, value in _POLICY.get(env, {}).items()}
    if spec is not None and isinstance(spec.action, Discrete):
        changes[f"{prefix}target_entropy"] = 0.5 * math.log(spec.action.n)
    elif spec is not None and isinstance(spec.action, Box):
        changes[f"{prefix}target_entropy"] = -float(spec.action.size)
    if algo == "mbpo":
        changes |= (_MODEL if env in ENVS else {}) | _MODEL_OF.get(env, {})
    loop = dict(_LOOP.get((algo, env), {"steps": 20_000}))
    steps = loop.pop("steps")
    loop.setdefault("capacity", steps)
    return Preset(replace(defaults, changes), LoopConfig(**loop), steps, _THRESHOLD.get(env, math.inf))


WIDE = (
    128  # units of a hidden layer from which one seed fills a device; measured by `scripts/benchmark.py --rows seeds`
)


def default_wave(agent: Any) -> int:
    """Seeds to run side by side on one device: one where any hidden layer is wide, else four."""
    widths = [max(value) for name, value in flat(agent, ".").items() if name.endswith(".hidden") and value]
    return 1 if max(widths, default=0) >= WIDE else 4


def build(algo: str, env: str | Env, agent: Any, loop: LoopConfig) -> Loop:
    """The compiled loop of an agent in an environment.

    Args:
      algo: a name in `AGENTS`.
      env: a name, or an environment.
      agent: the agent's settings; floats may be traced.
      loop: the loop's settings.
    Raises:
      ValueError: a name that does not exist, or a setting out of range or at odds with another.
    """
    made = algorithm(algo)
    check(agent, "agent.")
    check(loop, "loop.")
    world = make_env(env) if isinstance(env, str) else env
    if not isinstance(world.spec.action, made.actions):
        kinds = " or ".join("discrete" if kind is Discrete else "continuous" for kind in made.actions)
        raise ValueError(f"env must have {kinds} actions for {algo}, got {world.spec.name} with {world.spec.action}")
    rows = loop.num_envs * loop.unroll
    if loop.capacity < rows:
        raise ValueError(f"loop.capacity must be at least loop.num_envs x loop.unroll = {rows}, got {loop.capacity}")
    for name, value in flat(agent, "agent.").items():
        if name.endswith(".batch") and value > loop.capacity:
            raise ValueError(f"{name} must be at most loop.capacity = {loop.capacity}, got {value}")
    try:
        learner = made.make(agent, world.spec)
    except ValueError as error:
        raise ValueError(f"agent: {error}") from error
    if learner.refresh is not no_refresh and loop.warmup < 1:
        raise ValueError(f"loop.warmup must be at least 1 for {algo}, whose model needs rows, got {loop.warmup}")
    return make_loop(learner, world, made.buffer(loop), loop)
