"""Figures of tree search: a drawing of one tree, and returns against the number of simulations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, mean_and_error, save, show, write_csv
from mbrl_jax import presets
from mbrl_jax.agents import muzero
from mbrl_jax.agents import uct as uct_agent
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.analysis.search_trees import draw_tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Agent, Array, Env, Key, Tree
from mbrl_jax.envs import tictactoe
from mbrl_jax.envs.registry import make_env
from mbrl_jax.planners.mcts import UCT, nodes, uct
from mbrl_jax.train.evaluate import evaluate

SIMULATIONS = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS = 8_000  # environment steps of MuZero's training: half-way, where search still improves the policy
CELLS = [f"{'abc'[i % 3]}{3 - i // 3}" for i in range(9)]


def search_tree(out: Path, moves: Sequence[str] = ("b2", "a3", "c1"), simulations: int = 400) -> Any:
    """Draws the tree of one UCT search in tic-tac-toe, after some moves.

    Args:
      out: folder.
      moves: played from the start, as column and row.
      simulations: of the search.
    Returns:
      the nodes of the tree (`planners.mcts.nodes`).
    """
    game = tictactoe.tictactoe()
    state, _ = game.reset(jax.random.key(0))
    for move in moves:
        state = game.step(jax.random.key(0), state, jnp.int32(CELLS.index(move)))[0]
    planner = uct(UCT(simulations=simulations, gamma=1.0), game.spec, keep_tree=True)
    model = uct_agent.true_model(game)
    _, _, info = jax.jit(lambda key: planner.plan(key, model, state, planner.init()))(jax.random.key(1))
    tree = nodes(info.tree, game.spec.num_actions)
    title = f"UCT, {simulations} simulations, tic-tac-toe after {' '.join(moves)}"
    draw_tree(out / "search-tree.png", tree, most=34, actions=CELLS, priors=False, title=title)
    show(
        title,
        ("move", "visits", "value"),
        [
            (CELLS[tree.action[i]], str(tree.visits[i]), f"{tree.q[i]:+.2f}")
            for i in range(len(tree.parent))
            if tree.parent[i] == 0
        ],
    )
    return tree


def simulations_figure(out: Path, seeds: int = 8, simulations: Sequence[int] = SIMULATIONS, steps: int = STEPS) -> Any:
    """Returns on CartPole-v1 against the number of simulations: UCT in the true dynamics, and MuZero half-trained.

    Args:
      out: folder.
      seeds: episodes of UCT; MuZero networks, one episode each.
      simulations: their numbers, per action.
      steps: environment steps that MuZero learned from, with the preset's simulations.
    Returns:
      {planner: [simulations, seeds] returns}.
    """
    env, start = make_env("CartPole-v1"), time.perf_counter()
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    learners = learned(keys, steps)
    base = presets.preset("muzero", "CartPole-v1").agent

    def by_uct(n: int) -> Agent:
        cfg = replace(presets.preset("uct", "CartPole-v1").agent, {"uct.simulations": n, "uct.rollouts": 1})
        return uct_agent.make(cfg, env)

    def by_muzero(n: int) -> Agent:
        return muzero.make(replace(base, {"search.gumbel.simulations": n}), env.spec)

    revealed = presets.suited("uct", env)
    found = {
        "UCT, true dynamics": played(by_uct, revealed, keys, simulations, None),
        f"MuZero after {steps:,} steps": played(by_muzero, env, keys, simulations, learners),
    }
    rows = [
        (name, n, seed, float(g))
        for name, table in found.items()
        for n, row in zip(simulations, table, strict=True)
        for seed, g in enumerate(row)
    ]
    write_csv(out / "simulations.csv", ("planner", "simulations", "seed", "return"), rows)
    figure, panels = canvas(1, width=5.6, height=3.8)
    for (name, table), colour in zip(found.items(), COLOURS, strict=False):
        middle, error = mean_and_error(table, 1)
        panels[0].plot(simulations, middle, marker="o", color=colour, label=name)
        panels[0].fill_between(simulations, middle - error, middle + error, color=colour, alpha=0.2, linewidth=0)
    panels[0].set_xscale("log", base=2)
    panels[0].set_xticks(simulations, [str(n) for n in simulations])
    panels[0].set_xlabel("simulations per action")
    panels[0].set_ylabel(f"return on CartPole-v1\nmean and standard error, {seeds} seeds")
    panels[0].legend(frameon=False)
    save(out / "simulations.png", figure)
    show(
        f"Returns on CartPole-v1, {seeds} seeds",
        ("planner", *map(str, simulations)),
        [(name, *(f"{row.mean():.0f}" for row in table)) for name, table in found.items()],
    )
    print(f"took {time.perf_counter() - start:.1f} s")
    return found


def learned(keys: Key, steps: int) -> Tree:
    """MuZero's learners [seeds, ...] after `steps` environment steps of the preset."""
    preset = presets.preset("muzero", "CartPole-v1")
    clocks = preset.loop
    updates = steps // clocks.num_envs - clocks.warmup
    clocks = replace(clocks, {"inner": updates, "cycles": 1, "eval_episodes": 0})
    loop = presets.build("muzero", "CartPole-v1", preset.agent, clocks)
    return jax.jit(jax.vmap(lambda key: loop.train(key, 1)[0].learner))(keys)


def played(
    make: Callable[[int], Agent], env: Env, keys: Key, simulations: Sequence[int], learners: Tree | None
) -> np.ndarray:
    """Returns [simulations, seeds], of one episode each."""

    def one(agent: Agent, key: Key, learner: Tree) -> Array:
        return evaluate(agent, env, key, agent.init(key) if learners is None else learner, 1)[0][0]

    rows = []
    for n in simulations:
        agent = make(n)
        run = jax.jit(jax.vmap(lambda key, learner: one(agent, key, learner), (0, None if learners is None else 0)))  # noqa: B023
        rows.append(np.asarray(run(keys, learners)))
    return np.stack(rows)
