"""The figure of the Dyna maze (example 8.1), against plain NumPy; and what the figures of tabular agents share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import band, canvas, compiled, keys, mean_and_error, save, share, show, timed, write_csv
from mbrl_jax.agents import dyna_q
from mbrl_jax.agents.dyna_q import DynaQConfig
from mbrl_jax.agents.q_learning import QLearningConfig
from mbrl_jax.buffers.latest import latest
from mbrl_jax.core.types import Agent, Array, Env, Key
from mbrl_jax.envs.maze import DYNA, Layout, changing_maze, successors
from mbrl_jax.models import tabular
from mbrl_jax.train.loop import Loop, LoopConfig, LoopState, make_loop
from mbrl_jax.train.sweep import over_seeds_until

REFERENCE = {0: 77.3, 5: 21.0, 10: 19.0, 50: 17.4}
"""Mean steps of episodes 2 to 50 by n, from an independent NumPy run of 30 seeds."""

REFERENCE_SEEDS = 30


def tabular_loop(agent: Agent, env: Env, steps: int) -> Loop:
    """A loop whose chunk is `steps` real steps of a tabular agent."""
    cfg = LoopConfig(inner=steps, cycles=1, warmup=0, eval_episodes=0, capacity=1)
    return make_loop(agent, env, latest(1, 1), cfg)


class Recorded(NamedTuple):
    """The state of an endless environment, and its rewards so far."""

    inner: Any
    time: Array  # [] int32 real steps so far
    total: Array  # [] reward so far; in a maze, the number of goals reached
    ends: Array  # [E] int32: the steps at which the first E rewards came


def recorded(env: Env, episodes: int = 0) -> Env:
    """An endless environment whose state records its rewards; `episodes` is E, the number of times recorded."""

    def reset(key: Key) -> tuple[Recorded, Array]:
        state, obs = env.reset(key)
        return Recorded(state, jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(episodes, jnp.int32)), obs

    def step(key: Key, state: Recorded, action: Array) -> tuple[Recorded, Array, Array, Array, Array]:
        inner, obs, reward, discount, last = env.step(key, state.inner, action)
        time, index = state.time + 1, jnp.where(reward > 0, state.total.astype(jnp.int32), episodes)
        ends = state.ends.at[index].set(time, mode="drop") if episodes else state.ends
        return Recorded(inner, time, state.total + reward, ends), obs, reward, discount, last

    return env._replace(reset=reset, step=step, observe=None)


def lean(state: LoopState) -> LoopState:
    """The state without the counts, which the form "last" writes but never reads: 12 S² A bytes per seed."""
    table = state.learner.table._replace(counts=(), rewards=(), discounts=())
    return state._replace(learner=state.learner._replace(table=table))


def whole(state: LoopState) -> LoopState:
    """A `lean` state with zero counts. Writing to them is dead code, which the compiler removes."""
    blank = tabular.init(*state.learner.q.shape)
    table = state.learner.table._replace(counts=blank.counts, rewards=blank.rewards, discounts=blank.discounts)
    return state._replace(learner=state.learner._replace(table=table))


# Dyna maze ----------------------------------------------------------------------------------------------------------


def episode_ends(
    cfg: DynaQConfig, episodes: int, slots: int, devices: int = 1, chunk: int = 256
) -> Callable[[Key], Array]:
    """Dyna-Q in the Dyna maze: keys [N] -> the real steps at which each episode ended [N, E].

    The maze is one endless run, with the same action values, so that its state can record the episodes. `slots` seeds
    run at once on each device.
    """
    env = recorded(changing_maze(DYNA, DYNA, 0), episodes)
    loop = tabular_loop(dyna_q.make(cfg, env.spec), env, chunk)

    def record(state: LoopState) -> Recorded:
        return jax.tree.map(lambda x: x[0], state.actors.env)

    return over_seeds_until(
        lambda key: lean(loop.init(key)),
        lambda state: lean(loop.chunk(whole(state))[0]),
        lambda state: record(state).total >= episodes,
        lambda state: record(state).ends,
        slots,
        devices,
    )


def numpy_dyna(seed: int, grid: Layout, n: int, episodes: int) -> np.ndarray:
    """The same algorithm as a plain NumPy loop: the steps of each episode [E]."""
    rng, led, width = np.random.default_rng(seed), successors(grid), grid.walls.shape[1]
    start, goal = (row * width + column for row, column in (grid.start, grid.goal))
    cfg = QLearningConfig()
    alpha, gamma, epsilon = cfg.lr, cfg.gamma, cfg.epsilon
    states, actions = led.shape
    q = np.zeros((states, actions))  # the goal's row stays 0
    successors_seen, rewards = np.zeros((states, actions), np.int64), np.zeros((states, actions))
    seen, pairs, found = np.zeros((states, actions), bool), np.zeros(states * actions, np.int64), 0
    lengths = np.zeros(episodes, np.int64)
    for episode in range(episodes):
        state = start
        while state != goal:
            if rng.random() < epsilon:
                action = int(rng.random() * actions)
            else:
                best = np.flatnonzero(q[state] == q[state].max())
                action = best[int(rng.random() * len(best))]
            after = led[state, action]
            reward = float(after == goal)
            q[state, action] += alpha * (reward + gamma * q[after].max() - q[state, action])
            if not seen[state, action]:
                seen[state, action] = True
                pairs[found] = state * actions + action
                found += 1
            successors_seen[state, action], rewards[state, action] = after, reward
            for pair in pairs[(rng.random(n) * found).astype(np.int64)]:
                s, a = divmod(pair, actions)
                q[s, a] += alpha * (rewards[s, a] + gamma * q[successors_seen[s, a]].max() - q[s, a])
            state = after
            lengths[episode] += 1
    return lengths


def dyna_maze_figure(
    out: Path, seeds: int = 1000, plans: tuple[int, ...] = (0, 5, 10, 50), episodes: int = 50,
    slots: int = 128, plain: int = 10, rounds: int = 2,
) -> None:  # fmt: skip
    """Steps per episode by n, and the time per seed against the NumPy loop's.

    Args:
      out: folder.
      seeds: for each n.
      plans: values of n, planned backups per real step.
      episodes: of each seed.
      slots: seeds at once on each device.
      plain: seeds of the NumPy loop.
      rounds: in which the two are timed, alternately.
    """
    devices, start = share(seeds), time.perf_counter()
    figure, (axes,) = canvas(1)
    rows, checks, speeds, seconds, compile_seconds = [], [], [], np.zeros((2, 2)), 0.0
    for i, n in enumerate(plans):
        cfg = DynaQConfig(planning=n, form="last")
        run, compiling = compiled(episode_ends(cfg, episodes, min(slots, seeds // devices), devices), keys(seeds))
        by_numpy, clocks, ends = [], [], np.zeros((seeds, episodes))
        for part in np.array_split(np.arange(plain), rounds):  # alternately, because the machine may be busy
            taken, plain_clock = timed(lambda part=part, n=n: [numpy_dyna(int(s), DYNA, n, episodes) for s in part])
            ends, clock = timed(run, keys(seeds))
            by_numpy += taken
            clocks.append((plain_clock, clock))
        lengths = np.diff(ends, axis=1, prepend=0)
        rows += [
            (n, e + 1, *map(float, mean_and_error(x)), *map(float, np.quantile(x, (0.025, 0.5, 0.975))), int(x.min()))
            for e, x in enumerate(lengths.T)
        ]
        band(axes, np.arange(1, episodes + 1), lengths, i, f"n = {n}")

        later = lengths[:, 1:].mean(1)
        mean, error = mean_and_error(later)
        own, own_error = mean_and_error(np.array(by_numpy)[:, 1:].mean(1))
        known = REFERENCE.get(n, np.nan)
        combined = np.hypot(error, later.std(ddof=1) / np.sqrt(REFERENCE_SEEDS)) if seeds > 1 else np.nan
        far, own_far = (mean - known) / combined, (mean - own) / max(np.hypot(error, own_error), 1e-9)
        checks.append((
            n, f"{lengths[:, 0].mean():.1f}", f"{mean:.2f} ± {error:.2f}", f"{known} ± {combined:.2f}", f"{far:+.2f}",
            f"{own:.2f} ± {own_error:.2f}", f"{own_far:+.2f}",
            "yes" if max(abs(far), abs(own_far)) <= 2 else "no", f"{lengths[:, -10:].mean():.2f}", int(lengths.min()),
        ))  # fmt: skip
        each = np.sum(clocks, 0) / np.array([[plain], [rounds * seeds]])  # [NumPy or JAX, wall or CPU]
        seconds, compile_seconds = seconds + each, compile_seconds + compiling
        speeds.append((n, *_speed(each, seeds), f"{compiling:.1f}"))
    speeds.append(("all", *_speed(seconds, seeds), f"{compile_seconds:.1f}"))

    write_csv(out / "dyna-maze.csv", ("n", "episode", "mean", "error", "q025", "median", "q975", "least"), rows)
    axes.axhline(14, color="#555555", linestyle="--", linewidth=1, label="shortest path, 14 steps")
    axes.set(xlabel="episode", ylabel="steps, mean and 95 % interval", yscale="log", xlim=(1, episodes))
    axes.set_title(f"Dyna-Q in the Dyna maze, n planned backups per step, {seeds} seeds")
    axes.legend(frameon=False)
    save(out / "dyna-maze.png", figure)
    show(
        f"Dyna maze: mean steps of episodes 2 to {episodes}, {seeds} seeds, ± standard errors; reference: independent "
        f"NumPy run of {REFERENCE_SEEDS} seeds (its error from the spread over seeds here); differences in combined "
        "errors, both within 2?",
        (
            "n",
            "episode 1",
            "mean",
            "reference",
            "difference",
            f"NumPy here ({plain})",
            "difference",
            "within",
            "last 10",
            "least",
        ),
        checks,
    )
    show(
        f"Dyna maze: wall-clock and CPU time (all threads) per seed; {seeds} seeds in one program on {devices} "
        f"devices, {plain} seeds in NumPy, alternately, {rounds} rounds",
        (
            "n",
            "NumPy ms/seed",
            "JAX ms/seed",
            "ratio",
            "NumPy CPU ms",
            "JAX CPU ms",
            "ratio",
            "JAX s, all",
            "compile s",
        ),
        speeds,
    )
    print(f"took {time.perf_counter() - start:.1f} s")


def _speed(each: np.ndarray, seeds: int) -> tuple[str, ...]:
    """Table cells of the seconds per seed, [NumPy or JAX, wall or CPU]."""
    cells = [(f"{1e3 * plain:.1f}", f"{1e3 * fast:.3f}", f"{plain / fast:.0f}") for plain, fast in each.T]
    return *cells[0], *cells[1], f"{seeds * each[1, 0]:.2f}"
