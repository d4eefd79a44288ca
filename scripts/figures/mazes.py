"""Paths in mazes, and the figure of changing mazes (examples 8.2 and 8.3)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from figures.common import band, canvas, compiled, keys, mean_and_error, save, share, show, timed, write_csv
from figures.tabular import lean, recorded, tabular_loop, whole
from mbrl_jax.agents import dyna_q
from mbrl_jax.agents.dyna_q import DynaQConfig
from mbrl_jax.agents.q_learning import QLearningConfig
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Env, Key
from mbrl_jax.envs import maze
from mbrl_jax.envs.maze import Layout
from mbrl_jax.train.loop import LoopState
from mbrl_jax.train.sweep import over_seeds


def cell(grid: Layout, at: tuple[int, int]) -> int:
    """The number of a cell."""
    return at[0] * grid.walls.shape[1] + at[1]


def shortest(grid: Layout) -> int:
    """Steps of the shortest path from the start to the goal, by breadth-first search."""
    led, goal = maze.successors(grid), cell(grid, grid.goal)
    steps, queue = {cell(grid, grid.start): 0}, deque([cell(grid, grid.start)])
    while queue and goal not in steps:
        state = queue.popleft()
        new = [after for after in set(led[state].tolist()) if after not in steps]
        steps |= dict.fromkeys(new, steps[state] + 1)
        queue.extend(new)
    if goal not in steps:
        raise ValueError("grid must have a path from the start to the goal")
    return steps[goal]


def greedy_path(grid: Layout, q: np.ndarray) -> list[int]:
    """The cells of the greedy path from the start, up to the goal or to the first repeated cell."""
    led, path = maze.successors(grid), [cell(grid, grid.start)]
    while path[-1] != cell(grid, grid.goal):
        after = int(led[path[-1], q[path[-1]].argmax()])
        if after in path:
            break
        path.append(after)
    return path


def finds_shortest(grid: Layout, q: np.ndarray) -> bool:
    """Whether the greedy path is a shortest one."""
    path = greedy_path(grid, q)
    return path[-1] == cell(grid, grid.goal) and len(path) - 1 == shortest(grid)


class Change(NamedTuple):
    """A changing maze, and the settings commonly used in it."""

    name: str
    env: Env
    final: Layout
    change_at: int  # real steps
    steps: int
    planning: int
    bonus: float


def changes() -> tuple[Change, Change]:
    """Examples 8.2 and 8.3."""
    return (
        Change("blocking maze", maze.blocking_maze(1_000), maze.WAY_LEFT, 1_000, 3_000, 10, 1e-4),
        Change("shortcut maze", maze.shortcut_maze(3_000), maze.WAY_BOTH, 3_000, 6_000, 50, 1e-3),
    )


def learners(change: Change) -> dict[str, DynaQConfig]:
    """Dyna-Q and Dyna-Q+ for one of the mazes: α = 1, ε = 0.1, γ = 0.95, the last outcome as the model."""
    plain = DynaQConfig(policy=QLearningConfig(lr=1.0), planning=change.planning, form="last")
    return {"Dyna-Q": plain, "Dyna-Q+": replace(plain, {"bonus": change.bonus, "untried": True})}


def rewards_over_time(change: Change, cfg: DynaQConfig, every: int) -> Callable[[Key], tuple[Array, Array]]:
    """(key) -> cumulative reward after every `every` steps [T], and the final action values [S, A]."""
    env = recorded(change.env)
    loop = tabular_loop(dyna_q.make(cfg, env.spec), env, every)

    def chunk(state: LoopState, _: None) -> tuple[LoopState, Array]:
        state = lean(loop.chunk(whole(state))[0])
        return state, state.actors.env.total[0]

    def one(key: Key) -> tuple[Array, Array]:
        state, totals = jax.lax.scan(chunk, lean(loop.init(key)), None, length=change.steps // every)
        return totals, state.learner.q

    return one


def changing_mazes_figure(
    out: Path, seeds: int = 1_000, examples: Sequence[Change] | None = None, every: int = 50
) -> dict[tuple[str, str], dict[str, float]]:
    """Cumulative reward of Dyna-Q and Dyna-Q+ in changing mazes.

    Args:
      out: folder.
      seeds: of each agent.
      examples: the mazes; None for `changes()`.
      every: real steps between two points of a curve.
    Returns:
      by maze and agent: reward at the change, reward per step after it and over the last sixth of the run, and the
      share of seeds whose final greedy path is a shortest one.
    """
    examples = changes() if examples is None else examples
    devices, start = share(seeds), time.perf_counter()
    figure, panels = canvas(len(examples), 5.5 * len(examples), 4.6)
    rows, table, found = [], [], {}
    for axes, change in zip(panels, examples, strict=True):
        best = shortest(change.final)
        at, changed = every * np.arange(change.steps // every + 1), change.change_at // every
        late = len(at) - 1 - max(change.steps // 6, every) // every
        for i, (name, cfg) in enumerate(learners(change).items()):
            run, compiling = compiled(over_seeds(rewards_over_time(change, cfg, every), 64, devices), keys(seeds))
            (totals, q), (wall, _) = timed(run, keys(seeds))
            totals = np.pad(totals, ((0, 0), (1, 0)))  # 0 at the start
            band(axes, at, totals, i, name)
            middle, error = mean_and_error(totals)
            rows += [(change.name, name, int(t), float(m), float(e)) for t, m, e in zip(at, middle, error, strict=True)]
            after, after_error = mean_and_error((totals[:, -1] - totals[:, changed]) / (at[-1] - at[changed]))
            end, end_error = mean_and_error((totals[:, -1] - totals[:, late]) / (at[-1] - at[late]))
            finders = np.mean([finds_shortest(change.final, x) for x in q])
            found[change.name, name] = {
                "at_change": float(middle[changed]), "after": float(after), "end": float(end), "found": float(finders),
            }  # fmt: skip
            table.append((
                change.name, name, f"{middle[changed]:.1f} ± {error[changed]:.1f}",
                f"{middle[-1]:.1f} ± {error[-1]:.1f}", f"{after:.4f} ± {after_error:.4f}",
                f"{end:.4f} ± {end_error:.4f}", f"{1 / best:.4f}", f"{finders:.1%}", f"{wall:.1f}", f"{compiling:.1f}",
            ))  # fmt: skip
        axes.axvline(change.change_at, color="#555555", linestyle="--", linewidth=1.2)
        axes.annotate(
            "the maze changes", (change.change_at, 0.97), xycoords=("data", "axes fraction"), xytext=(-6, 0),
            textcoords="offset points", ha="right", va="top", rotation=90, color="#333333",
        )  # fmt: skip
        axes.set(xlabel="real steps", ylabel="cumulative reward (goals reached)", xlim=(0, change.steps))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{change.name}, n = {change.planning}, κ = {change.bonus:g}")
        axes.legend(frameon=False, loc="lower right")
    figure.suptitle(f"Mean of {seeds} seeds and 95 % interval", fontsize="medium")
    write_csv(out / "changing-mazes.csv", ("maze", "agent", "steps", "reward", "error"), rows)
    save(out / "changing-mazes.png", figure)
    show(
        f"Changing mazes, {seeds} seeds, ± standard errors: cumulative reward at the change and at the end; reward per "
        "step after the change, and over the last sixth; one over the shortest path; the share of seeds whose greedy "
        "path at the end is a shortest one",
        ("maze", "agent", "at the change", "at the end", "per step after", "last sixth", "best", "found", "run s",
         "compile s"),
        table,
    )  # fmt: skip
    print(f"took {time.perf_counter() - start:.1f} s on {devices} devices")
    return found
