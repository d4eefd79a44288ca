"""All that can be wrong with settings, found and named in full before a run writes anything."""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from mbrl_jax.core import tree
from mbrl_jax.core.config import LARGEST, flat
from mbrl_jax.core.types import Agent, Key
from mbrl_jax.planners.mpc.icem import ICEM, populations
from mbrl_jax.presets.registry import AGENTS
from mbrl_jax.train import memory
from mbrl_jax.train.driver import pieces_of, watched
from mbrl_jax.train.host import HostLoop
from mbrl_jax.train.loop import Loop, LoopConfig, WarmUp, chunks_for, env_steps, updates
from mbrl_jax.train.offline import OfflineHostLoop
from mbrl_jax.train.run import Job

PACKAGE = Path(__file__).parents[1]

BELOW = (("elites", "population"), ("proposals", "population"))
AT_MOST = (("elites", "members"), ("kept", "elites"))
"""Pairs of settings of one part, of which the first must be below, or at most, the second."""

REPEATED = ("layers", "blocks", "iterations", "depth", "restarts")
MOST_REPEATED = 100_000
"""Settings that a program is written out for, or that no machine can hold more of, and their largest value."""


def names_and_values(agent: Any, loop: LoopConfig) -> dict[str, Any]:
    """All settings of a run by their full names: "agent.lr", "loop.capacity"."""
    return flat(agent, "agent.") | flat(loop, "loop.")


def check_together(agent: Any) -> None:
    """Tests the settings of every part of an agent against each other, also of parts that are not chosen.

    Args:
      agent: the agent's settings.
    Raises:
      ValueError: names both settings and their values.
    """
    for prefix, part in _parts(agent, "agent."):
        for first, second in (*BELOW, *AT_MOST):
            low, high = getattr(part, first, None), getattr(part, second, None)
            if type(low) is not int or type(high) is not int:
                continue
            words = "below" if (first, second) in BELOW else "at most"
            if low > high or (low == high and words == "below"):
                raise ValueError(f"{prefix}{first} must be {words} {prefix}{second} = {high}, got {low}")
        for name in REPEATED:
            value = getattr(part, name, None)
            if type(value) is int and value > MOST_REPEATED:
                raise ValueError(f"{prefix}{name} must be at most {MOST_REPEATED}, got {value}")
        if isinstance(part, ICEM) and part.kept + part.proposals + 1 >= min(populations(part)):
            raise ValueError(
                f"{prefix}kept + {prefix}proposals + 1 must be below the smallest population "
                f"({min(populations(part))}), got {part.kept + part.proposals + 1}"
            )


def _parts(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """A config of the library and all configs in it, with their prefixes."""
    if type(config).__module__.startswith("mbrl_jax."):
        yield prefix, config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _parts(value, f"{prefix}{field.name}.")


def named(error: Exception, settings: Mapping[str, Any], where: str = "agent") -> str:
    """What a part says of its settings, with their full names.

    A part knows a setting as "elites", say; the command line as "agent.planner.cem.elites". The first word of a
    message, words with dots and words with a value in brackets are looked up; of planners, that of the chosen kind.

    Args:
      error: what a part raised.
      settings: all, by their full names.
      where: what a message begins with whose first word is no setting.
    """
    chosen = [name for name in settings if not _of_another_kind(name, settings)]

    def full(match: re.Match[str]) -> str:
        word = match[0]
        found = [name for name in chosen if name == word or name.endswith(f".{word}")]
        shortest = [name for name in found if name.count(".") == min(other.count(".") for other in found)]
        return shortest[0] if len(shortest) == 1 else word

    text = str(error)
    begun = re.sub(r"^[a-z_]+(\.[a-z_]+)*(?= must| needs)", full, text)
    if begun == text and not text.startswith(("agent.", "loop.")):
        begun = f"{where}: {text}"
    return re.sub(r"(?<![\w.-])[a-z_]+((\.[a-z_]+)+(?![\w(])|(\.[a-z_]+)*(?= \(\d))", full, begun)


def _of_another_kind(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting is of a part that is not the chosen one: `x.cem.elites` where `x.kind` is "icem"."""
    words = name.split(".")
    for i in range(1, len(words) - 1):
        kind = settings.get(".".join([*words[:i], "kind"]))
        if isinstance(kind, str) and any(other.startswith(".".join([*words[:i], kind, ""])) for other in settings):
            return words[i] != kind
    return False


L = TypeVar("L", Loop, HostLoop, OfflineHostLoop)


def checked(loop: L, job: Job) -> tuple[L, str]:
    """Traces a run's loop, so that whatever is wrong with its settings shows, and reckons the memory it needs.

    Args:
      loop: one seed's loop.
      job: what is to run.
    Returns:
      the same loop, whose functions keep their traces, so that compiling does not trace them anew; a line on memory.
    Raises:
      ValueError: a setting at odds with another, too many steps to count, or more memory than there is.
    """
    if isinstance(loop, OfflineHostLoop):
        whole: Loop = loop.loop
        compiled, line = checked(whole, job)
        return loop._replace(loop=compiled), line
    settings = names_and_values(job.agent, job.loop)
    _check_counts(job)
    entry = AGENTS.get(job.algo)
    replay = "" if entry is None or entry.replay == "latest" else "loop.capacity"
    if isinstance(loop, HostLoop):
        with _Named(settings):
            state = loop.driver(job).shapes().state
        parts = {"replay": state.buffer, "learner": state.learner, "observations": state.obs}
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), parts)
        for name, count in (("environments", job.loop.num_envs), ("evaluation", job.loop.eval_episodes)):
            one[name] = jax.ShapeDtypeStruct((count, COPY), jnp.uint8)
        one["keys"] = jax.ShapeDtypeStruct((max(job.loop.warmup, 2 * job.loop.inner), 2), jnp.uint32)
        need, have = memory.reckon_parts(one, job.seeds), memory.available()
        memory.check_fits(need, have, settings, replay)
        return loop, memory.describe(need, have)
    begin, pieces = jax.jit(watched(loop), inline=True), pieces_of(loop)
    advance = jax.jit(pieces.advance, inline=True)

    def init(key: Key) -> Any:
        return begin(key)[0]

    with _Named(settings):
        state = jax.eval_shape(lambda key: tree.strip_weak_types(init(key)), jax.random.key(job.seed))
    have = memory.available(job.devices)
    kept = {"replay": state.buffer, "learner": state.learner, "environments": state.actors}
    memory.check_fits(memory.reckon_parts(kept, job.seeds), have, settings, replay)  # before the longer trace
    with _Named(settings):
        bound = jax.ShapeDtypeStruct((), jnp.int32)
        program = advance.trace(state, jax.eval_shape(pieces.gather, state), bound, bound).jaxpr
    at_once = min(job.wave, -(-job.seeds // job.devices)) * job.devices
    beginning = begin.trace(jax.random.key(job.seed)).jaxpr
    need = memory.reckon(state, (beginning, program), job.seeds, at_once)
    memory.check_fits(need, have, settings, replay)
    loop = loop._replace(init=init, pieces=pieces._replace(advance=advance), warm_up=WarmUp(begin, init))
    return loop, memory.describe(need, have)


COPY = 1000
"""The bytes that one environment of Python objects takes at least."""

LARGE = 2**16
"""A size from which on an agent is reckoned before it is made, as that may allocate arrays."""


def check_learner(make: Callable[[], Agent], settings: Mapping[str, Any]) -> None:
    """Refuses an agent with a large setting whose parameters cannot fit into memory.

    Args:
      make: () -> Agent; called within a trace, where nothing is allocated.
      settings: the agent's, by their full names.
    Raises:
      ValueError: what `make` refuses, or more memory than there is.
    """
    sizes = [item for value in settings.values() for item in (value if isinstance(value, tuple) else (value,))]
    if max((size for size in sizes if type(size) is int), default=0) < LARGE:
        return

    def shapes(key: Key) -> Any:
        agent = make()
        return agent.init(key), agent.carry()

    with _Named(settings):
        learner = jax.eval_shape(shapes, jax.random.key(0))
    need = memory.reckon_parts({"learner": learner})
    memory.check_fits(need, memory.available(), settings)


class _Named:
    """A context in which a part's ValueErrors get full names, and sizes beyond all bounds become ValueErrors."""

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OverflowError | MemoryError):
            sizes = {name: value for name, value in self.settings.items() if type(value) is int}
            name = max(sizes, key=sizes.__getitem__)
            raise ValueError(f"{name} must be lower than {sizes[name]}: arrays become too large") from error
        if isinstance(error, ValueError):
            last = traceback.extract_tb(trace)[-1].filename
            if PACKAGE in Path(last).resolve().parents:
                raise ValueError(named(error, self.settings, "settings")) from error


def _check_counts(job: Job) -> None:
    """Refuses runs whose counts of steps and updates do not fit into int32."""
    loop, most = job.loop, LARGEST[int]
    sizes = {f"loop.{name}": getattr(loop, name) for name in ("inner", "cycles", "num_envs", "unroll", "warmup")}
    chunks = chunks_for(loop, job.steps)
    if env_steps(loop, chunks) > most:
        name = "steps" if job.steps > max(sizes.values()) else max(sizes, key=sizes.__getitem__)
        value = sizes.get(name, job.steps)
        raise ValueError(
            f"{name} must be lower than {value}: a seed would take {env_steps(loop, chunks)} steps, "
            f"{most} can be counted"
        )
    if updates(loop, chunks) > most:
        raise ValueError(
            f"loop.updates must be lower than {loop.updates}: a seed would make {updates(loop, chunks)} updates, "
            f"{most} can be counted"
        )
