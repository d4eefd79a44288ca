"""Trains an agent: `python scripts/train.py mbpo --env Pendulum-v1`; `--help` tells the rest."""

import sys

from mbrl_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
