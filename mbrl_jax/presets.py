"""Good settings for each agent in each environment, and the compiled loop that they make."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mbrl_jax import settings, settings_loop
from mbrl_jax.algorithms import AGENTS as AGENTS
from mbrl_jax.algorithms import Algorithm, ring
from mbrl_jax.buffers.sequence import need_window
from mbrl_jax.core.config import check, flat, replace
from mbrl_jax.core.types import Agent, Discrete, Env, Spec, no_refresh
from mbrl_jax.envs import games, wrappers
from mbrl_jax.envs.names import ENVS as ENVS
from mbrl_jax.envs.names import JUDGES, make_env, repetition
from mbrl_jax.train.loop import Loop, LoopConfig, make_loop


class Preset(NamedTuple):
    """Settings of one agent for one environment."""

    agent: Any
    loop: LoopConfig
    steps: int  # real environment steps of one seed
    threshold: float  # the evaluation return that counts as solved


def algorithm(algo: str) -> Algorithm:
    """An agent by name.

    Raises:
      ValueError: no agent has this name.
    """
    if algo not in AGENTS:
        raise ValueError(f"algo must be one of {', '.join(AGENTS)}, got {algo!r}")
    return AGENTS[algo]


def suited(algo: str, env: Env) -> Env:
    """An environment in the form an agent takes: numbered states as one-hot vectors, planes flattened, where need be.

    A planner in the true dynamics sees the environment's state instead of an observation. Agents that know of no games
    see them without the mask of legal actions.

    Raises:
      ValueError: no agent has this name, or it can handle no such environment.
    """
    made, spec = algorithm(algo), env.spec
    if not isinstance(spec.action, made.actions):
        kinds = " or ".join("discrete" if kind is Discrete else "continuous" for kind in made.actions)
        raise ValueError(f"env must have {kinds} actions for {algo}, got {spec.name} with {spec.action}")
    if made.table:
        if not isinstance(spec.obs, Discrete):
            raise ValueError(f"env must have numbered states for {algo}, got {spec.name} with {spec.obs}")
        return env
    if made.simulator:
        return wrappers.reveal_state(_as_arrays(env))
    if games.is_game(env):
        return env if made.games else suited(algo, games.unmask(env))
    if isinstance(spec.obs, Discrete):
        return _as_arrays(env)
    rank = len(spec.obs.shape)
    return env if rank == 1 or (rank == 3 and made.planes) else wrappers.flatten(env)


def _as_arrays(env: Env) -> Env:
    return wrappers.one_hot(env) if isinstance(env.spec.obs, Discrete) else env


def preset(algo: str, env: str) -> Preset:
    """Settings of an agent for an environment; environments without their own get the agent's general ones.

    Raises:
      ValueError: no agent or environment has this name, or they do not go together.
    """
    made = algorithm(algo)
    changes = _agent_settings(algo, env, suited(algo, make_env(env)).spec)
    loop: dict[str, Any] = {"steps": 20_000}
    if made.table:
        loop |= settings_loop.TABULAR | settings_loop.TABULAR_LOOP.get(env, {})
    loop |= settings_loop.LOOP.get((algo, ""), {}) | settings_loop.LOOP.get((algo, env), {})
    steps = loop.pop("steps")
    loop.setdefault("capacity", steps if made.buffer is ring else loop.get("num_envs", 1) * loop.get("unroll", 1))
    threshold = settings.THRESHOLD.get(repetition(env)[0], math.inf)  # a repeated action changes no return
    return Preset(replace(made.config(), changes), LoopConfig(**loop), steps, threshold)


def _agent_settings(algo: str, env: str, spec: Spec) -> dict[str, Any]:
    """An agent's settings for an environment by dotted name, where they are not its defaults."""
    if algo in ("sac", "mbpo"):
        entropy = 0.5 * math.log(spec.action.n) if isinstance(spec.action, Discrete) else -float(spec.action.size)
        policy = {"target_entropy": entropy} | settings.SAC.get(env, {})
        return policy if algo == "sac" else {**_under("policy.", policy), **settings.MBPO.get(env, {})}
    if algo in ("dqn", "dyna_dqn"):
        policy = settings.DQN.get(env, {})
        return policy if algo == "dqn" else {**_under("policy.", policy), **settings.DYNA_DQN.get(env, {})}
    if algo == "mpc" and isinstance(spec.action, Discrete):  # what is not continuous has no colour
        return {"planner.kind": "cem"}
    if not AGENTS[algo].table:
        own = getattr(settings, algo.upper())
        return own.get(env, own.get("", {}))
    table = settings.TABLE.get(env, {})
    if algo == "q_learning":
        return table
    changes = _under("policy.", table)
    if algo == "sweeping":
        return changes
    changes |= settings.DYNA_Q.get(env, {})
    return changes | (settings.DYNA_Q_PLUS.get(env, {}) if algo == "dyna_q_plus" else {})


def _under(prefix: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in changes.items()}


WIDE = (
    128  # units of a hidden layer from which one seed fills a device; measured by `scripts/benchmark.py --rows seeds`
)


def default_wave(agent: Any) -> int:
    """Seeds to run side by side on one device: one where any hidden layer is wide, else four."""
    found = [value for name, value in flat(agent, ".").items() if name.endswith(".hidden") and value]
    widths = [max(value) if isinstance(value, tuple) else value for value in found]
    return 1 if max(widths, default=0) >= WIDE else 4


def learner(algo: str, env: str | Env, agent: Any) -> tuple[Agent, Env]:
    """An agent of given settings, and the environment in the form that it takes.

    Raises:
      ValueError: a name that does not exist, or a setting that does not go with the environment.
    """
    made = algorithm(algo)
    raw = make_env(env) if isinstance(env, str) else env
    world = suited(algo, raw)
    try:
        return made.make(agent, _as_arrays(raw) if made.simulator else world.spec), world
    except ValueError as error:
        raise ValueError(f"agent: {error}") from error


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
    raw = make_env(env) if isinstance(env, str) else env
    if made.table and (loop.num_envs, loop.unroll, loop.updates) != (1, 1, 1):
        given = f"{loop.num_envs}, {loop.unroll} and {loop.updates}"
        raise ValueError(f"loop.num_envs, loop.unroll and loop.updates must be 1 for {algo}, got {given}")
    rows = loop.num_envs * loop.unroll
    if loop.capacity < rows:
        raise ValueError(f"loop.capacity must be at least loop.num_envs x loop.unroll = {rows}, got {loop.capacity}")
    for name, value in flat(agent, "agent.").items():
        if made.buffer is ring and name.endswith(".batch") and value > loop.capacity:
            raise ValueError(f"{name} must be at most loop.capacity = {loop.capacity}, got {value}")
    agent_made, world = learner(algo, raw, agent)
    if agent_made.refresh is not no_refresh and loop.warmup < 1:
        raise ValueError(f"loop.warmup must be at least 1 for {algo}, whose model needs rows, got {loop.warmup}")
    if made.window is not None:
        need_window(made.window(agent), loop.warmup * loop.unroll)
    judge = JUDGES.get(raw.spec.name)
    return make_loop(
        agent_made, world, made.buffer(agent, loop), loop, judge=None if judge is None else suited(algo, judge())
    )
