"""Times the steps of training: `python scripts/benchmark.py`; `--help` lists the options.

`python scripts/benchmark.py dreamer` and `... tdmpc2` time one network size in detail, `... seeds` many seeds in one
program; `... mesh` counts what passes between the devices of a mesh; `... compile` times a command up to its first
update.
"""

import sys

from benchmarks import compiling, dreamer, mesh_traffic, seeds_at_once, suite, tdmpc2

DETAILS = {
    "dreamer": dreamer.main,
    "tdmpc2": tdmpc2.main,
    "seeds": seeds_at_once.main,
    "mesh": mesh_traffic.main,
    "compile": compiling.main,
}

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(DETAILS[words[0]](words[1:]) if words and words[0] in DETAILS else suite.main(words))
