"""Trains an agent: `python scripts/train.py mbpo --env Pendulum-v1`; `--help` lists the options."""

import shlex
import sys

from mbrl_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main(prog=f"python {shlex.quote(sys.argv[0])}"))
