"""Draws the figures of tabular Dyna, planning and search: `python scripts/figures.py NAME [--seeds N] [--out DIR]`.

dyna-maze       steps per episode by n, beside a NumPy loop (Sutton & Barto's example 8.1)
changing-mazes  cumulative reward of Dyna-Q and Dyna-Q+ where the walls change (examples 8.2 and 8.3)
sweeping        backups to a good path by size of the maze, Dyna-Q and prioritized sweeping (example 8.4)
frozen-lake     forms of a tabular model in slippery FrozenLake, against the optimum
maze-pictures   mazes with values and greedy actions
mpc             returns of each planner with the true model, at equal budgets of model steps
search-tree     one tree of UCT
simulations     returns by number of simulations, UCT and MuZero
temperature     returns in the model and in the environment by temperature of the model, World Models
tasks           returns of one TD-MPC2 network for two tasks, beside one network for each
offline         scores of the offline agents by data set, from the committed table, or made from the data sets in --runs
troubles        what goes wrong with models, one after the other: cost, stochastic worlds, exploration
published       runs on dm_control beside the scores that the agents' authors published, from --runs
general         agents with their general settings on tasks that none was tuned for, from --runs

Each writes a CSV and a PNG, and prints tables and its wall-clock time. All seeds of a setting are one program.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

import jax

FIGURES = {
    "dyna-maze": ("figures.tabular", "dyna_maze_figure", 1_000),
    "changing-mazes": ("figures.mazes", "changing_mazes_figure", 1_000),
    "sweeping": ("figures.sweeping", "sweeping_figure", 64),
    "frozen-lake": ("figures.lake", "frozen_lake_figure", 100),
    "maze-pictures": ("figures.pictures", "maze_pictures", None),
    "mpc": ("figures.mpc", "mpc_figure", 8),
    "search-tree": ("figures.search", "search_tree", None),
    "simulations": ("figures.search", "simulations_figure", 8),
    "temperature": ("figures.dreams", "temperature_figure", 4),
    "tasks": ("figures.tasks", "tasks_figure", 4),
    "offline": ("figures.offline", "offline_figure", 8),
    "troubles": ("figures.troubles", "troubles_figure", 8),
    "published": ("figures.published", "published_figure", None),
    "general": ("figures.general", "general_figure", None),
}
"""Module, function and default number of seeds of each figure; None where it has no seeds to choose."""


def main(argv: list[str] | None = None) -> None:
    """Draws the figures that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*FIGURES, "all"))
    parser.add_argument("--seeds", type=int, help="number of seeds, at least 2; each figure has its own default")
    parser.add_argument("--out", type=Path, default=Path("results/figures"), help="folder of the figures")
    parser.add_argument(
        "--runs",
        type=Path,
        help="folder of the runs of `published` or `general` (default: in results), or of the data sets of `offline`",
    )
    options = parser.parse_args(argv)
    if options.seeds is not None and options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}")
    if options.runs is not None and options.name not in ("published", "general", "offline"):
        parser.error(f"--runs must be left out: {options.name} makes its own")
    names = list(FIGURES) if options.name == "all" else [options.name]
    if options.seeds is not None and all(FIGURES[name][2] is None for name in names):
        parser.error(f"--seeds must be left out: {options.name} draws one run")
    if argv is None:  # only in a process of its own, and before jax makes its first array
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    for name in names:
        module, function, seeds = FIGURES[name]
        make = getattr(importlib.import_module(module), function)
        given = {} if options.runs is None else {"runs": options.runs}
        try:
            out = options.out
            if name in ("offline", "troubles") and out == Path("results/figures"):
                out = Path("results") / name
            make(out, **given, **({} if seeds is None else {"seeds": options.seeds or seeds}))
        except ValueError as error:
            parser.error(str(error))
