"""Makes the figure of Dyna-Q in the Dyna maze: `python scripts/figures.py dyna-maze [--seeds N] [--out DIR]`.

Sutton & Barto's example 8.1, beside a NumPy loop. It writes a CSV and a PNG, and prints tables with its wall-clock. All
seeds of one setting are one compiled program.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax


def main() -> None:
    """Makes what the command line names."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # before anything asks for a device
    from figures_tabular import dyna_maze_figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("dyna-maze",))
    parser.add_argument("--seeds", type=int, default=1_000, help="at least 2")
    parser.add_argument("--out", type=Path, default=Path("results/figures"))
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {options.seeds}")
    dyna_maze_figure(options.out, seeds=options.seeds)


if __name__ == "__main__":
    main()
