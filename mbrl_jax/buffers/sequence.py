"""Windows of consecutive steps, from a ring of rows for each environment.

A row is an observation with the reward and the discount of the step that led to it, and the action taken next. So the
last observation of an episode has a row of its own, and neither it nor its reward is lost:

    o_0 --a_0--> r_1, o_1 --a_1--> r_2, o_2 (end)
    rows:  (o_0, a_0, 0, first)  (o_1, a_1, r_1)  (o_2, -, r_2, last)

Environments therefore hold different numbers of rows. A window is `length` rows of one environment in the order
in which they were written; it may span episodes, which `first` marks, and never lies across the write head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.buffers.uniform import check_axes
from mbrl_jax.core import tree
from mbrl_jax.core.types import Action, Array, Buffer, Key, Obs, Replay, Transition, Tree


class Step(NamedTuple):
    """An observation, the reward and the discount of the step that led to it, and the action taken next."""

    obs: Obs
    action: Action  # taken at `obs`; zeros where `last`
    reward: Array  # [] of the step to `obs`; 0 where `first`
    discount: Array  # [] 0 where `obs` is terminal, else 1
    first: Array  # [] bool: `obs` starts an episode
    last: Array  # [] bool: `obs` ends an episode, by termination or by its time limit
    extras: Tree = ()  # of `act` at `obs`; zeros where `last`


class Window(NamedTuple):
    """A batch of windows, as `sample` returns it."""

    steps: Step  # [L, B, ...] time-major
    index: Array  # [B] int32: where each window starts, for `Feedback`  # pyright: ignore[reportIncompatibleMethodOverride]
    weight: Array  # [B] importance weights; 1 for uniform sampling, 0 while no window is complete


class Feedback(NamedTuple):
    """What an agent's `update` returns for the windows of its batch; None leaves the buffer as it is."""

    index: Array  # [B] as in `Window`  # pyright: ignore[reportIncompatibleMethodOverride]
    priority: Array | None = None  # [B] at least 0, for `prioritized` buffers
    extras: Tree | None = None  # [T, B, ...] fresher extras of the last T rows of each window, T at most L


class Ring(NamedTuple):
    """C rows for each of N environments: row i of environment e is written at e C + i % C."""

    steps: Step  # [N C, ...]
    written: Array  # [N] int32: rows ever written, below 2^31
    used: Array  # [N] int32: rows before this one have left the online queue
    reward: Array  # [N] of the last transition, to be written with the row of its successor
    discount: Array  # [N] likewise
    first: Array  # [N] bool: the next transition starts an episode


def empty(item: Transition, capacity: int, num_envs: int) -> Ring:
    """A ring of `capacity` rows for each environment.

    Args:
      item: one transition, or its shapes.
      capacity: C, rows of each environment.
      num_envs: N.
    """
    flag: Any = jax.ShapeDtypeStruct((), jnp.bool_)
    row = Step(item.obs, item.action, item.reward, item.discount, flag, flag, item.extras)
    steps = jax.tree.map(lambda leaf: jnp.zeros((num_envs * capacity, *leaf.shape), leaf.dtype), row)
    written, used = jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.int32)
    reward, discount = jnp.zeros(num_envs, item.reward.dtype), jnp.ones(num_envs, item.discount.dtype)
    return Ring(steps, written, used, reward, discount, jnp.ones(num_envs, bool))


def append(ring: Ring, trajectory: Transition) -> Ring:
    """Turns transitions into rows and writes them; where an environment's rows are full, over its oldest ones.

    Args:
      ring: N environments, C rows each.
      trajectory: [T, N, ...], each environment's transitions in order, 2T at most C.
    Raises:
      ValueError: more rows than the ring holds, or a trajectory of another structure or shape.
    """
    num_envs, capacity = ring.written.shape[0], per_env(ring)
    own = ring.steps
    row = Transition(own.obs, own.action, own.reward, own.discount, own.obs, own.last, own.extras)
    check_axes(row, trajectory, 2, "trajectory", "[T, N, ...]")
    if trajectory.reward.shape[1] != num_envs:
        raise ValueError(f"trajectory must be of N = {num_envs} environments, got {trajectory.reward.shape[1]}")
    steps = trajectory.reward.shape[0]
    if 2 * steps > capacity:
        raise ValueError(f"capacity must be at least 2 x {steps} rows per environment to add as many steps at once")

    def before(pending: Array, values: Array) -> Array:
        return jnp.concatenate([pending[None], values[:-1]])

    last = trajectory.last.astype(bool)
    first = before(ring.first, last)
    reward = jnp.where(first, 0, before(ring.reward, trajectory.reward))
    discount = jnp.where(first, 1, before(ring.discount, trajectory.discount))
    no = jnp.zeros_like(last)
    going = Step(trajectory.obs, trajectory.action, reward, discount, first, no, trajectory.extras)
    nothing = jax.tree.map(jnp.zeros_like, (trajectory.action, trajectory.extras))
    ending = Step(trajectory.next_obs, nothing[0], trajectory.reward, trajectory.discount, no, ~no, nothing[1])

    rows = 1 + last.astype(jnp.int32)  # [T, N] rows of each transition
    end = ring.written + jnp.cumsum(rows, 0)
    start, base = end - rows, capacity * jnp.arange(num_envs)
    nowhere = num_envs * capacity  # past the end: dropped
    at = jnp.concatenate([base + start % capacity, jnp.where(last, base + (start + 1) % capacity, nowhere)])

    def write(old: Array, going: Array, ending: Array) -> Array:
        new = jnp.concatenate([going, ending]).astype(old.dtype)
        return old.at[at.reshape(-1)].set(new.reshape(at.size, *old.shape[1:]), mode="drop")

    stored = jax.tree.map(write, ring.steps, going, ending)
    pending = trajectory.reward[-1].astype(ring.reward.dtype), trajectory.discount[-1].astype(ring.discount.dtype)
    return Ring(stored, end[-1], ring.used, *pending, last[-1])


def truncate(ring: Ring, obs: Obs) -> Ring:
    """Ends the episodes in progress without a termination, for environments that cannot go on with them.

    Args:
      ring: N environments, C rows each.
      obs: [N, ...] where each episode stopped.
    Returns:
      the ring with a last row of each episode in progress; the next transition of each environment starts an episode.
    """
    num_envs, capacity = ring.written.shape[0], per_env(ring)
    going = ~ring.first
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros((num_envs, *leaf.shape[1:]), leaf.dtype), (ring.steps.action, ring.steps.extras)
    )
    no = jnp.zeros(num_envs, bool)
    rows = Step(obs, nothing[0], ring.reward, ring.discount, no, ~no, nothing[1])
    at = jnp.where(going, capacity * jnp.arange(num_envs) + ring.written % capacity, num_envs * capacity)
    stored = jax.tree.map(lambda old, new: old.at[at].set(new.astype(old.dtype), mode="drop"), ring.steps, rows)
    return ring._replace(steps=stored, written=ring.written + going.astype(jnp.int32), first=~no)


def per_env(ring: Ring) -> int:
    """C, the capacity in rows of each environment.

    Args:
      ring: of N environments.
    """
    return ring.steps.first.shape[0] // ring.written.shape[0]


def windows(ring: Ring, index: Array, length: int) -> Step:
    """The windows [length, B, ...] that start at `index` [B].

    Args:
      ring: of N environments.
      index: [B] int32, as in `Window`; past the end gives any rows.
      length: L, rows of a window.
    """
    capacity = per_env(ring)
    index = jnp.minimum(index, ring.steps.first.shape[0] - 1)
    return tree.take(ring.steps, _rows(index, jnp.arange(length), capacity))


def write_extras(ring: Ring, index: Array, extras: Tree, length: int) -> Ring:
    """Writes `extras` [T, B, ...] into the last T rows of the windows that start at `index` [B].

    Where windows overlap, which of them is kept is not defined.

    Args:
      ring: of N environments.
      index: [B] int32, as in `Window`; past the end where there was no window.
      extras: [T, B, ...], T at most `length`.
      length: L, rows of a window.
    Returns:
      the ring with the new extras; its other fields are unchanged.
    Raises:
      ValueError: more rows than a window has.
    """
    count = jax.tree.leaves(extras)[0].shape[0]
    if count > length:
        raise ValueError(f"extras must be of at most {length} rows, the length of a window, got {count}")
    at = _rows(index, jnp.arange(length - count, length), per_env(ring))  # past the end where there was no window
    new = jax.tree.map(
        lambda old, fresh: old.at[at].set(fresh.astype(old.dtype), mode="drop"), ring.steps.extras, extras
    )
    return ring._replace(steps=ring.steps._replace(extras=new))


def sequence(capacity: int, length: int, num_envs: int, online: int = 0) -> Buffer:
    """A buffer of windows [length, B], drawn uniformly over all windows that can be made.

    `sample(key, data, n)` gives a `Window`; while no window is complete its weights are 0 (see `need_window`). A
    trajectory [T, N, ...] of transitions is added, 2T at most capacity / num_envs. Bytes = capacity x bytes of a `Step`
    (x seeds under `vmap`).

    With `online` above 0, each batch begins with windows that no batch has had yet: each environment's rows are cut
    into adjacent windows, which queue up, oldest first and alternating between environments. They leave the queue when
    `revise` gets a `Feedback` with their index (Hafner et al. 2023, the online queue of the authors' code).

    Args:
      capacity: rows in all, divided evenly among environments.
      length: L, rows of a window.
      num_envs: N.
      online: the most windows of a batch that come from the queue.
    Raises:
      ValueError: a size out of range.
    """
    rows = check_sizes(capacity, length, num_envs)
    if online < 0:
        raise ValueError(f"online must be at least 0, got {online}")
    nowhere = num_envs * rows

    def sample(key: Key, ring: Ring, n: int) -> Window:
        counts = jnp.maximum(jnp.minimum(ring.written, rows) - length + 1, 0)  # [N] windows of each environment
        upto = jnp.cumsum(counts)
        drawn = jax.random.randint(key, (n,), 0, jnp.maximum(upto[-1], 1))
        env = jnp.sum(drawn[:, None] >= upto, axis=1)
        oldest = jnp.maximum(ring.written - rows, 0)
        env = jnp.minimum(env, num_envs - 1)
        start = oldest[env] + drawn - (upto - counts)[env]
        index = jnp.where(upto[-1] > 0, env * rows + start % rows, nowhere)
        if online:
            waiting = queue(ring, length, min(online, n))[0]
            index = index.at[: min(online, n)].set(jnp.where(waiting < nowhere, waiting, index[: min(online, n)]))
        return Window(windows(ring, index, length), index, (index < nowhere).astype(jnp.float32))

    def revise(ring: Ring, feedback: Any) -> Ring:
        if not isinstance(feedback, Feedback):
            return ring
        if feedback.priority is not None:
            raise ValueError("the agent gives priorities, but this buffer samples uniformly")
        if feedback.extras is not None and jax.tree.leaves(feedback.extras):
            ring = write_extras(ring, feedback.index, feedback.extras, length)
        if online:
            waiting, env = queue(ring, length, min(online, feedback.index.shape[0]))
            had = (feedback.index[: waiting.shape[0]] == waiting) & (waiting < nowhere)
            used = jnp.maximum(ring.used, ring.written - rows).at[env].add(jnp.where(had, length, 0))
            ring = ring._replace(used=used)
        return ring

    return Buffer(
        lambda item: empty(item, rows, num_envs), append, sample, lambda ring: replay_of(ring, sample), revise, truncate
    )


def queue(ring: Ring, length: int, slots: int) -> tuple[Array, Array]:
    """The first windows of the online queue.

    Args:
      ring: of N environments.
      length: L, rows of a window.
      slots: number of windows.
    Returns:
      the rows where they start [slots], N C where the queue is shorter; their environments [slots].
    """
    num_envs, capacity = ring.written.shape[0], per_env(ring)
    start = jnp.maximum(ring.used, ring.written - capacity)
    ready = (ring.written - start) // length
    line = jnp.cumsum((jnp.arange(slots)[:, None] < ready).reshape(-1))  # alternating between environments
    at = jnp.searchsorted(line, jnp.arange(1, slots + 1))
    place, env = at // num_envs, at % num_envs
    index = env * capacity + (start[env] + place * length) % capacity
    return jnp.where(place < slots, index, num_envs * capacity), env


def replay_of(ring: Ring, sample: Any) -> Replay:
    """The agent's view of a ring; `take` numbers the rows environment by environment.

    Args:
      ring: of N environments.
      sample: (key, ring, n) -> Window.
    """
    capacity = per_env(ring)
    size = jnp.minimum(ring.written, capacity)
    upto = jnp.cumsum(size)

    def take(index: Array) -> Step:
        env = jnp.sum(index[:, None] >= upto, axis=1)
        return tree.take(ring.steps, env * capacity + index - (upto - size)[env])

    return Replay(lambda key, n: sample(key, ring, n), take, upto[-1], ring.steps.first.shape[0])


def check_sizes(capacity: int, length: int, num_envs: int) -> int:
    """The rows of each environment, after a check that a window fits into them.

    Args:
      capacity: rows in all.
      length: L, rows of a window.
      num_envs: N.
    Raises:
      ValueError: a size below 1, or a capacity without room for a window of each environment.
    """
    if min(length, num_envs) < 1:
        raise ValueError(f"length and num_envs must be at least 1, got {length} and {num_envs}")
    if capacity < num_envs * length:
        raise ValueError(f"capacity must be at least num_envs x length, {num_envs * length}, got {capacity}")
    return capacity // num_envs


def need_window(length: int, steps: int) -> None:
    """Checks that the warm-up fills a window of each environment before the first `sample`.

    Args:
      length: L, rows of a window.
      steps: of each environment in the warm-up.
    Raises:
      ValueError: `steps` is below `length`.
    """
    if steps < length:
        raise ValueError(f"loop.warmup x loop.unroll must be at least the {length} rows of a window, got {steps}")


def _rows(index: Array, offsets: Array, capacity: int) -> Array:
    """Row numbers [T, B] at `offsets` [T] from `index` [B], wrapping around each environment's ring."""
    place = index % capacity
    return index - place + (place + offsets[:, None]) % capacity
