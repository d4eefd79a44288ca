"""The pictures of mazes: learned values as colours, greedy actions as arrows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import write_csv
from figures.mazes import changes, greedy_path, learners, rewards_over_time
from figures.tabular import recorded, tabular_loop
from mbrl_jax.agents import dyna_q
from mbrl_jax.agents.dyna_q import DynaQConfig
from mbrl_jax.analysis.mazes import Panel, draw_mazes, greedy_moves
from mbrl_jax.core.types import Array
from mbrl_jax.envs.maze import DYNA, Layout, changing_maze
from mbrl_jax.train.loop import LoopState


def after_episodes(episodes: tuple[int, ...], planning: int, seed: int = 0) -> list[np.ndarray]:
    """The action values [S, A] of one seed of Dyna-Q in the Dyna maze, after each number of episodes."""
    env = recorded(changing_maze(DYNA, DYNA, 0))
    loop = tabular_loop(dyna_q.make(DynaQConfig(planning=planning, form="last"), env.spec), env, 1)

    @jax.jit
    def until(state: LoopState, episode: Array) -> LoopState:
        return jax.lax.while_loop(lambda at: at.actors.env.total[0] < episode, lambda at: loop.chunk(at)[0], state)

    state, found = jax.jit(loop.init)(jax.random.key(seed)), []
    for episode in episodes:
        state = until(state, jnp.float32(episode))
        found.append(np.asarray(state.learner.q))
    return found


def best_moves(q: np.ndarray) -> np.ndarray:
    """[S, A] bool: the greedy actions, with a relative tolerance of 1e-4, because values fall off from the goal."""
    return greedy_moves(q / np.maximum(q.max(1, keepdims=True), 1e-30), 1e-4)


def panel(grid: Layout, q: np.ndarray, title: str, path: bool = False) -> Panel:
    """A maze with its values and greedy actions, and with its greedy path if `path`."""
    walked = greedy_path(grid, q) if path else None
    return Panel(*grid, values=q.max(1), policy=best_moves(q).astype(np.float32), path=walked, title=title)


def maze_pictures(
    out: Path, episodes: tuple[int, ...] = (1, 2, 5, 30), planning: int = 50, seed: int = 0
) -> list[Panel]:
    """Draws the Dyna maze after some episodes, and the final shortcut maze without and with the bonus.

    Args:
      out: folder.
      episodes: numbers of episodes, one picture each.
      planning: n, planned backups per real step.
      seed: of all runs.
    Returns:
      the pictures' panels.
    """
    start = time.perf_counter()
    panels = [
        panel(DYNA, q, f"Dyna maze, n = {planning}: {n} episode{'s' if n > 1 else ''}")
        for n, q in zip(episodes, after_episodes(episodes, planning, seed), strict=True)
    ]
    shortcut = changes()[1]
    for name, cfg in learners(shortcut).items():
        _, q = jax.jit(rewards_over_time(shortcut, cfg, 50))(jax.random.key(seed))
        panels.append(panel(shortcut.final, np.asarray(q), f"shortcut maze, {name}", path=True))
    write_csv(out / "mazes.csv", ("picture", "row", "column", "value", "moves"), _cells(panels))
    (out / "mazes.png").write_bytes(draw_mazes(panels, columns=3, limits=(0.0, 1.0)))
    print(f"\nMazes: {len(panels)} pictures of seed {seed}; took {time.perf_counter() - start:.1f} s")
    return panels


def _cells(panels: list[Panel]) -> list[tuple[Any, ...]]:
    """The free cells of all pictures; moves are the letters of up, down, left and right, empty where all are equal."""
    rows = []
    for one in panels:
        width = one.walls.shape[1]
        for state in np.flatnonzero(~one.walls):
            moves = "".join(letter for letter, chosen in zip("udlr", one.policy[state], strict=True) if chosen)
            rows.append((one.title, *divmod(int(state), width), float(one.values[state]), moves))
    return rows
