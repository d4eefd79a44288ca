"""What every agent promises, whatever it learns by: `check_agent` looks at all of it, the other functions at a part.

Each part is a function that yields faults in words. The parts take compiled functions, so that a test suite compiles
an agent once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.buffers.latest import latest
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import tree
from mbrl_jax.core.config import axes, flat, replace
from mbrl_jax.core.types import Agent, Box, Discrete, Env, Spec
from mbrl_jax.envs import wrappers
from mbrl_jax.presets.registry import Algorithm
from mbrl_jax.testing.environments import stand_in
from mbrl_jax.testing.faults import attempted, differences, numbers, refuse, source_file
from mbrl_jax.train import checkpoint
from mbrl_jax.train.loop import Loop, LoopConfig, make_loop

LOOP = LoopConfig(num_envs=2, unroll=2, updates=2, inner=3, cycles=2, warmup=10, eval_episodes=2, capacity=64)
"""The loop that an agent is tried in."""
TABLE_LOOP: dict[str, Any] = {"num_envs": 1, "unroll": 1, "updates": 1, "inner": 40, "warmup": 0}
"""Changes for tables, which learn from one step at a time: enough steps to come by everything."""

Compile = Callable[..., Any]  # as `jax.jit`


class Subject(NamedTuple):
    """An agent in a loop, compiled."""

    agent: Agent
    env: Env  # as the agent sees it
    loop: Loop  # with evaluation
    init: Callable[..., Any]  # of the loop without evaluation, compiled
    chunk: Callable[..., Any]  # likewise; its argument is donated
    compile: Compile = jax.jit


def check_agent(
    make: Callable[[Any, Any], Agent],
    cfg: Any,
    spec: Spec | Env,
    *,
    draws: tuple[bool | None, bool | None] = (True, False),
    loop: LoopConfig | None = None,
    **rest: Any,
) -> None:
    """Checks that an agent keeps the contract of `Agent`; silent where it does.

    It looks at actions, structures, shapes and types; at resume, seeds, traced settings, keys and evaluation; and
    whether updates change what is learned. That takes some compilations: choose small networks and batches.

    Args:
      make: (config, spec) -> Agent, or (config, env) with `simulator`.
      cfg: its settings.
      spec: of an environment in the form that the agent takes, for which a stand-in is made; or an environment with a
        time limit.
      draws: whether `act` draws actions when it explores, and when it does not; None for either leaves it open.
      loop: settings of the loop; by default a few steps in two environments.
      rest: what `register_agent` takes too: `replay`, `buffer_part`, `window_part`, `simulator`, `table`.
    Raises:
      ValueError: it breaks the contract; the message lists every fault found.
    """
    refuse("the agent", find_faults(make, cfg, spec, draws=draws, loop=loop, **rest))


def find_faults(
    make: Callable[[Any, Any], Agent],
    cfg: Any,
    spec: Spec | Env,
    *,
    draws: tuple[bool | None, bool | None] = (True, False),
    loop: LoopConfig | None = None,
    **rest: Any,
) -> list[str]:
    """What is wrong with an agent, in words, as `check_agent` would list it.

    Args:
      make, cfg, spec, draws, loop, rest: as for `check_agent`.
    Returns:
      one line for each fault; none where the agent keeps its contract.
    """
    entry = Algorithm(config_part=lambda: cfg, make_part=make, **rest)
    where = source_file(make)
    made: list[Subject] = []

    def build() -> Iterator[str]:
        made.append(subject(entry, cfg, spec, loop))
        yield from ()

    faults = attempted("make", build, where)
    if not made:
        return faults
    it = made[0]
    faults = attempted("act", lambda: action_faults(it.agent, it.env, draws), where)
    faults += attempted("learner", lambda: structure_faults(it), where)
    if faults:  # the rest runs the same code, and would say it again
        return faults

    def resumed() -> Iterator[str]:
        with tempfile.TemporaryDirectory() as folder:
            yield from resume_faults(it, Path(folder))

    def again(cfg: Any) -> Loop:
        return subject(entry, cfg, spec, loop, compiled=False).loop

    parts: dict[str, Callable[[], Iterator[str]]] = {
        "train": lambda: train_faults(it, rtol=2e-3, atol=2e-4),
        "resume": resumed,
        "seeds": lambda: seed_faults(it),
        "settings": lambda: sweep_faults(it, cfg, again),
        "keys": lambda: key_faults(it.loop),
        "update": lambda: learning_faults(it),
    }
    return [fault for name, look in parts.items() for fault in attempted(name, look, where)]


def subject(
    entry: Algorithm, cfg: Any, spec: Spec | Env, loop: LoopConfig | None = None, compiled: bool = True
) -> Subject:
    """An agent in the loop that it is tried in.

    Args:
      entry: what the library would know of it.
      cfg: its settings; floats may be traced.
      spec: as for `check_agent`.
      loop: settings of the loop; None for the usual ones.
      compiled: whether `init` and `chunk` are compiled; else they are the loop's own, and it does not evaluate.
    """
    env = stand_in(spec) if isinstance(spec, Spec) else spec
    agent = entry.make(cfg, env if entry.simulator else env.spec)
    env = wrappers.reveal_state(env) if entry.simulator else env
    settings = replace(LOOP, TABLE_LOOP) if entry.table else LOOP
    if entry.window is not None:
        rows = entry.window(cfg)
        settings = replace(settings, {"warmup": max(settings.warmup, rows), "capacity": max(64, 8 * rows)})
    settings = settings if loop is None else loop
    if entry.buffer is not None:
        buffer = entry.buffer(cfg, settings.capacity, settings.num_envs)
    else:
        single = latest(settings.unroll, settings.num_envs)
        buffer = single if entry.replay == "latest" else uniform(settings.capacity)
    silent = make_loop(agent, env, buffer, replace(settings, {"eval_episodes": 0}))
    if not compiled:
        return Subject(agent, env, silent, silent.init, silent.chunk)
    whole = make_loop(agent, env, buffer, settings)
    return Subject(agent, env, whole, jax.jit(silent.init), jax.jit(silent.chunk, donate_argnums=0))


def action_faults(
    agent: Agent, env: Env, draws: tuple[bool | None, bool | None] = (True, False), obs: Any = None
) -> Iterator[str]:
    """Whether actions are of the space, and carry and extras keep their structure.

    Args:
      agent: as made.
      env: as the agent sees it.
      draws: as for `check_agent`.
      obs: one observation to act on; that of a reset if None.
    """
    learner = jax.jit(agent.init)(jax.random.key(0))
    obs = env.reset(jax.random.key(2))[1] if obs is None else obs
    space, structures = env.spec.action, []
    for explore, drawn in zip((True, False), draws, strict=True):
        act = lambda key, explore=explore: agent.act(key, learner, agent.carry(), obs, explore)  # noqa: E731
        action, carry, extras = jax.jit(jax.vmap(act))(jax.random.split(jax.random.key(1), 64))
        structures.append(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), extras))
        when = f"act with explore={explore}"
        got = f"{getattr(action, 'dtype', type(action))}{list(getattr(action, 'shape', (0,))[1:])}"
        if got != f"{jnp.dtype(space.dtype)}{list(space.shape)}":
            yield f"{when}: an action must be {jnp.dtype(space.dtype)}{list(space.shape)}, got {got}"
            continue
        low, high = _bounds(space)
        if not bool(jnp.all((action >= low) & (action <= high))):
            yield f"{when}: an action is outside {space}"
        if jax.tree.structure(carry) != jax.tree.structure(agent.carry()):
            yield f"{when}: the carry must keep the structure of `agent.carry()`"
        kept = zip(jax.tree.leaves(carry), jax.tree.leaves(agent.carry()), strict=False)
        if any((jnp.shape(new)[1:], new.dtype) != (jnp.shape(old), jnp.asarray(old).dtype) for new, old in kept):
            yield f"{when}: the carry must keep the shapes and types of `agent.carry()`"
        varies = len(np.unique(np.asarray(action), axis=0)) > 1
        if drawn is not None and varies != drawn:
            yield f"{when}: actions must {'differ' if drawn else 'not differ'} from key to key"
    if structures[0] != structures[1]:
        yield "act: extras must have one structure, exploring or not"


def _bounds(space: Any) -> tuple[Any, Any]:
    if isinstance(space, Box):
        return space.low, space.high
    return 0, space.n - 1 if isinstance(space, Discrete) else jnp.asarray(space.nvec) - 1


def structure_faults(it: Subject) -> Iterator[str]:
    """Whether a chunk keeps structure, shapes and types, compiles once, and reports finite scalars."""
    state = it.init(jax.random.key(0))
    before = jax.eval_shape(lambda: state)
    report: Any = None
    for _ in range(2):
        state, report = it.chunk(state)
    after = jax.eval_shape(lambda: state)
    if jax.tree.structure(before) != jax.tree.structure(after):
        yield "update or refresh changes the structure of the learner"
        return
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            name = jax.tree_util.keystr(path)
            yield f"{name} changes from {x.dtype}{list(x.shape)} to {y.dtype}{list(y.shape)} in a chunk"
        elif getattr(y, "weak_type", False):
            yield f"{jax.tree_util.keystr(path)} is weakly typed: give it a type"
    compiled = getattr(it.chunk, "_cache_size", lambda: 0)()
    if compiled > 1:  # 0 where a long session has dropped it
        yield "the second chunk compiles anew"
    for name, value in report.metrics.items():
        if name != "return" and not np.isfinite(float(value)):
            yield f"metric {name} is not finite: {float(value)}"


def train_faults(it: Subject, rtol: float = 0.0, atol: float = 0.0) -> Iterator[str]:
    """Whether `train` equals `init` and chunks, and evaluation changes nothing.

    Args:
      it: what is held to it.
      rtol, atol: tolerances of floats, which two programs may round differently; both 0 for the same bits.
    """
    state, reports = it.init(jax.random.key(3)), []
    for _ in range(2):
        state, report = it.chunk(state)
        reports.append(report.metrics)
    trained, stacked = it.compile(it.loop.train, static_argnums=1)(jax.random.key(3), 2)
    close = {"rtol": rtol, "atol": atol}
    yield from differences(state, trained, "train with evaluation beside chunks without it", **close)
    yield from differences(tree.stack(reports), stacked.metrics, "metrics of train beside those of chunks", **close)


def resume_faults(it: Subject, folder: Path) -> Iterator[str]:
    """Whether a state that was saved and restored goes on as one that was not, to the bit.

    Args:
      it: an agent in its loop.
      folder: an empty one, for the checkpoint.
    """
    state, _ = it.chunk(it.init(jax.random.key(4)))
    checkpoint.save(folder, 1, state)
    back = checkpoint.restore(folder, 1, jax.eval_shape(lambda: state))
    yield from differences(state, back, "a state beside the restored one")
    yield from differences(it.chunk(state), it.chunk(back), "a chunk beside that of the restored state")


def seed_faults(it: Subject) -> Iterator[str]:
    """Whether seeds differ: in the weights from the first one on, and in the experience."""
    one, two = it.init(jax.random.key(0)), it.init(jax.random.key(1))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(one.learner)]
    weights = [
        (name, x, y)
        for name, x, y in zip(names, numbers(one.learner), numbers(two.learner), strict=True)
        if x.ndim >= 2 and len(np.unique(x)) > 16
    ]
    yield from (f"learner{name} is the same for two seeds" for name, x, y in weights if not (x != y).any())
    buffers = zip(numbers(one.buffer), numbers(two.buffer), strict=True)
    warm = any(x.any() for x in numbers(one.buffer))
    if warm and not any((x != y).any() for x, y in buffers):
        yield "two seeds collect the same experience"
    if weights or not names:
        return
    one, two = it.chunk(one)[0], it.chunk(two)[0]  # what starts empty differs by what is written into it
    if not any((x != y).any() for x, y in zip(numbers(one.learner), numbers(two.learner), strict=True)):
        yield "the learner is the same for two seeds, after a chunk too"


def sweep_faults(it: Subject, cfg: Any, build: Callable[[Any], Loop], rate: str | None = None) -> Iterator[str]:
    """Whether floats may be traced, and a `vmap` over them and over seeds equals the single run.

    Args:
      it: an agent in its loop.
      cfg: its settings.
      build: (config) -> the loop without evaluation.
      rate: a float setting that is given two values; the lanes must then differ. None: all floats are traced, with one
        value each.
    """
    usual = flat(cfg)
    names = [name for name, value in usual.items() if isinstance(value, float)] if rate is None else [rate]
    if not names:
        return
    factors = (1.0, 1.0) if rate is None else (1.0, 10.0)
    swept = replace(cfg, {name: jnp.array([usual[name] * factor for factor in factors]) for name in names})
    states = jax.vmap(it.init)(jnp.stack([jax.random.key(7), jax.random.key(7)]))
    both = jax.jit(jax.vmap(lambda cfg, state: build(cfg).chunk(state), in_axes=(axes(cfg, *names), 0)))
    rows, _ = both(swept, states)
    single, _ = it.chunk(it.init(jax.random.key(7)))
    first, second = (jax.tree.leaves(jax.tree.map(lambda x: x[i], rows).learner)[:4] for i in (0, 1))  # noqa: B023
    alone = jax.tree.leaves(single.learner)[:4]
    yield from differences(first, alone, "the first row of a sweep beside the single run", rtol=2e-3, atol=2e-4)
    if rate is not None and not any((np.abs(x - y) > 1e-3).any() for x, y in zip(first, second, strict=True)):
        yield f"{rate} has no effect in a sweep"


def key_faults(loop: Loop) -> Iterator[str]:
    """Whether a key is used twice.

    Args:
      loop: of few iterations: it is traced, and nothing runs.
    """
    try:
        with jax.debug_key_reuse(True):
            jax.eval_shape(jax.jit(lambda key: loop.chunk(loop.init(key))), jax.random.key(0))
    except jax.errors.KeyReuseError as error:
        yield f"a key is used twice: {' '.join(str(error).split())[:200]}"


def learning_faults(it: Subject, share: float = 0.0) -> Iterator[str]:
    """Whether updates change what is learned.

    Args:
      it: an agent in its loop.
      share: more of the learner's arrays than this part must change in a chunk.
    """
    before = numbers(it.init(jax.random.key(2)).learner)
    if not before:
        return
    after = numbers(it.chunk(it.init(jax.random.key(2)))[0].learner)
    moved = float(np.mean([(x != y).any() for x, y in zip(before, after, strict=True)]))
    if moved <= share:
        yield f"a chunk changes {moved:.0%} of the learner's arrays, more than {share:.0%} must change"
