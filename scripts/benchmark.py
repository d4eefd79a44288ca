"""Times the steps of training: `python scripts/benchmark.py`; `--help` lists the options.

dreamer, tdmpc2     one network size in detail
seeds               many seeds in one program
mesh                what passes between the devices of a mesh
compile             a command up to its first update
memory              bytes of a run
golden              whether this device computes the numbers that were kept
--suite gpu         one GPU in ten minutes, its numbers compared first
"""

import sys

from benchmarks import compiling, dreamer, golden, gpu, memory, mesh_traffic, products, seeds_at_once, suite, tdmpc2

DETAILS = {
    "dreamer": dreamer.main,
    "tdmpc2": tdmpc2.main,
    "seeds": seeds_at_once.main,
    "mesh": mesh_traffic.main,
    "compile": compiling.main,
    "products": products.main,
    "golden": golden.main,
    "memory": memory.main,
}

if __name__ == "__main__":
    words = sys.argv[1:]
    if "--suite" in words or "--suite=gpu" in words:
        sys.exit(gpu.main(words))
    sys.exit(DETAILS[words[0]](words[1:]) if words and words[0] in DETAILS else suite.main(words))
