"""What every buffer promises: what was added is what is kept, rows whole, windows in order and of one environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Buffer, Transition
from mbrl_jax.testing.faults import attempted, refuse, source_file

ENVS = 2
STEPS = 3
"""Environments, and steps of each trajectory that is added."""
EPISODE = 5
"""Steps of an episode of environment 0; those of environment 1 are two steps longer."""
LENGTH = 4
"""Rows of a window."""

Kind = Literal["transitions", "latest", "windows"]


def check_buffer(make: Callable[[int, int], Buffer], kind: Kind = "transitions") -> None:
    """Checks that a buffer keeps the contract of `Buffer`; silent where it does.

    Numbered transitions of two environments are added, three steps at a time, until rows are overwritten; what is
    sampled is then held against what was added.

    Args:
      make: (capacity, num_envs) -> Buffer; a buffer of windows makes them 4 rows long, one of the latest trajectory
        takes 3 steps.
      kind: "transitions" for single rows [n, ...], "latest" for the newest trajectory [T, N, ...], "windows" for
        `buffers.sequence.Window`s.
    Raises:
      ValueError: it breaks the contract; the message lists every fault found.
    """
    refuse("the buffer", find_faults(make, kind))


def find_faults(make: Callable[[int, int], Buffer], kind: Kind = "transitions") -> list[str]:
    """What is wrong with a buffer, in words, as `check_buffer` would list it.

    Args:
      make: as for `check_buffer`.
      kind: likewise.
    Returns:
      one line for each fault; none where the buffer keeps its contract.
    """
    looks = {"transitions": _row_faults, "latest": _latest_faults, "windows": _window_faults}
    if kind not in looks:
        raise ValueError(f"kind must be one of {', '.join(looks)}, got {kind!r}")

    def look() -> Iterator[str]:
        buffer = make(24, ENVS)
        yield from _form_faults(buffer)
        yield from looks[kind](buffer)

    return attempted("buffer", look, source_file(make))


def trajectory(start: int, steps: int = STEPS) -> Transition:
    """Transitions [steps, 2, ...] of two environments, distinguished by the numbers in all of their fields.

    Step t of environment e has the number 1000 e + t + 1; its observation is that number and its negative.

    Args:
      start: number of the first step.
      steps: T.
    """
    time = np.arange(start, start + steps)[:, None]
    number = (1000 * np.arange(ENVS)[None] + time + 1).astype(np.float32)
    lengths = EPISODE + 2 * np.arange(ENVS)[None]
    last = (time % lengths) == lengths - 1
    ends = last & (np.arange(ENVS)[None] == 0)  # those of environment 1 run out of time
    obs, after = (np.stack([x, -x], -1) for x in (number, number + 0.5))
    fields = obs, number.astype(np.int32), number, np.where(ends, 0.0, 1.0).astype(np.float32), after, last
    return Transition(*(jnp.asarray(field) for field in fields))


def _filled(buffer: Buffer, additions: int) -> Any:
    item = jax.tree.map(lambda leaf: leaf[0, 0], trajectory(0))
    data, add = buffer.init(item), jax.jit(buffer.add)
    for i in range(additions):
        data = add(data, trajectory(STEPS * i))
    return data


def _form_faults(buffer: Buffer) -> Iterator[str]:
    """Structure, shapes and types, and `vmap` over seeds."""
    before, after = _filled(buffer, 0), _filled(buffer, 2)
    if jax.tree.structure(before) != jax.tree.structure(after):
        yield "add changes the structure of the data"
        return
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            yield f"data{jax.tree_util.keystr(path)} changes from {x.dtype}{list(x.shape)} to {y.dtype}{list(y.shape)}"
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), after)
    alone = buffer.sample(jax.random.key(0), after, 6)
    swept = jax.vmap(lambda key, data: buffer.sample(key, data, 6))(
        jnp.stack([jax.random.key(0), jax.random.key(1)]), both
    )
    for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(swept), strict=True):
        if not np.array_equal(x, y[0]):
            yield "sample under vmap differs from sample alone"
            return
    again = buffer.replay(after).sample(jax.random.key(0), 6)
    if not all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(again), strict=True)):
        yield "replay(data).sample differs from sample"


def _mixed(rows: Any) -> bool:
    """Whether fields of different transitions stand in one row."""
    obs, number = np.asarray(rows.obs), np.asarray(rows.reward)
    whole = (obs[..., 0] == number) & (obs[..., 1] == -number) & (np.asarray(rows.action) == number)
    return not np.all(whole & (np.asarray(rows.next_obs)[..., 0] == number + 0.5))


def _row_faults(buffer: Buffer) -> Iterator[str]:
    additions = 6  # 36 rows into 24
    data, added = _filled(buffer, additions), np.asarray(trajectory(0, additions * STEPS).reward)
    replay = buffer.replay(data)
    batch = buffer.sample(jax.random.key(0), data, 4000)
    if batch.reward.shape != (4000,):
        yield f"sample(key, data, n) must give n rows, got {list(batch.reward.shape)}"
        return
    if _mixed(batch):
        yield "the fields of a row must be those of one transition"
        return
    size = int(replay.size)
    if size != min(added.size, replay.capacity):
        yield f"size must be {min(added.size, replay.capacity)} after {added.size} rows, got {size}"
        return
    newest = sorted(added.reshape(-1)[-size:].tolist())
    taken = replay.take(jnp.arange(size))
    if _mixed(taken) or sorted(np.asarray(taken.reward).tolist()) != newest:
        yield f"take must give the newest {size} rows, one each"
    found = set(np.asarray(batch.reward).tolist())
    if found - set(newest):
        yield f"sample gives rows that are not kept any more: {sorted(found - set(newest))[:5]}"
    if set(newest) - found:
        yield f"sample never gives some of the rows that are kept: {sorted(set(newest) - found)[:5]}"
    few = _filled(buffer, 1)
    early = set(np.asarray(buffer.sample(jax.random.key(1), few, 500).reward).tolist())
    if early - set(np.asarray(trajectory(0).reward).reshape(-1).tolist()):
        yield "sample gives rows that were never written while the buffer is not full"


def _latest_faults(buffer: Buffer) -> Iterator[str]:
    data, newest = _filled(buffer, 3), trajectory(2 * STEPS)
    given = buffer.sample(jax.random.key(0), data, None)
    for name, x, y in zip(Transition._fields, given, newest, strict=True):
        if not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)):
            yield f"sample must give the trajectory added last, {name} differs"
    replay = buffer.replay(data)
    rows = replay.take(jnp.arange(STEPS * ENVS))
    if int(replay.size) != STEPS * ENVS or not np.array_equal(rows.reward, newest.reward.reshape(-1)):
        yield "take must give the rows of that trajectory in order"


def _chain(env: int, steps: int) -> list[tuple[float, float, float, bool, bool]]:
    """The rows of an environment: observation, reward and discount that led to it, first, last."""
    rows, first = [], True
    whole = trajectory(0, steps)
    reward, discount = 0.0, 1.0
    for t in range(steps):
        obs, last = float(whole.obs[t, env, 0]), bool(whole.last[t, env])
        rows.append((obs, 0.0 if first else reward, 1.0 if first else discount, first, False))
        reward, discount, first = float(whole.reward[t, env]), float(whole.discount[t, env]), last
        if last:
            rows.append((float(whole.next_obs[t, env, 0]), reward, discount, False, True))
    return rows


def _window_faults(buffer: Buffer) -> Iterator[str]:
    additions = 7
    data = _filled(buffer, additions)
    window = buffer.sample(jax.random.key(0), data, 3000)
    steps, weight = window.steps, np.asarray(window.weight)
    if steps.reward.shape[1:] != (3000,) or steps.reward.shape[0] != LENGTH:
        yield f"sample must give windows [{LENGTH}, n], got {list(steps.reward.shape)}"
        return
    if not np.all(weight > 0):
        yield "weights must be above 0 once windows are complete"
    fields = [np.asarray(x) for x in (steps.obs[..., 0], steps.reward, steps.discount, steps.first, steps.last)]
    chains = {env: _chain(env, additions * STEPS) for env in range(ENVS)}
    known = {tuple(chain[i : i + LENGTH]): (env, i) for env, chain in chains.items()
             for i in range(len(chain) - LENGTH + 1)}  # fmt: skip
    found = set()
    for b in range(3000):
        rows = tuple((float(o), float(r), float(d), bool(f), bool(z))
                     for o, r, d, f, z in zip(*(field[:, b] for field in fields), strict=True))  # fmt: skip
        if rows not in known:
            yield f"a window must be {LENGTH} consecutive rows of one environment, got observations {fields[0][:, b]}"
            return
        found.add(known[rows])
    capacity = buffer.replay(data).capacity // ENVS
    kept = {
        (env, i) for env, chain in chains.items()
        for i in range(max(0, len(chain) - capacity), len(chain) - LENGTH + 1)
    }  # fmt: skip
    if found - kept:
        yield f"sample gives windows that are not kept any more: {sorted(found - kept)[:3]} (environment, first row)"
    if kept - found:
        yield f"sample never gives some of the windows that are kept: {sorted(kept - found)[:3]}"
    early = buffer.sample(jax.random.key(1), _filled(buffer, 1), 8)
    if np.any(np.asarray(early.weight) > 0):
        yield f"weights must be 0 while no window of {LENGTH} rows is complete"
