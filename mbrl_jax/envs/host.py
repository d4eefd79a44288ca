"""Environments whose steps are Python, side by side: in this process or divided among others.

An adapter describes one environment as a record `One`; `host_env` makes a `HostEnv` of it. Every row is checked: what
breaks the contract ends in an `EnvironmentFailed` that names environment, step and field. This module imports no jax,
so that a process that only steps environments starts fast.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

if TYPE_CHECKING:
    from mbrl_jax.core.types import HostEnv, HostEnvs, HostStep, Spec


class One(NamedTuple):
    """One environment as an adapter gives it; nothing in it resets by itself."""

    reset: Callable[[int], Any]  # (seed, at least 0 and below 2^64) -> obs
    step: Callable[[Any], tuple[Any, float, float, bool]]  # (action) -> obs, reward, discount, last
    close: Callable[[], None]
    render: Callable[[], Any] | None = None  # () -> [height, width, 3] uint8
    observe: Callable[[], Any] | None = None  # () -> obs after a step, in place of the one that `step` returns


class Leaf(NamedTuple):
    """Shape and dtype of an array in an observation."""

    shape: tuple[int, ...]
    dtype: str


class Plan(NamedTuple):
    """What a process needs to step environments; it can be pickled if `make` can."""

    make: Callable[[], One]
    obs: Any  # the observation's arrays as `Leaf`s: one, or a dict or a tuple of them
    action: Leaf
    repeat: int  # steps for which an action is repeated


class Trouble(Exception):
    """What goes wrong in an environment, without its name. The arguments: copy, step, text."""


Rows = tuple[Any, np.ndarray, np.ndarray, np.ndarray, Any]  # the fields of a `HostStep`


def host_env(spec: Spec, make: Callable[[], One], repeat: int = 1, drawn: Callable[[], One] | None = None) -> HostEnv:
    """A `HostEnv` of an environment that an adapter makes one by one.

    Args:
      spec: of one step of the environment; actions as agents take them.
      make: () -> One. Processes need one that can be pickled: a function of a module, or a `functools.partial` of it.
      repeat: steps for which every action is repeated, at least 1; rewards are summed up to the end of the episode.
      drawn: `make` of an environment whose `render` gives a picture; None if there is none.
    Returns:
      the environment; its time limit is divided by `repeat`, rounded up.
    Raises:
      ValueError: `repeat` is below 1.
    """
    from mbrl_jax.core.types import HostEnv

    if repeat < 1:
        raise ValueError(f"repeat must be at least 1, got {repeat}")
    plan = Plan(make, layout(spec.obs), layout(spec.action), repeat)
    pictured = plan if drawn is None else plan._replace(make=drawn)
    limit = None if spec.time_limit is None else math.ceil(spec.time_limit / repeat)
    spec = spec._replace(time_limit=limit)

    def side(count: int, workers: int = 0, drawn: bool = False) -> HostEnvs:
        return side_by_side(spec.name, pictured if drawn else plan, count, workers)

    return HostEnv(spec, side, drawn is not None)


def side_by_side(name: str, plan: Plan, count: int, workers: int = 0) -> HostEnvs:
    """Environments that are stepped together.

    Args:
      name: of the environment, for messages.
      plan: how one is made, and the form of its rows.
      count: how many, at least 1.
      workers: processes that share them; 0 steps them in this one, one after the other.
    Returns:
      the environments, which start the next episode by themselves.
    Raises:
      ValueError: a count out of range, or an environment that cannot be sent to a process.
      EnvironmentFailed: one cannot be made.
    """
    if count < 1 or workers < 0:
        raise ValueError(f"count must be at least 1 and workers at least 0, got {count} and {workers}")
    group = _named(name, lambda: Processes(plan, count, workers) if workers else Group(plan, range(count)))
    from mbrl_jax.core.types import HostEnvs, HostStep

    def reset(seeds: Any) -> Any:
        return _named(name, lambda: group.reset(whole(seeds)))

    def step(actions: Any, seeds: Any, active: Any = None) -> HostStep:
        on = [True] * count if active is None else [bool(x) for x in active]
        ends = None if seeds is None else whole(seeds)
        return HostStep(*_named(name, lambda: group.step(np.asarray(actions), ends, on)))

    return HostEnvs(reset, step, group.close, lambda i: _named(name, lambda: group.render(i)), checked=True)


def whole(seeds: Any) -> list[int]:
    """Seeds [N, 2] uint32 as whole numbers below 2^64."""
    return [(int(high) << 32) | int(low) for high, low in np.asarray(seeds)]


def layout(space: Any) -> Any:
    """The arrays of a space as `Leaf`s, in its own structure.

    Args:
      space: with `shape` and `dtype`; a dict, list or tuple of such, or a `DictSpace`.
    """
    space = parts_of(space)
    if isinstance(space, dict):
        return {name: layout(space[name]) for name in space}
    if isinstance(space, list) or type(space) is tuple:
        return tuple(layout(part) for part in space)
    return Leaf(tuple(space.shape), np.dtype(space.dtype).name)


def parts_of(space: Any) -> Any:
    """The dict of a `DictSpace`; any other space unchanged."""
    parts = getattr(space, "spaces", None)
    return parts if isinstance(parts, dict) else space


def _named(name: str, work: Callable[[], Any]) -> Any:
    """Turns a `Trouble` into an `EnvironmentFailed`."""
    try:
        return work()
    except Trouble as trouble:
        from mbrl_jax.core.types import EnvironmentFailed

        raise EnvironmentFailed(name, *trouble.args) from trouble.__cause__


class Group:
    """Environments of this process.

    Args:
      plan: how one is made, and the form of its rows.
      copies: their numbers.
    """

    def __init__(self, plan: Plan, copies: Sequence[int]):
        self.plan, self.copies, self.steps = plan, list(copies), [0] * len(copies)
        self.ones: list[One] = []
        for i in range(len(copies)):
            self.ones.append(self._guarded(i, "making it", plan.make))
        self.obs: list[Any] = []

    def reset(self, seeds: Sequence[int]) -> Any:
        """The first observations [N, ...] of new episodes."""
        self.obs = [self._reset(i, seed) for i, seed in enumerate(seeds)]
        return stack(self.obs)

    def step(self, actions: np.ndarray, seeds: Sequence[int] | None, active: Sequence[bool]) -> Rows:
        """The fields of a `HostStep`; of environments that are not active, an empty row. None: nothing is reset."""
        count = len(self.ones)
        reward, discount, last = np.zeros(count, np.float32), np.ones(count, np.float32), np.zeros(count, bool)
        following = list(self.obs)
        for i in range(count):
            if active[i]:
                following[i], reward[i], discount[i], last[i] = self._advance(i, actions[i])
        next_obs = stack(following)
        if seeds is None or not last.any():
            self.obs = following
            return next_obs, reward, discount, last, next_obs
        self.obs = [self._reset(i, seeds[i]) if last[i] else following[i] for i in range(count)]
        return stack(self.obs), reward, discount, last, next_obs

    def render(self, i: int) -> Any:
        """A picture of environment i, None where it has none."""
        draw = self.ones[i].render
        return None if draw is None else self._guarded(i, "render", draw)

    def close(self) -> None:
        """Closes all environments; what they raise then changes nothing any more."""
        for one in self.ones:
            with suppress(Exception):
                one.close()

    def _reset(self, i: int, seed: int) -> Any:
        obs = self._guarded(i, "reset", lambda: self.ones[i].reset(seed))
        return self._array(i, obs, self.plan.obs, "the observation of reset")

    def _advance(self, i: int, action: np.ndarray) -> tuple[Any, float, float, bool]:
        """An action, repeated up to the end of the episode."""
        total, product, obs, last = 0.0, 1.0, None, False
        observe = self.ones[i].observe
        for _ in range(self.plan.repeat):
            self.steps[i] += 1
            out = self._guarded(i, "step", lambda: self.ones[i].step(action))
            if observe is None:
                obs = self._array(i, out[0], self.plan.obs, "the observation")
            reward, discount, last = self._number(i, out[1], "reward"), self._number(i, out[2], "discount"), out[3]
            total, product = total + reward, product * discount
            if last:
                break
        if observe is not None:  # once, however often the action is repeated: it may be dear
            obs = self._array(i, self._guarded(i, "step", observe), self.plan.obs, "the observation")
        return obs, total, product, bool(last)

    def _guarded(self, i: int, what: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; what it raises becomes a `Trouble`, with the place in the code that raised it."""
        try:
            return work()
        except Trouble:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
            text = " ".join(str(error).split())[:300]
            self._fail(i, f"{what} raised {type(error).__name__}: {text}{where}", error)

    def _fail(self, i: int, text: str, cause: BaseException | None = None) -> NoReturn:
        raise Trouble(self.copies[i], self.steps[i], text) from cause

    def _number(self, i: int, value: Any, field: str) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            self._fail(i, f"{field} must be a number, got {type(value).__name__} of shape {np.shape(value)}")
        if number != number:
            self._fail(i, f"{field} is NaN")
        return number

    def _array(self, i: int, value: Any, leaf: Any, field: str) -> Any:
        """A copy of an observation in the dtypes of the plan; a `Trouble` where it has another form."""
        if not isinstance(leaf, Leaf):
            return self._arrays(i, value, leaf, field)
        try:
            array = np.array(value, leaf.dtype)
        except (TypeError, ValueError):
            self._fail(i, f"{field} must be {leaf.dtype} of shape {leaf.shape}, got a {type(value).__name__}")
        if array.shape != leaf.shape:
            self._fail(i, f"{field} must have shape {leaf.shape}, as the space says, got {array.shape}")
        if array.dtype.kind == "f" and np.isnan(array).any():
            entries = np.argwhere(np.isnan(array))
            self._fail(i, f"{field} is NaN in {len(entries)} of {array.size} entries, first {entries[0].tolist()}")
        return array

    def _arrays(self, i: int, value: Any, leaf: Any, field: str) -> Any:
        names = list(leaf) if isinstance(leaf, dict) else list(range(len(leaf)))
        have = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, tuple) else None
        if have is None or set(have) != set(names):
            self._fail(
                i, f"{field} must have the entries {names}, got {type(value).__name__ if have is None else have}"
            )
        parts = {name: self._array(i, value[name], leaf[name], f"{field}, {name}") for name in names}
        return parts if isinstance(leaf, dict) else tuple(parts.values())


def stack(rows: Sequence[Any]) -> Any:
    """Rows of one structure as arrays with a new leading axis; new arrays, which nothing else writes to.

    Args:
      rows: at least one: arrays, or dicts or tuples of them.
    """
    if isinstance(rows[0], dict):
        return {name: stack([row[name] for row in rows]) for name in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(stack(parts) for parts in zip(*rows, strict=True))
    return np.stack(rows)


def join(groups: Sequence[Any]) -> Any:
    """`stack` for rows that have a leading axis already."""
    if isinstance(groups[0], dict):
        return {name: join([group[name] for group in groups]) for name in groups[0]}
    if isinstance(groups[0], tuple):
        return tuple(join(parts) for parts in zip(*groups, strict=True))
    return np.concatenate(groups)


class Processes:
    """Environments divided among processes, which are started anew (spawn): a copy of one that runs jax may hang.

    Args:
      plan: how one is made, and the form of its rows.
      count: environments in all.
      workers: processes, at most one for each environment.
    """

    def __init__(self, plan: Plan, count: int, workers: int):
        self.steps = 0
        self.shares = [part.tolist() for part in np.array_split(np.arange(count), min(workers, count))]
        start = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        try:
            needs_main = b"__main__" in pickle.dumps(plan)
        except Exception as error:
            raise ValueError(
                "env_workers must be 0 for an environment that is no function of a module: it cannot be sent to "
                f"another process ({' '.join(str(error).split())[:120]})"
            ) from error
        try:
            for share in self.shares:
                here, there = start.Pipe()
                process = start.Process(target=serve, args=(there, plan, share), daemon=True)
                with nullcontext() if needs_main else without_main():
                    process.start()
                there.close()
                self.pipes.append(here)
                self.processes.append(process)
            self._answers()
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int]) -> Any:
        """As `Group.reset`."""
        return join(self._ask("reset", lambda share: ([seeds[i] for i in share],)))

    def step(self, actions: np.ndarray, seeds: Sequence[int] | None, active: Sequence[bool]) -> Rows:
        """As `Group.step`."""
        self.steps += 1

        def arguments(share: list[int]) -> tuple:
            own = None if seeds is None else [seeds[i] for i in share]
            return actions[share], own, [active[i] for i in share]

        return join(self._ask("step", arguments))

    def render(self, i: int) -> Any:
        """As `Group.render`."""
        process = next(p for p, share in enumerate(self.shares) if i in share)
        self._send(process, "render", (self.shares[process].index(i),))
        return self._answer(process)

    def close(self) -> None:
        """Ends all processes."""
        for i, pipe in enumerate(self.pipes):
            with suppress(OSError):  # it has ended already
                pipe.send(("close", ()))
            pipe.close()
            self.processes[i].join(2)
            if self.processes[i].is_alive():
                self.processes[i].kill()
                self.processes[i].join()

    def _ask(self, what: str, arguments: Callable[[list[int]], tuple]) -> list[Any]:
        for i, share in enumerate(self.shares):
            self._send(i, what, arguments(share))
        return self._answers()

    def _send(self, i: int, what: str, arguments: tuple) -> None:
        try:
            self.pipes[i].send((what, arguments))
        except OSError:
            self._died(i)

    def _answers(self) -> list[Any]:
        """All answers are read before a failure is raised, so that none is left in a pipe."""
        answers, trouble = [], None
        for i in range(len(self.shares)):
            try:
                answers.append(self._answer(i))
            except Trouble as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble
        return answers

    def _answer(self, i: int) -> Any:
        try:
            kind, value = self.pipes[i].recv()
        except (EOFError, OSError):
            self._died(i)
        if kind == "trouble":
            raise Trouble(*value)
        return value

    def _died(self, i: int) -> NoReturn:
        process = self.processes[i]
        process.join(2)
        code = process.exitcode
        how = "without an answer" if code is None else f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by signal {signal.Signals(-code).name}"
        copies = self.shares[i]
        others = f" (it stepped copies {copies[0]} to {copies[-1]})" if len(copies) > 1 else ""
        raise Trouble(copies[0], self.steps, f"its process ended {how}{others}")


@contextmanager
def without_main() -> Iterator[None]:
    """A context in which a new process does not import the user's script, which might train in its turn."""
    main = sys.modules["__main__"].__dict__
    hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(hidden)


def serve(pipe: Any, plan: Plan, copies: Sequence[int]) -> None:
    """Steps environments as another process asks; ends with it.

    Args:
      pipe: to that process: (method of `Group`, arguments) in, ("done", value) or ("trouble", arguments) out.
      plan: how an environment is made.
      copies: their numbers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    group: Group | None = None
    for what, arguments in _messages(pipe):
        try:
            if what == "start":
                group = Group(plan, copies)
                value = None
            else:
                value = getattr(group, what)(*arguments)
            pipe.send(("done", value))
        except Trouble as trouble:
            pipe.send(("trouble", trouble.args))
        except OSError:  # nobody listens any more
            break
    if group is not None:
        group.close()


def _messages(pipe: Any) -> Iterator[tuple[str, tuple]]:
    """What is asked through a pipe, up to a "close" or its end; first of all the start."""
    yield "start", ()
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        if message[0] == "close":
            return
        yield message


def map_obs(env: HostEnv, space: Any, change: Callable[[Any], Any]) -> HostEnv:
    """The same environment with every observation changed.

    Args:
      env: any host environment.
      space: of the new observations.
      change: (obs [N, ...]) -> obs [N, ...], new NumPy arrays.
    """

    def make(count: int, workers: int = 0, drawn: bool = False) -> HostEnvs:
        inner = env.make(count, workers, drawn)

        def step(actions: Any, seeds: Any, active: Any = None) -> HostStep:
            out = inner.step(actions, seeds, active)
            next_obs = change(out.next_obs)
            return out._replace(obs=next_obs if out.obs is out.next_obs else change(out.obs), next_obs=next_obs)

        return inner._replace(reset=lambda seeds: change(inner.reset(seeds)), step=step)

    return env._replace(spec=env.spec._replace(obs=space), make=make)


def frame_stack(env: HostEnv, count: int) -> HostEnv:
    """The last frames as one image, so that velocities show: channels of the oldest first.

    An episode starts with copies of its first frame.

    Args:
      env: observed as images or planes [height, width, channels].
      count: k, number of frames, at least 1.
    Returns:
      the same environment with observations [height, width, k channels]; its name ends in "-stackK".
    Raises:
      ValueError: other observations, or a count below 1 or above an episode.
    """
    from mbrl_jax.core.types import Box

    space, name, most = env.spec.obs, env.spec.name, env.spec.time_limit
    if not isinstance(space, Box) or len(space.shape) != 3:
        raise ValueError(f"frame_stack needs images [height, width, channels], {name} has {space}")
    if count < 1 or (most is not None and count > most):
        raise ValueError(f"env must stack from 1 frame to {most or 'any number'}, an episode of {name}, got {count}")
    channels = space.shape[2]

    def bound(value: Any) -> Any:
        return value if np.ndim(value) == 0 else np.tile(np.broadcast_to(np.asarray(value), space.shape), count)

    def first(obs: Any) -> Any:
        return np.tile(obs, (1, 1, 1, count))

    def make(size: int, workers: int = 0, drawn: bool = False) -> HostEnvs:
        inner, frames = env.make(size, workers, drawn), np.zeros(0)

        def reset(seeds: Any) -> Any:
            nonlocal frames
            frames = first(inner.reset(seeds))
            return frames

        def step(actions: Any, seeds: Any, active: Any = None) -> HostStep:
            nonlocal frames
            out = inner.step(actions, seeds, active)
            following = np.concatenate([frames[..., channels:], out.next_obs], axis=3)
            frames = following
            if out.last.any() and seeds is not None:
                frames = np.where(out.last[:, None, None, None], first(out.obs), following)
            return out._replace(obs=frames, next_obs=following)

        return inner._replace(reset=reset, step=step)

    shape = (*space.shape[:2], count * channels)
    spec = env.spec._replace(
        obs=Box(shape, bound(space.low), bound(space.high), space.dtype), name=f"{name}-stack{count}"
    )
    return env._replace(spec=spec, make=make)


def flatten(env: HostEnv) -> HostEnv:
    """Observations as float32 vectors, in row-major order.

    Args:
      env: with `Box` observations.
    Raises:
      ValueError: the observations are no Box.
    """
    from mbrl_jax.core.types import Box

    space = env.spec.obs
    if not isinstance(space, Box):
        raise ValueError(f"flatten needs a Box of observations, {env.spec.name} has {space}")

    def bound(value: Any) -> Any:
        return value if np.ndim(value) == 0 else np.broadcast_to(np.asarray(value), space.shape).reshape(-1)

    flat = Box((space.size,), bound(space.low), bound(space.high))
    return map_obs(env, flat, lambda obs: obs.reshape(len(obs), -1).astype(np.float32))


def one_hot(env: HostEnv) -> HostEnv:
    """Numbered observations as one-hot float32 vectors, those of several numbers one after the other.

    Args:
      env: with `Discrete` or `MultiDiscrete` observations.
    Raises:
      ValueError: the observations are not discrete.
    """
    from mbrl_jax.core.types import Discrete, MultiDiscrete

    space = env.spec.obs
    if not isinstance(space, Discrete | MultiDiscrete):
        raise ValueError(f"one_hot needs discrete observations, {env.spec.name} has {space}")
    return map_obs(env, *_for_networks(space, False))


def by_leaf(env: HostEnv, planes: bool = False) -> HostEnv:
    """Observations that are a dict, each of its arrays in the form that networks take (as `wrappers.by_leaf`).

    Args:
      env: with `DictSpace` observations.
      planes: keep planes [height, width, channels] as they are.
    Raises:
      ValueError: other observations.
    """
    from mbrl_jax.core.types import DictSpace

    space = env.spec.obs
    if not isinstance(space, DictSpace) or not space.spaces:
        raise ValueError(f"by_leaf needs observations that are a dict of arrays, {env.spec.name} has {space}")
    leaves = {name: _for_networks(leaf, planes) for name, leaf in space.spaces.items()}
    new = DictSpace({name: leaf for name, (leaf, _) in leaves.items()})
    return map_obs(env, new, lambda obs: {name: change(obs[name]) for name, (_, change) in leaves.items()})


def _for_networks(space: Any, planes: bool) -> tuple[Any, Callable[[Any], Any]]:
    """The space of an array as networks take it, and (array [N, ...]) -> array [N, ...] into it."""
    from mbrl_jax.core.images import is_image
    from mbrl_jax.core.types import Box, Discrete, MultiDiscrete

    if isinstance(space, Discrete):
        rows = np.eye(space.n, dtype=np.float32)
        return Box((space.n,), 0.0, 1.0), lambda obs: rows[obs]
    if isinstance(space, MultiDiscrete):
        tables = [np.eye(n, dtype=np.float32) for n in space.nvec]
        code = lambda obs: np.concatenate([table[obs[:, i]] for i, table in enumerate(tables)], axis=1)  # noqa: E731
        return Box((space.size,), 0.0, 1.0), code
    if len(space.shape) == 1 or is_image(space) or (planes and len(space.shape) == 3):
        return space, lambda obs: obs
    return Box((space.size,)), lambda obs: obs.reshape(len(obs), -1).astype(np.float32)


def scaled(step: Callable[[Any], Any], low: Any, high: Any, shape: tuple[int, ...], dtype: Any) -> Callable[[Any], Any]:
    """A `step` that takes actions in [-1, 1] as vectors and scales them to bounds.

        a = (high + low) / 2 + (high - low) / 2 · clip(u, -1, 1)

    Args:
      step: of an environment, whose actions have a shape and a dtype.
      low, high: their bounds, finite.
      shape, dtype: theirs.
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    centre, half = (high + low) / 2, (high - low) / 2

    def scaled_step(action: Any) -> Any:
        clipped = np.clip(np.asarray(action, np.float32).reshape(shape), -1.0, 1.0)
        return step((centre + half * clipped).astype(dtype))

    return scaled_step
