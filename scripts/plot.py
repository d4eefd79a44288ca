"""Draws runs: `python scripts/plot.py curves RUN [RUN ...] --out FILE.png`; `--help` tells the rest."""

import sys

from mbrl_jax.cli import plot

if __name__ == "__main__":
    sys.exit(plot())
