"""Writes a data set: `python scripts/collect.py RUN --out FILE.npz --steps 10000`; `--help` lists the options."""

import shlex
import sys

from mbrl_jax.cli.collect import main

if __name__ == "__main__":
    sys.exit(main(prog=f"python {shlex.quote(sys.argv[0])}"))
