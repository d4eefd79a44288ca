"""The host loop: the agents of the compiled loop in environments whose steps are Python.

Acting, and storing with learning, are one compiled program each; between them the environments step. The clocks are
those of `LoopConfig`, and with `overlap` 0 the numbers are those of `train.loop`: the same keys are drawn in the same
order, and an environment's randomness comes from the seeds that its episodes get. All seeds share the programs (under
`vmap`); each has environments of its own.

With `overlap` K the next K iterations are collected with the parameters of before while the last K are learned from, on
another thread. What is collected and learned does not depend on how fast either is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.config import check
from mbrl_jax.core.types import (
    Agent,
    Array,
    Buffer,
    DictSpace,
    EnvironmentFailed,
    HostEnv,
    Key,
    Metrics,
    Obs,
    Transition,
    Tree,
    no_refresh,
)
from mbrl_jax.train import host_evaluate
from mbrl_jax.train.driver import Note, Started, Work
from mbrl_jax.train.host_evaluate import episode_seeds
from mbrl_jax.train.interrupt import aside, begin
from mbrl_jax.train.loop import LoopConfig, LoopState, Report, any_nan, followed, learn
from mbrl_jax.train.run import ALONGSIDE, Job, seed_keys

SECONDS = 5.0
"""How long a piece of work is; an iteration or an evaluation that has begun is finished."""


class HostState(NamedTuple):
    """What continuing needs, but for the environments: their state cannot be saved, so new episodes start."""

    key: Key  # [S] of the chunk
    learner: Tree  # [S, ...]
    buffer: Tree  # [S, ...]
    obs: Obs  # [S, N, ...] where the episodes in progress are


class Sums(NamedTuple):
    """Of the metrics of a chunk that is not complete yet."""

    iterations: Metrics  # [S] each
    refreshes: Metrics  # [S] each
    ended: Array  # [S] training episodes that ended
    ended_return: Array  # [S] sum of their returns


class HostLoop(NamedTuple):
    """A training run in host environments; `driver` makes what trains."""

    agent: Agent
    env: HostEnv
    buffer: Buffer
    cfg: LoopConfig
    eval_env: HostEnv
    workers: int = 0  # processes that share the environments

    def driver(self, job: Job) -> HostDriver:
        """What trains the seeds of a job."""
        return HostDriver(self, seed_keys(job.seed, job.seeds))


def make_host_loop(
    agent: Agent, env: HostEnv, buffer: Buffer, cfg: LoopConfig, eval_env: HostEnv | None = None, workers: int = 0
) -> HostLoop:
    """Binds an agent, an environment whose steps are Python and a buffer to one loop.

    Args:
      agent: what learns; it must not need the simulator's state.
      env: what it learns in.
      buffer: what stores the experience.
      cfg: how much is collected, learned and evaluated when.
      eval_env: of the evaluation episodes, with the same observations and actions; `env` if None.
      workers: processes that share the environments; 0 steps them in this one.
    Returns:
      the run's parts, which its `driver` compiles and puts to work.
    Raises:
      ValueError: a setting out of its range, or evaluation in an environment without a time limit.
    """
    check(cfg, "loop.")
    if cfg.mesh:
        raise ValueError(f"loop.mesh must be empty for {env.spec.name}, whose steps are Python, got {cfg.mesh!r}")
    if workers < 0:
        raise ValueError(f"env_workers must be at least 0, got {workers}")
    eval_env = env if eval_env is None else eval_env
    if cfg.eval_episodes and eval_env.spec.time_limit is None:
        raise ValueError(f"loop.eval_episodes must be 0: {eval_env.spec.name} has no time limit to end an episode")
    return HostLoop(agent, env, buffer, cfg, eval_env, workers)


# Programs -------------------------------------------------------------------------------------------------------------


class Programs(NamedTuple):
    """The compiled parts, over seeds: leading axes [S]; arguments named `i` and `t` are the same for all seeds."""

    begin: Any  # (key) -> learner, buffer, key of the run, seeds [N, 2], collect keys [warmup], key of held actions
    again: Any  # (state, i) -> buffer with its episodes ended, seeds [N, 2] of new ones
    carry: Any  # (key) -> carry [N, ...] of new episodes
    cycle: Any  # (key of the chunk, i) -> key of the refresh, collect keys [inner], learn keys [inner]
    end: Any  # (key of the chunk, learner) -> key of the next, key of evaluation, whether the learner has a NaN
    act: Any  # (learner, carry, obs, fresh [N], keys, i, t) -> action, carry, extras, seeds [N, 2]
    random: Any  # (learner, carry, obs, fresh, keys, key of held actions, i, t) -> the same
    fill: Any  # (buffer, trajectory) -> buffer
    learn: Any  # (learner, buffer, sums, trajectory, keys, i) -> learner, buffer, sums
    refresh: Any  # (learner, buffer, sums, key) -> learner, sums
    eval_begin: Any  # (key) -> key of the steps, seeds [E, 2], carry [E, ...]
    eval_act: Any  # (learner, carry, obs, key of the steps, i) -> action, carry


def programs(loop: HostLoop, seeds: int) -> Programs:
    """The parts of a loop as functions to compile.

    Args:
      loop: of one seed.
      seeds: S.
    """
    agent, buffer, cfg, item = loop.agent, loop.buffer, loop.cfg, row(loop)
    count, episodes = cfg.num_envs, cfg.eval_episodes

    def begin(key: Key) -> tuple:
        key_learner, key_reset, key_warmup, key_run = jax.random.split(key, 4)
        learner = tree.strip_weak_types(agent.init(key_learner))
        key_iterations, key_held = (key_warmup, key_warmup) if cfg.hold == 1 else jax.random.split(key_warmup)
        keys = jax.random.split(key_iterations, cfg.warmup)
        return (
            learner,
            buffer.init(item),
            key_run,
            episode_seeds(jax.random.split(key_reset, count)),
            keys,
            key_held,
        )

    def again(state: HostState, i: Array) -> tuple:
        data = state.buffer if buffer.truncate is None else buffer.truncate(state.buffer, state.obs)
        return data, episode_seeds(jax.random.split(jax.random.fold_in(state.key, i), count))

    def cycle(key: Key, i: Array) -> tuple:
        _, key_cycles, _ = jax.random.split(key, 3)
        key_refresh, key_iterations = jax.random.split(jax.random.split(key_cycles, cfg.cycles)[i])
        keys = jax.vmap(jax.random.split)(jax.random.split(key_iterations, cfg.inner))
        return key_refresh, keys[:, 0], keys[:, 1]

    def end(key: Key, learner: Tree) -> tuple:
        key, _, key_evaluate = jax.random.split(key, 3)
        return key, key_evaluate, any_nan(learner)

    def fill(data: Tree, trajectory: Transition) -> Tree:
        return buffer.add(data, trajectory)

    def learn_from(learner: Tree, data: Tree, sums: Metrics, trajectory: Transition, keys: Key, i: Array) -> tuple:
        state = LoopState(keys[i], learner, buffer.add(data, trajectory), ())  # pyright: ignore[reportArgumentType]
        state, metrics = learn(keys[i], state, agent, buffer, cfg)
        return state.learner, state.buffer, jax.tree.map(jnp.add, sums, metrics)

    def refresh(learner: Tree, data: Tree, sums: Metrics, key: Key) -> tuple:
        learner, metrics = agent.refresh(key, learner, buffer.replay(data))
        return learner, jax.tree.map(lambda total, value: total + value, sums, metrics)

    eval_begin, eval_act = host_evaluate.actors(agent, episodes)

    def over(fn: Callable, shared: int = 0, donate: tuple[int, ...] = ()) -> Callable:
        return jax.jit(over_seeds(fn, seeds, shared), donate_argnums=donate)

    act, random = actors(loop, item)
    kept = (0, 1, 2) if cfg.overlap == 0 else (1, 2)  # else the learner of before still acts
    return Programs(
        over(begin), over(again, 1), over(lambda key: tree.tile(agent.carry(), count)), over(cycle, 1), over(end),
        over(act, 2), over(random, 2), over(fill, donate=(0,)), over(learn_from, 1, kept), over(refresh, donate=(2,)),
        over(eval_begin), over(eval_act, 1),
    )  # fmt: skip


def actors(loop: HostLoop, item: Transition) -> tuple[Callable, Callable]:
    """`Programs.act` and `Programs.random` of one seed."""
    agent, cfg, space, stored = loop.agent, loop.cfg, loop.env.spec.action, item.extras

    def act(learner: Tree, carry: Tree, obs: Obs, fresh: Array, key: Key, key_held: Key | None, random: bool) -> tuple:
        def one(key: Key, held: Key | None, carry: Tree, obs: Obs, fresh: Array) -> tuple:
            key_act, key_random, _, key_reset = jax.random.split(key, 4)
            carry = tree.where(fresh, agent.carry(), carry)
            if random:
                action = space.sample(key_random if held is None else held)
                carry, extras = followed(agent, key_act, learner, carry, obs, action, stored)
            else:
                action, carry, extras = agent.act(key_act, learner, carry, obs, True)
            return jnp.asarray(action, space.dtype), carry, extras, episode_seeds(key_reset)

        keys = jax.random.split(key, cfg.num_envs)
        held = None if key_held is None else jax.random.split(key_held, cfg.num_envs)
        return jax.vmap(one)(keys, held, carry, obs, fresh)

    def at(keys: Key, i: Array, t: Array) -> Key:
        return jax.random.split(keys[i], cfg.unroll)[t]

    def chosen(learner: Tree, carry: Tree, obs: Obs, fresh: Array, keys: Key, i: Array, t: Array) -> tuple:
        return act(learner, carry, obs, fresh, at(keys, i, t), None, False)

    def random(learner: Tree, carry: Tree, obs: Obs, fresh: Array, keys: Key, held: Key, i: Array, t: Array) -> tuple:
        key_held = None if cfg.hold == 1 else jax.random.fold_in(held, i // cfg.hold)
        return act(learner, carry, obs, fresh, at(keys, i, t), key_held, True)

    return chosen, random


def over_seeds(fn: Callable, seeds: int, shared: int) -> Callable:
    """A function over a leading seed axis, of `seeds` seeds; the last `shared` arguments of `fn` are the same for all.

    Args:
      fn: of one seed.
      seeds: S.
      shared: number of arguments without the axis.
    Returns:
      the function of all seeds.
    """
    if seeds > 1:
        return lambda *args: jax.vmap(fn, [0] * (len(args) - shared) + [None] * shared)(*args)

    def single(*args: Any) -> Any:  # without vmap the numbers are those of the compiled loop
        own = jax.tree.map(lambda leaf: leaf[0], args[: len(args) - shared])
        return jax.tree.map(lambda leaf: leaf[None], fn(*own, *args[len(args) - shared :]))

    return single


def row(loop: HostLoop) -> Transition:
    """The shapes of one transition."""
    number, flag = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.bool_)
    obs, space = observation(loop.env.spec.obs), loop.env.spec.action

    def extras(key: Key, obs: Obs) -> Tree:
        return loop.agent.act(key, loop.agent.init(key), loop.agent.carry(), obs, True)[2]

    stored = jax.eval_shape(extras, jax.random.key(0), obs)
    stored = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)
    action: Any = jax.ShapeDtypeStruct(space.shape, space.dtype)
    shapes: Any = (obs, action, number, number, obs, flag, stored)
    return Transition(*shapes)


def observation(space: Any) -> Any:
    """The shapes of a space's observations.

    Args:
      space: with `shape` and `dtype`; a dict or a tuple of such, or a `DictSpace`.
    """
    if isinstance(space, DictSpace):
        space = space.spaces
    if isinstance(space, dict):
        return {name: observation(part) for name, part in space.items()}
    if type(space) is tuple:
        return tuple(observation(part) for part in space)
    return jax.ShapeDtypeStruct(tuple(space.shape), jax.dtypes.canonicalize_dtype(space.dtype))


# The driver -----------------------------------------------------------------------------------------------------------


class HostDriver:
    """Trains all seeds in host environments, a piece at a time; the `train.driver.Driver` of a `HostLoop`.

    Environments are made, stepped and drawn on one thread of their own: some can be used on no other.

    Args:
      loop: one seed's loop.
      keys: of the seeds, [S].
    """

    def __init__(self, loop: HostLoop, keys: Key):
        self.loop, self.keys, self.seeds, self.cfg = loop, keys, len(keys), loop.cfg
        self.parts = programs(loop, self.seeds)
        self.times = dict.fromkeys(("environment", "acting", "learning", ALONGSIDE, "evaluation"), 0.0)
        self.wall = 0.0
        self.host = ThreadPoolExecutor(1, "environments")
        self.learner = ThreadPoolExecutor(1, "learning")
        self.known: Work | None = None
        self.envs: Any = None
        self.steps = 0  # of each environment since this driver reset them
        self.eval_envs: Any = None
        self.obs: Any = None  # [S, N, ...]
        self.fresh = np.ones((self.seeds, self.cfg.num_envs), bool)  # environments whose next step is their first
        self.totals = np.zeros((self.seeds, self.cfg.num_envs), np.float32)  # returns of the episodes in progress
        self.carry: Tree = None
        self.acting: Tree = None  # the learner that collects next, with `overlap`; the newest if None

    def shapes(self) -> Work:
        """The shapes of the state, and of the sums in a chunk that has begun."""
        if self.known is None:
            self.known = self._shapes()
        return self.known

    def _shapes(self) -> Work:
        learner, data, key, *_ = jax.eval_shape(self.parts.begin, self.keys)
        lead = (self.seeds, self.cfg.num_envs)
        obs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), row(self.loop).obs)
        return Work(HostState(key, learner, data, obs), self._sums(learner, data))

    def start(self, work: Work | None) -> Started:
        """Makes the environments and compiles; then the warm-up, or what continues a checkpoint's state."""
        began = time.monotonic()
        self._on_host(self._make)
        made = time.monotonic()
        self.parts = aside(lambda: self._compiled(warm_up=work is None))
        compiled = time.monotonic()
        ready: Work = self._on_host(self._begin if work is None else lambda: self._again(work))
        self._reset_times()
        return Started(ready, compiled - made, time.monotonic() - compiled + made - began)

    def piece(self, work: Work) -> tuple[Work, Report | None]:
        """Works for about `SECONDS`.

        Raises:
          EnvironmentFailed: its `work` is what was learned up to the last whole iteration.
        """
        return self._on_host(lambda: self._piece(work))

    def note(self, work: Work) -> Note:
        """Where the chunk is."""
        cycle, unit = divmod(work.position, self.cfg.inner + 1)
        if cycle == self.cfg.cycles:
            return Note(cycle * self.cfg.inner, "evaluation")
        done = cycle * self.cfg.inner + max(0, unit - 1)
        doing = f"iteration {unit} of {self.cfg.inner}, " if unit else ""
        return Note(done, f"{doing}{'cycle' if unit else 'refresh'} {cycle + 1} of {self.cfg.cycles}")

    def not_resumed(self) -> str:
        """What of a run cannot be resumed."""
        return f"the state of {self.loop.env.spec.name} is not saved: its episodes in progress end here, new ones begin"

    def seconds(self) -> dict[str, float]:
        """The seconds of all pieces by what they went to, "other" among them."""
        main = sum(value for name, value in self.times.items() if name != ALONGSIDE)
        times = {**self.times, "other": max(0.0, self.wall - main)}
        return times if self.cfg.overlap else {name: value for name, value in times.items() if name != ALONGSIDE}

    def close(self) -> None:
        """Closes the environments; nothing can be called after it."""

        def end() -> None:
            for envs in (self.envs, self.eval_envs):
                if envs is not None:
                    envs.close()

        self.host.submit(end).result()
        self.host.shutdown()
        self.learner.shutdown()

    def _on_host(self, work: Callable[[], Any]) -> Any:
        return self.host.submit(work).result()

    def _reset_times(self) -> None:
        self.times, self.wall = dict.fromkeys(self.times, 0.0), 0.0

    def _make(self) -> None:
        loop, cfg = self.loop, self.cfg
        self.envs = loop.env.make(self.seeds * cfg.num_envs, loop.workers)

    def _compiled(self, warm_up: bool) -> Programs:
        """The programs of a run, compiled for the shapes they get."""
        parts, cfg = self.parts, self.cfg
        state, sums = self.shapes()[:2]
        number = jax.ShapeDtypeStruct((), jnp.int32)
        fresh = jax.ShapeDtypeStruct(self.fresh.shape, jnp.bool_)
        learner, data = state.learner, state.buffer
        given = (learner, jax.eval_shape(parts.carry, self.keys), state.obs, fresh)
        key, keys, _ = jax.eval_shape(parts.cycle, self.keys, number)
        lead = (self.seeds, cfg.unroll, cfg.num_envs)
        rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), row(self.loop))
        pending: dict[str, Callable[[], Any]] = {}

        def compile_(name: str, *args: Any) -> None:
            """Beside the others: while one compiles, the next is traced."""
            pending[name] = begin(getattr(parts, name).lower(*args).compile)

        compile_("learn", learner, data, sums.iterations, rows, keys, number)
        compile_("act", *given, keys, number, number)
        if self.loop.agent.refresh is not no_refresh:
            compile_("refresh", learner, data, sums.refreshes, key)
        if warm_up:
            compile_("begin", self.keys)
        if warm_up and cfg.warmup:
            warm, held = jax.eval_shape(parts.begin, self.keys)[4:]
            compile_("random", *given, warm, held, number, number)
            compile_("fill", data, rows)
        compile_("cycle", self.keys, number)
        compile_("end", self.keys, learner)
        if cfg.eval_episodes:
            key, _, carry = jax.eval_shape(parts.eval_begin, self.keys)
            lead = (self.seeds, cfg.eval_episodes)
            obs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape[2:]), leaf.dtype), state.obs)
            compile_("eval_begin", self.keys)
            compile_("eval_act", learner, carry, obs, key, number)
        return parts._replace(**{name: wait() for name, wait in pending.items()})

    def _sums(self, learner: Tree, data: Tree) -> Sums:
        """The shapes of the sums, from those of learner and buffer."""
        agent, buffer, cfg = self.loop.agent, self.loop.buffer, self.cfg

        def metrics(learner: Tree, data: Tree, key: Key) -> tuple:
            state = LoopState(key, learner, data, ())  # pyright: ignore[reportArgumentType]
            refreshed = agent.refresh(key, learner, buffer.replay(data))[1]
            return learn(key, state, agent, buffer, cfg)[1], refreshed

        number = jax.ShapeDtypeStruct((self.seeds,), jnp.float32)
        found = jax.eval_shape(over_seeds(metrics, self.seeds, 0), learner, data, self.keys)
        found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), found)
        shapes: Any = (*found, number, number)
        return Sums(*shapes)

    def _shaped(self, leaves: Any) -> Any:
        """[S N, ...] as [S, N, ...]."""
        return jax.tree.map(lambda leaf: leaf.reshape(self.seeds, leaf.shape[0] // self.seeds, *leaf.shape[1:]), leaves)

    def _begin(self) -> Work:
        """The state after the warm-up."""
        learner, data, key, seeds, keys, held = self.parts.begin(self.keys)
        self._new_episodes(seeds)
        for i in range(self.cfg.warmup):
            trajectory, _, _ = self._collect(self.parts.random, learner, (keys, held), i)
            data = self.parts.fill(data, trajectory)
        return Work(HostState(key, learner, data, self.obs))

    def _again(self, work: Work) -> Work:
        """What continues a state: new episodes, and in the buffer the end of those that were in progress."""
        state: HostState = work.state
        data, seeds = self.parts.again(state, np.int32(work.position))
        self._new_episodes(seeds)
        return work._replace(state=state._replace(buffer=data, obs=self.obs))

    def _new_episodes(self, seeds: Array) -> None:
        obs, self.steps = self.envs.reset(np.asarray(seeds).reshape(-1, 2)), 0
        self._watch({"the observation": obs})
        self.obs = self._shaped(obs)
        self.carry = self.parts.carry(self.keys)

    def _watch(self, given: dict[str, Any]) -> None:
        """Looks for NaN where the environments do not do so themselves, as those of the adapters do.

        Raises:
          EnvironmentFailed: an environment gave a NaN.
        """
        if self.envs.checked:
            return
        for field, arrays in given.items():
            for array in jax.tree.leaves(arrays):
                if array.dtype.kind == "f" and np.isnan(array).any():
                    copy = int(np.argwhere(np.isnan(array))[0][0])
                    raise EnvironmentFailed(self.loop.env.spec.name, copy, self.steps, f"{field} is NaN")

    def _collect(self, act: Callable, learner: Tree, keys: tuple, i: int) -> tuple[Transition, np.ndarray, np.ndarray]:
        """`unroll` steps in every environment.

        Returns:
          the trajectory [S, T, N, ...]; the number of episodes that ended [S] and the sum of their returns [S].
        """
        rows, ended, ended_return = [], np.zeros(self.seeds, np.float32), np.zeros(self.seeds, np.float32)
        for t in range(self.cfg.unroll):
            began = time.perf_counter()
            out = act(learner, self.carry, self.obs, self.fresh, *keys, np.int32(i), np.int32(t))
            action, self.carry, extras, seeds = out
            action, extras, seeds = jax.device_get((action, extras, seeds))
            acted = time.perf_counter()
            flat = action.reshape(-1, *action.shape[2:])
            if flat.dtype.kind == "f" and not np.isfinite(flat).all():
                flat = np.nan_to_num(flat)  # of a learner that has diverged, which the report tells
            step = self.envs.step(flat, seeds.reshape(-1, 2), None)
            self.steps += 1
            self._watch({"reward": step.reward, "the observation": (step.next_obs, step.obs)})
            stepped = time.perf_counter()
            new = self._shaped(step)
            rows.append(Transition(self.obs, action, new.reward, new.discount, new.next_obs, new.last, extras))
            totals = self.totals + new.reward
            ended += new.last.sum(axis=1)
            ended_return += (new.last * totals).sum(axis=1)
            self.totals = np.where(new.last, np.float32(0), totals)
            self.obs, self.fresh = new.obs, new.last
            self.times["acting"] += acted - began
            self.times["environment"] += stepped - acted
        return jax.tree.map(_time_axis, *rows), ended, ended_return

    def _piece(self, work: Work) -> tuple[Work, Report | None]:
        began = time.monotonic()
        deadline, units = began + SECONDS, self.cfg.cycles * (self.cfg.inner + 1) + 1
        state, sums, at = work
        if at == 0:
            sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.shapes().part)
        try:
            while at < units - 1:
                cycle, unit = divmod(at, self.cfg.inner + 1)
                if unit == 0:
                    state, sums = self._refresh(state, sums, cycle)
                    at += 1
                else:
                    state, sums, done, failure = self._iterations(state, sums, cycle, unit - 1, deadline)
                    at += done
                    if failure is not None:
                        failure.work = Work(state, sums, at)
                        raise failure
                if time.monotonic() > deadline:
                    return Work(state, sums, at), None
            state, report = self._report(state, sums)
            return Work(state), report
        finally:
            self.wall += time.monotonic() - began

    def _cycle_keys(self, state: HostState, cycle: int) -> tuple:
        return self.parts.cycle(state.key, np.int32(cycle))

    def _refresh(self, state: HostState, sums: Sums, cycle: int) -> tuple[HostState, Sums]:
        self.acting = None
        if self.loop.agent.refresh is no_refresh:
            return state, sums
        began = time.perf_counter()
        key = self._cycle_keys(state, cycle)[0]
        learner, refreshes = self.parts.refresh(state.learner, state.buffer, sums.refreshes, key)
        jax.block_until_ready(learner)
        self.times["learning"] += time.perf_counter() - began
        return state._replace(learner=learner), sums._replace(refreshes=refreshes)

    def _iterations(
        self, state: HostState, sums: Sums, cycle: int, first: int, deadline: float
    ) -> tuple[HostState, Sums, int, EnvironmentFailed | None]:
        """The iterations of a cycle from `first` on, up to its end, the deadline or a failure.

        Returns:
          the state and sums after the last whole iteration; how many there were; what an environment failed with.
        """
        _, keys, learn_keys = self._cycle_keys(state, cycle)
        overlap, acting = self.cfg.overlap, state.learner if self.acting is None else self.acting
        block, i, failure = [], first, None
        collected: list[Transition] = []  # not learned from yet
        while i < self.cfg.inner and failure is None and (i == first or time.monotonic() < deadline):
            stop = min(self.cfg.inner, (i // overlap + 1) * overlap) if overlap else i + 1
            future = None
            if collected:
                future = self.learner.submit(self._learn, state, sums, collected, learn_keys, i - len(collected), True)
            block = []
            while i < stop and failure is None:
                obs, sums_before = self.obs, sums
                try:
                    rows, ended, ended_return = self._collect(self.parts.act, acting, (keys,), i)
                except EnvironmentFailed as error:
                    failure, self.obs = error, obs
                else:
                    sums = sums_before._replace(ended=sums.ended + ended, ended_return=sums.ended_return + ended_return)
                    block.append(rows)
                    i += 1
            state, sums = self._joined(state, sums, future)
            if overlap:
                acting, collected = state.learner, block
            elif block:
                state, sums = self._learn(state, sums, block, learn_keys, i - 1, False)
                acting = state.learner
        if collected:
            state, sums = self._learn(state, sums, collected, learn_keys, i - len(collected), False)
        self.acting = acting if overlap and i < self.cfg.inner else None
        return state._replace(obs=self.obs), sums, i - first, failure

    def _joined(self, state: HostState, sums: Sums, future: Future | None) -> tuple[HostState, Sums]:
        """The state after what is learned on the other thread, if anything is."""
        if future is None:
            return state, sums
        began = time.perf_counter()
        state, learned = future.result()
        self.times["learning"] += time.perf_counter() - began
        return state, sums._replace(iterations=learned.iterations)

    def _learn(
        self, state: HostState, sums: Sums, block: list[Transition], keys: Key, first: int, alongside: bool
    ) -> tuple[HostState, Sums]:
        """Stores and learns from whole iterations, of which `first` is the first one's number in its cycle."""
        began = time.perf_counter()
        learner, data, totals = state.learner, state.buffer, sums.iterations
        for i, rows in enumerate(block):
            learner, data, totals = self.parts.learn(learner, data, totals, rows, keys, np.int32(first + i))
        jax.block_until_ready(jax.tree.leaves(learner)[:1])
        self.times[ALONGSIDE if alongside else "learning"] += time.perf_counter() - began
        return state._replace(learner=learner, buffer=data), sums._replace(iterations=totals)

    def _report(self, state: HostState, sums: Sums) -> tuple[HostState, Report]:
        """The chunk's end: the mean metrics and an evaluation."""
        cfg = self.cfg
        key, key_evaluate, bad = self.parts.end(state.key, state.learner)
        ended, total = np.asarray(sums.ended), np.asarray(sums.ended_return)
        metrics: dict[str, Any] = {"return": total / np.maximum(ended, 1), "episodes": ended}
        metrics |= {name: value / (cfg.cycles * cfg.inner) for name, value in sums.iterations.items()}
        metrics |= {name: value / cfg.cycles for name, value in sums.refreshes.items()}
        began = time.perf_counter()
        returns, lengths = self._evaluate(state.learner, key_evaluate)
        self.times["evaluation"] += time.perf_counter() - began
        fine = np.zeros(self.seeds, bool)  # an observation or a reward that is NaN has ended the run
        faults: dict[str, Any] = {"observation": fine, "reward": fine, "learner": bad}
        return state._replace(key=key), Report(metrics, returns, lengths, faults)

    def _evaluate(self, learner: Tree, key: Key) -> tuple[Any, Any]:
        """Complete episodes of the deterministic policy, side by side, as `train.evaluate.evaluate` counts them."""
        episodes, limit = self.cfg.eval_episodes, self.loop.eval_env.spec.time_limit
        if episodes == 0 or limit is None:
            return np.zeros((self.seeds, episodes), np.float32), np.zeros((self.seeds, episodes), np.int32)
        if self.eval_envs is None:
            self.eval_envs = self.loop.eval_env.make(self.seeds * episodes, self.loop.workers)
        return host_evaluate.play(self.parts.eval_act, learner, self.parts.eval_begin(key), self.eval_envs, limit)


def _time_axis(*steps: np.ndarray) -> np.ndarray:
    """Arrays [S, N, ...] of T steps as [S, T, N, ...]."""
    return np.expand_dims(steps[0], 1) if len(steps) == 1 else np.stack(steps, 1)
