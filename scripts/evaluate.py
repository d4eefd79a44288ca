"""Plays episodes with what a run has learned: `python scripts/evaluate.py RUN`; `--help` lists the options."""

import shlex
import sys

from mbrl_jax.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main(prog=f"python {shlex.quote(sys.argv[0])}"))
