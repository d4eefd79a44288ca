"""Settings of each agent in each environment, and the compiled loop that they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, overload

from mbrl_jax.buffers.fixed import fixed, preloaded
from mbrl_jax.buffers.latest import latest
from mbrl_jax.buffers.sequence import need_window
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core.config import check, flat, replace
from mbrl_jax.core.images import is_image
from mbrl_jax.core.types import Agent, Buffer, DictSpace, Discrete, Env, HostEnv, MultiDiscrete, Tree, no_refresh
from mbrl_jax.envs import games, host, wrappers
from mbrl_jax.envs.idle import idle
from mbrl_jax.envs.registry import ENVS, EVAL_ENVS, make_env, task_name
from mbrl_jax.presets import loops, offline, settings
from mbrl_jax.presets.checks import check_learner, check_together, named
from mbrl_jax.presets.offline import Data
from mbrl_jax.presets.registry import AGENTS, Algorithm
from mbrl_jax.train import compilation
from mbrl_jax.train.host import HostLoop, make_host_loop
from mbrl_jax.train.loop import Loop, LoopConfig, make_loop
from mbrl_jax.train.offline import OfflineHostLoop


class Preset(NamedTuple):
    """Settings of one agent for one environment."""

    agent: Any
    loop: LoopConfig
    steps: int  # real environment steps of one seed
    threshold: float  # the evaluation return that counts as solved


def algorithm(algo: str) -> Algorithm:
    """An agent's entry by name.

    Raises:
      ValueError: no agent has this name.
    """
    if algo not in AGENTS:
        raise ValueError(f"algo must be one of {', '.join(AGENTS)}, got {algo!r}")
    return AGENTS[algo]


E = TypeVar("E", Env, HostEnv)
Start: TypeAlias = Callable[[Tree], Tree]  # (fresh learner) -> the learner to start from


def suited(algo: str, env: E) -> E:
    """An environment in the form an agent takes: numbered states as one-hot vectors, planes flattened, where need be.

    A planner in the true dynamics sees the environment's state instead of an observation. Agents that know of no games
    see them without the mask of legal actions.

    Raises:
      ValueError: no agent has this name, or it can handle no such environment.
    """
    entry, spec = algorithm(algo), env.spec
    if not isinstance(spec.action, (*entry.actions, MultiDiscrete) if entry.factored else entry.actions):
        kinds = " or ".join(entry.action_kinds)
        others = f"; {_those(lambda other: other.factored)} take vectors of discrete ones"
        hint = others if isinstance(spec.action, MultiDiscrete) else ""
        raise ValueError(f"env must have {kinds} actions for {algo}, got {spec.name} with {spec.action}{hint}")
    if entry.table:
        if not isinstance(spec.obs, Discrete):
            raise ValueError(f"env must have numbered states for {algo}, got {spec.name} with {spec.obs}")
        return env
    if entry.simulator:
        if isinstance(env, HostEnv):
            raise ValueError(
                f"env must be written in JAX for {algo}, which plans in the simulator itself; the state of {spec.name} "
                "cannot be copied"
            )
        return wrappers.reveal_state(_as_arrays(env))
    if isinstance(env, Env) and games.is_game(env):
        return env if entry.games else suited(algo, games.unmask(env))
    forms: Any = host if isinstance(env, HostEnv) else wrappers
    if isinstance(spec.obs, Discrete | MultiDiscrete):
        return forms.one_hot(env)
    if isinstance(spec.obs, DictSpace):
        if not entry.dicts:
            got = f"{spec.name} with a dict of {', '.join(sorted(spec.obs.spaces))}"
            others = _those(lambda other: other.dicts)
            raise ValueError(f"env must have one array as observation for {algo}, got {got}; {others} take a dict")
        return forms.by_leaf(env, entry.planes)
    rank = len(spec.obs.shape)
    if is_image(spec.obs):
        if entry.planes or entry.images:
            return env
        others = _those(lambda other: other.planes or other.images)
        raise ValueError(f"env must have no images as observations for {algo}, got {spec.name}; {others} take them")
    if rank == 1 or (rank == 3 and entry.planes):
        return env
    return forms.flatten(env)


def _those(which: Callable[[Algorithm], bool]) -> str:
    return ", ".join(name for name, entry in AGENTS.items() if which(entry))


def default_env(algo: str) -> str:
    """The first environment of `ENVS` that an agent can handle.

    Raises:
      ValueError: no agent has this name, or it can handle none of them.
    """
    for name in ENVS:
        try:
            made = make_env(name)
            learner(algo, made, preset(algo, name).agent)
        except ValueError:
            if algo not in AGENTS:
                raise
            continue
        return name
    raise ValueError(f"env must be given: {algo} can handle none of {', '.join(ENVS)}")


def _as_arrays(env: Env) -> Env:
    return wrappers.one_hot(env) if isinstance(env.spec.obs, Discrete | MultiDiscrete) else env


def preset(algo: str, env: str | Env | HostEnv, offline: bool = False, rows: int = 0) -> Preset:
    """Settings of an agent for an environment; environments without their own get the agent's general ones.

    Args:
      algo: a name in `AGENTS`.
      env: a name, or an environment, whose settings go by its spec's name.
      offline: of a run that learns from a data set alone, whose steps are updates.
      rows: of the data set that a run begins with, for which the buffer gets room.
    Raises:
      ValueError: no agent or environment has this name, or they do not go together.
    """
    entry = algorithm(algo)
    name = env if isinstance(env, str) else env.spec.name
    raw: Any = make_env(env) if isinstance(env, str) else env
    name, tuned = settings.same_task(name), settings.same_task(name) != name
    changes = settings.agent_settings(algo, name, suited(algo, raw).spec)
    loop: dict[str, Any] = {"steps": 20_000}
    if entry.table:
        loop |= loops.TABULAR | loops.TABULAR_LOOP.get(name, {})
    loop |= loops.LOOP.get((algo, ""), {})
    if isinstance(raw, HostEnv) and not tuned:
        loop = loops.for_host(loop, entry.replay != "latest") | loops.HOST.get(algo, {})
    loop |= loops.LOOP.get((algo, name), {})
    steps = loop.pop("steps")
    newest = loop.get("num_envs", 1) * loop.get("unroll", 1)
    loop.setdefault("capacity", newest if entry.replay == "latest" else steps)
    if offline:
        loop |= loops.OFFLINE
        steps = loop.pop("steps")
    else:
        loop["capacity"] += rows
    if raw.spec.time_limit is None:  # no evaluation episode would end
        loop["eval_episodes"] = 0
    threshold = settings.THRESHOLD.get(task_name(name), math.inf)  # a repeated action changes no return
    return Preset(replace(entry.config(), changes), LoopConfig(**loop), steps, threshold)


def evaluation_env(algo: str, env: Env) -> Env:
    """What an agent is evaluated in, in the form that it takes.

    Args:
      algo: a name in `AGENTS`.
      env: the environment it learns in.
    Raises:
      ValueError: as `suited`.
    """
    other = EVAL_ENVS.get(env.spec.name)
    return suited(algo, env if other is None else other())


WIDE = (
    128  # units of a hidden layer from which one seed fills a device; measured by `scripts/benchmark.py --rows seeds`
)


def default_wave(agent: Any, each: int = 0) -> int:
    """Seeds to run under one `vmap` on a device: one where any hidden layer is wide, else four.

    A device with a single seed needs no `vmap`: its program is traced and compiled sooner.

    Args:
      agent: its settings.
      each: seeds on each device, 0 for many.
    """
    if each == 1:
        return 1
    found = [value for name, value in flat(agent, ".").items() if name.endswith(".hidden") and value]
    widths = [max(value) if isinstance(value, tuple) else value for value in found]
    return 1 if max(widths, default=0) >= WIDE else 4


def learner(algo: str, env: str | Env | HostEnv, agent: Any) -> tuple[Agent, Any]:
    """An agent of given settings, and the environment in the form that it takes: an `Env` or a `HostEnv`, as given.

    Args:
      algo: a name in `AGENTS`.
      env: a name, or an environment.
      agent: the agent's settings; floats may be traced.
    Raises:
      ValueError: a name that does not exist, or a setting that does not go with the environment.
    """
    entry = algorithm(algo)
    raw: Any = make_env(env) if isinstance(env, str) else env
    made = suited(algo, raw)
    try:
        return entry.make(agent, source(algo, raw, made)), made
    except ValueError as error:
        raise ValueError(named(error, flat(agent, "agent."))) from error


def source(algo: str, raw: Any, made: Any) -> Any:
    """What an agent is made for: the spec of its environment, or the environment itself, which it plans in.

    Args:
      algo: a name in `AGENTS`.
      raw: the environment by its name.
      made: the same in the form that the agent takes.
    """
    return _as_arrays(raw) if algorithm(algo).simulator else made.spec


def buffer(algo: str, agent: Any, loop: LoopConfig) -> Buffer:
    """The buffer that an agent of given settings learns from.

    Args:
      algo: a name in `AGENTS`.
      agent: the agent's settings; floats may be traced.
      loop: the loop's settings: capacity, environments and steps between updates.
    Raises:
      ValueError: no agent has this name, or a setting is at odds with another.
    """
    entry = algorithm(algo)
    if entry.buffer is not None:
        return entry.buffer(agent, loop.capacity, loop.num_envs)
    return latest(loop.unroll, loop.num_envs) if entry.replay == "latest" else uniform(loop.capacity)


def _refuse_ignored(algo: str, agent: Any) -> None:
    """Raises ValueError where a setting is changed that the agent has no use for; traced values pass."""
    given, usual = flat(agent), flat(algorithm(algo).config())
    for name, why in algorithm(algo).ignored.items():
        value = given.get(name, usual.get(name))
        if isinstance(value, bool | int | float) and value != usual.get(name):
            raise ValueError(f"agent.{name} has no effect in {algo}: {why}")


def _window_settings(entry: Algorithm, agent: Any) -> str:
    """The settings that make an agent's windows longer, with their values."""
    window = entry.window
    assert window is not None
    whole = {name: value for name, value in flat(agent).items() if type(value) is int}
    longer = [name for name, value in whole.items() if window(replace(agent, {name: value + 1})) > window(agent)]
    return ", ".join(f"agent.{name} = {whole[name]}" for name in longer)


def _check_batches(entry: Algorithm, agent: Any, loop: LoopConfig, data: Data | None) -> None:
    """Raises ValueError where a batch is larger than what the replay buffer can hold; traced values pass."""
    if data is not None and data.offline:  # rows are drawn with replacement
        return
    most, what = loop.capacity, "loop.capacity"
    if entry.replay == "latest":
        return
    if entry.window is not None:
        rows = entry.window(agent)
        most = loop.num_envs * max(0, loop.capacity // loop.num_envs - rows + 1)
        what = f"the windows of {rows} rows that loop.capacity = {loop.capacity} holds,"
        if most < 1:
            least = loop.num_envs * rows
            raise ValueError(
                f"loop.capacity must be at least loop.num_envs x {rows} = {least}, a window of each environment "
                f"({_window_settings(entry, agent)}), got {loop.capacity}"
            )
    for name, value in flat(agent, "agent.").items():
        if name.endswith(".batch") and type(value) is int and value > most:
            raise ValueError(f"{name} must be at most {what} = {most}, got {value}".replace(", =", " ="))


def _check_settings(algo: str, raw: Env | HostEnv, agent: Any, loop: LoopConfig, data: Data | None) -> None:
    """Raises ValueError where a setting is out of range, of no use, or at odds with another one."""
    entry = algorithm(algo)
    check(agent, "agent.")
    check(loop, "loop.")
    if data is not None and data.offline:
        offline.check_loop(loop)
        offline.check_agent(agent)
    check_together(agent)
    _refuse_ignored(algo, agent)
    if entry.table and (loop.num_envs, loop.unroll, loop.updates) != (1, 1, 1):
        given = f"{loop.num_envs}, {loop.unroll} and {loop.updates}"
        raise ValueError(f"loop.num_envs, loop.unroll and loop.updates must be 1 for {algo}, got {given}")
    rows = loop.num_envs * loop.unroll
    if entry.replay != "latest" and loop.capacity < rows:  # the latest trajectory takes what it needs
        raise ValueError(f"loop.capacity must be at least loop.num_envs x loop.unroll = {rows}, got {loop.capacity}")
    _check_batches(entry, agent, loop, data)
    check_learner(lambda: learner(algo, raw, agent)[0], flat(agent, "agent."))


@overload
def build(
    algo: str,
    env: HostEnv,
    agent: Any,
    loop: LoopConfig,
    workers: int = 0,
    start: Start | None = None,
    data: Data | None = None,
) -> HostLoop: ...
@overload
def build(
    algo: str,
    env: str | Env,
    agent: Any,
    loop: LoopConfig,
    workers: int = 0,
    start: Start | None = None,
    data: Data | None = None,
) -> Loop: ...
def build(
    algo: str,
    env: str | Env | HostEnv,
    agent: Any,
    loop: LoopConfig,
    workers: int = 0,
    start: Start | None = None,
    data: Data | None = None,
) -> Any:
    """The loop of an agent in an environment: compiled, or the host loop where the environment's steps are Python.

    Args:
      algo: a name in `AGENTS`.
      env: a name, or an environment.
      agent: the agent's settings; floats may be traced.
      loop: the loop's settings.
      workers: processes that share the environments, where their steps are Python; 0 steps them in this one.
      start: (fresh learner) -> the learner to start from; None for the fresh one.
      data: rows that it learns from alone, or begins with; None for none. An offline agent without any learns from its
        own steps as others do.
    Returns:
      the loop; an `OfflineHostLoop` where it learns from data alone and the environment's steps are Python. Compiled
      programs are kept between processes: see `enable_compilation_cache`.
    Raises:
      ValueError: a name that does not exist, or a setting out of range or at odds with another.
    """
    compilation.enable_compilation_cache()
    entry = algorithm(algo)
    raw: Env | HostEnv = make_env(env) if isinstance(env, str) else env
    _check_settings(algo, raw, agent, loop, data)
    made, suited_env = learner(algo, raw, agent)
    if start is not None:
        fresh = made.init
        made = made._replace(init=lambda key: start(fresh(key)))
    if data is not None and data.offline:
        return _offline(made, raw, suited_env, evaluation_env(algo, cast(Any, raw)), loop, workers, data)
    if made.refresh is not no_refresh and loop.warmup < 1 and data is None:
        raise ValueError(f"loop.warmup must be at least 1 for {algo}, whose model needs rows, got {loop.warmup}")
    if entry.window is not None:
        need_window(entry.window(agent), loop.warmup * loop.unroll)
    store = buffer(algo, agent, loop)
    if data is not None and data.rows is not None:
        count = data.rows.reward.shape[0]
        if count > loop.capacity:
            raise ValueError(f"loop.capacity must be at least {count}, the rows of the data, got {loop.capacity}")
        store = preloaded(store, data.rows)
    if isinstance(raw, HostEnv):
        return make_host_loop(made, suited_env, store, loop, workers=workers)
    _refuse_workers(raw, workers)
    return make_loop(made, suited_env, store, loop, evaluation_env(algo, raw))


def _refuse_workers(env: Env, workers: int) -> None:
    if workers:
        raise ValueError(f"env_workers must be 0 for {env.spec.name}, whose steps are compiled, got {workers}")


def _offline(
    agent: Agent, raw: Env | HostEnv, env: Any, eval_env: Any, loop: LoopConfig, workers: int, data: Data
) -> Loop | OfflineHostLoop:
    """The loop of a run that learns from data alone: its steps are taken in an environment in which nothing happens."""
    rows = offline.placeholder(env.spec) if data.rows is None else data.rows
    still, store = idle(env.spec), fixed(rows)
    if not isinstance(raw, HostEnv):
        _refuse_workers(raw, workers)
        return make_loop(agent, still, store, loop, eval_env)
    if loop.eval_episodes and env.spec.time_limit is None:
        raise ValueError(f"loop.eval_episodes must be 0: {env.spec.name} has no time limit to end an episode")
    compiled = make_loop(agent, still, store, replace(loop, {"eval_episodes": 0}))
    return OfflineHostLoop(compiled, agent, eval_env, loop.eval_episodes, workers)
