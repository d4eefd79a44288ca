"""Times the steps of training: `python scripts/benchmark.py`; `--help` lists the options.

`python scripts/benchmark.py dreamer` and `... tdmpc2` time one network size in detail.
"""

import sys

from benchmarks import dreamer, suite, tdmpc2

DETAILS = {"dreamer": dreamer.main, "tdmpc2": tdmpc2.main}

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(DETAILS[words[0]](words[1:]) if words and words[0] in DETAILS else suite.main(words))
