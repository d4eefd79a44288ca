"""Makes the figures of tabular Dyna, planning and search: `python scripts/figures.py NAME [--seeds N] [--out DIR]`.

dyna-maze       steps per episode by n, beside a NumPy loop (Sutton & Barto's example 8.1)
changing-mazes  cumulative reward of Dyna-Q and Dyna-Q+ where the walls change (examples 8.2 and 8.3)
sweeping        backups to a good path against the maze's size, Dyna-Q and prioritized sweeping (example 8.4)
frozen-lake     what the model remembers, in a slippery world, against the optimum
maze-pictures   values and greedy moves drawn
mpc             returns of each planner with the true model, at equal budgets of model steps
search-tree     one tree of UCT drawn
simulations     returns against the number of simulations at play, UCT and MuZero
temperature     scores in the dream and in the world against the temperature of the dreams, World Models
tasks           returns of one TD-MPC2 network for two tasks, beside a network for each

Each writes a CSV and a PNG, and prints tables with its wall-clock. All seeds of one setting are one compiled program.
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
}
"""Module, function and number of seeds of each figure; None where there are no seeds to choose."""


def main(argv: list[str] | None = None) -> None:
    """Makes what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*FIGURES, "all"))
    parser.add_argument("--seeds", type=int, help="at least 2; each figure has a number of its own")
    parser.add_argument("--out", type=Path, default=Path("results/figures"))
    options = parser.parse_args(argv)
    if options.seeds is not None and options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}")
    names = list(FIGURES) if options.name == "all" else [options.name]
    if options.seeds is not None and all(FIGURES[name][2] is None for name in names):
        parser.error(f"--seeds must be left out: {options.name} draws one run")
    if argv is None:  # of a process of its own: before anything asks for a device
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    for name in names:
        module, function, seeds = FIGURES[name]
        make = getattr(importlib.import_module(module), function)
        make(options.out, **({} if seeds is None else {"seeds": options.seeds or seeds}))
