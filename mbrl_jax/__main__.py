"""`python -m mbrl_jax train ...` is `mbrl-jax train ...`, for where the program is not on the path."""

import sys

from mbrl_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
