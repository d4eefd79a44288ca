"""The figure of example 8.4: backups until the greedy path is good, by size of the maze."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullFormatter

from figures.common import canvas, compiled, keys, save, share, show, timed, write_csv
from figures.mazes import cell, shortest
from figures.tabular import lean, recorded, tabular_loop, whole
from mbrl_jax.agents import dyna_q, sweeping
from mbrl_jax.agents.dyna_q import DynaQConfig
from mbrl_jax.agents.q_learning import QLearningConfig
from mbrl_jax.agents.sweeping import SweepingConfig
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core.types import Array, Env, Key
from mbrl_jax.envs import maze
from mbrl_jax.envs.maze import Layout
from mbrl_jax.train.loop import Loop, LoopState
from mbrl_jax.train.sweep import over_seeds, place

KINDS = ("Dyna-Q", "prioritized sweeping")

CLOSE = 1.2
"""A path is good if it is at most this many times as long as the shortest one."""


def greedy_length(grid: Layout, q: Array, limit: int) -> Array:
    """[] int32: length of the greedy path from the start to the goal; limit + 1 if it is longer than that."""
    led, goal = jnp.asarray(maze.successors(grid)), cell(grid, grid.goal)

    def onward(at: tuple[Array, Array]) -> Array:
        return (at[0] != goal) & (at[1] <= limit)

    def step(at: tuple[Array, Array]) -> tuple[Array, Array]:
        return led[at[0], jnp.argmax(q[at[0]])], at[1] + 1

    return jax.lax.while_loop(onward, step, (jnp.int32(cell(grid, grid.start)), jnp.int32(0)))[1]


class Search(NamedTuple):
    """A run up to its first good greedy path."""

    loop: LoopState
    steps: Array  # [] int32 real steps
    backups: Array  # [] int32
    blind: Array  # [] int32 backups before the first reward
    good: Array  # [] bool


def agent_loop(
    kind: str, env: Env, lr: Array | float, planning: int, steps: int
) -> tuple[Loop, Callable[..., Any], Callable[..., Any]]:
    """A loop of one of `KINDS`, and functions that drop parts of its state between chunks and put them back."""
    policy = QLearningConfig(lr=lr)  # pyright: ignore[reportArgumentType]
    if kind == "Dyna-Q":
        agent, keep, back = (
            dyna_q.make(DynaQConfig(policy=policy, planning=planning, form="last"), env.spec),
            lean,
            whole,
        )
    else:
        agent = sweeping.make(SweepingConfig(policy=policy, planning=planning), env.spec)
        keep = back = lambda state: state
    return tabular_loop(agent, env, steps), keep, back


def search(
    factor: int, kind: str, planning: int, budget: int, every: int = 10
) -> Callable[[tuple[Key, Array]], tuple[Array, Array, Array, Array]]:
    """(key, step size) -> backups until the greedy path is good, backups before the first reward, real steps, success.

    Args:
      factor: of the maze's sides.
      kind: one of `KINDS`.
      planning: backups per real step.
      budget: maximum number of real steps.
      every: real steps between two tests of the path, divided by the factor.
    """
    grid = maze.grow(maze.DYNA, factor)
    env = recorded(maze.changing_maze(grid, grid, 0))  # endless, so that its state records the first reward
    limit, chunk = int(CLOSE * shortest(grid)), every * factor

    def one(seed: tuple[Key, Array]) -> tuple[Array, Array, Array, Array]:
        key, lr = seed
        loop, keep, back = agent_loop(kind, env, lr, planning, chunk)

        def advance(at: Search) -> Search:
            state, report = loop.chunk(back(at.loop))
            backups = at.backups + jnp.round(report.metrics["backups"] * chunk).astype(jnp.int32)
            blind = jnp.where(state.actors.env.total[0] > 0, at.blind, backups)
            good = greedy_length(grid, state.learner.q, limit) <= limit
            return Search(keep(state), at.steps + chunk, backups, blind, good)

        zero = jnp.zeros((), jnp.int32)
        first = Search(keep(loop.init(key)), zero, zero, zero, jnp.zeros((), bool))
        end = jax.lax.while_loop(lambda at: ~at.good & (at.steps < budget), advance, first)
        return end.backups, end.blind, end.steps, end.good

    return one


def quartiles_of(backups: np.ndarray, blind: np.ndarray, steps: np.ndarray, good: np.ndarray) -> np.ndarray:
    """[2, 3]: the quartiles over seeds of all backups, and of those from the first reward on.

    A run that found no good path counts as infinite.
    """
    del steps
    counts = np.where(good, np.stack([backups, backups - blind]), np.inf)
    return np.quantile(counts, (0.25, 0.5, 0.75), axis=1, method="nearest").T


def sweeping_figure(
    out: Path, seeds: int = 64, factors: Sequence[int] = (1, 2, 3, 4, 6), rates: Sequence[float] = (1.0, 0.5),
    planning: int = 5, budget: int = 20_000,
) -> dict[tuple[float, int, str], np.ndarray]:  # fmt: skip
    """Backups until the greedy path is good, by the size of the maze.

    Args:
      out: folder.
      seeds: of the smallest mazes; a half, a quarter and an eighth of them, 2 at least, from factors 4, 6 and 8 on.
      factors: of the maze's sides.
      rates: step sizes, one panel each, all in one program.
      planning: n, backups per real step (Dyna-Q makes one more on the real step itself).
      budget: maximum number of real steps, divided by the factor squared.
    Returns:
      by step size, factor and kind: quartiles [2, 3] over the seeds, of all backups and of those from the first reward
      on; infinite where too few seeds reached a good path.
    """
    start = time.perf_counter()
    rows, table, quartiles = [], [], {}
    for factor in factors:
        grid, count = maze.grow(maze.DYNA, factor), max(2, seeds >> sum(factor >= step for step in (4, 6, 8)))
        devices = share(count * len(rates))
        both = place((jnp.tile(keys(count), len(rates)), jnp.repeat(jnp.array(rates), count)), devices)
        cells, clocks, medians = int((~grid.walls).sum()), [], {}
        for kind in KINDS:
            # One seed after another on each device: none waits for the slowest, and each table stays in the cache.
            fn = over_seeds(search(factor, kind, planning, budget * factor**2), 1, devices)
            run, compiling = compiled(fn, both)
            results, (wall, _) = timed(run, both)
            clocks.append(f"{wall:.1f} + {compiling:.1f}")
            for rate, found in zip(rates, np.stack(results).reshape(4, len(rates), count).swapaxes(0, 1), strict=True):
                rows += [(rate, cells, kind, seed, *map(int, x)) for seed, x in enumerate(found.T)]
                points = quartiles_of(*found)
                quartiles[rate, factor, kind] = points
                medians[rate, kind] = (*points[:, 1], np.median(found[2]), f"{int(found[3].sum())}/{count}")
        for rate in rates:
            plain, swept = (medians[rate, kind] for kind in KINDS)
            texts = [cell if isinstance(cell, str) else f"{cell:,.0f}" for cell in (*plain, *swept[:1], *swept[2:])]
            ratios = [f"{a / b:.1f}" if np.isfinite(a + b) else "-" for a, b in zip(plain[:2], swept[:2], strict=True)]
            table.append((f"{rate:g}", cells, shortest(grid), *texts, *ratios, *clocks))
        write_csv(out / "sweeping.csv", ("lr", "cells", "agent", "seed", "backups", "blind", "steps", "good"), rows)
        print(f"{cells} cells: {time.perf_counter() - start:.0f} s so far", flush=True)
    draw(out / "sweeping.png", quartiles, factors, rates, planning)
    show(
        f"Backups until the greedy path is at most {CLOSE} times the shortest, n = {planning}: medians over the seeds "
        "of all backups and, for Dyna-Q, of those from the first reward on (sweeping makes none before), of the real "
        "steps, and the successful seeds; ratios of the medians, of all backups and from the first reward on; seconds "
        "of running and compiling, all step sizes in one program",
        ("lr", "cells", "path", "Dyna-Q", "rewarded", "steps", "reached", "sweeping", "steps", "reached", "ratio",
         "rewarded", "Dyna-Q s", "sweeping s"),
        sorted(table, key=lambda row: (-float(row[0]), row[1])),
    )  # fmt: skip
    print(f"took {time.perf_counter() - start:.1f} s on {jax.device_count()} devices")
    return quartiles


def draw(path: Path, quartiles: dict, factors: Sequence[int], rates: Sequence[float], planning: int) -> None:
    """Medians as lines, quartiles as bands, one panel for each step size."""
    figure, panels = canvas(len(rates), 5.5 * len(rates), 4.6)
    cells = [int((~maze.grow(maze.DYNA, factor).walls).sum()) for factor in factors]
    for axes, rate in zip(panels, rates, strict=True):
        for i, kind in enumerate(KINDS):
            points = np.stack([quartiles[rate, factor, kind] for factor in factors], -1)  # [2, 3, F]
            low, middle, high = np.where(np.isfinite(points), points, np.nan)[0]
            axes.fill_between(cells, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
            axes.plot(cells, middle, "o-", color=COLOURS[i], linewidth=1.8, markersize=5, label=kind)
            if kind == "Dyna-Q":
                rewarded = np.where(np.isfinite(points[1, 1]), points[1, 1], np.nan)
                axes.plot(
                    cells, rewarded, "--", color=COLOURS[i], linewidth=1.4, label="Dyna-Q, from the first reward on"
                )
        axes.set(xscale="log", yscale="log", xlabel="free cells of the maze", ylabel="backups until the path is good")
        axes.set_xticks(cells, [f"{n:,}" for n in cells])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"α = {rate:g}, n = {planning}, path ≤ {CLOSE} × shortest")
        axes.legend(frameon=False, loc="upper left", title="medians, middle half of the seeds shaded", alignment="left")
    seen = np.concatenate([x[np.isfinite(x)] for x in quartiles.values()])
    for axes in panels:
        axes.set_xlim(cells[0] / 1.2, 1.2 * cells[-1])
        axes.set_ylim(*((seen.min() / 1.5, 1.5 * seen.max()) if seen.size else (1, 10)))
    save(path, figure)
