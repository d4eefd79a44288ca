"""Draws runs: `python scripts/plot.py curves RUN [RUN ...] --out FILE.png`; `--help` lists the options."""

import shlex
import sys

from mbrl_jax.cli.plot import main

if __name__ == "__main__":
    sys.exit(main(prog=f"python {shlex.quote(sys.argv[0])}"))
