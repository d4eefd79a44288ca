"""The time of one gradient step of DreamerV3 by kind of instruction, from XLA's own trace.

    python scripts/profile_dreamer.py [--size 1m] [--steps 5]

Times are summed over the threads that ran the instructions.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
from benchmarks import dreamer

from mbrl_jax.analysis.profile import time_by_kind

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1m", help="network size, a name in models.rssm.dreamer_v3.SIZES")
    parser.add_argument("--steps", type=int, default=5, help="gradient steps in the trace")
    options = parser.parse_args()
    updates, args = dreamer.updating(dreamer.settings(options.size))
    compiled = jax.jit(updates).lower(*args, jnp.int32(1)).compile()
    jax.block_until_ready(compiled(*args, jnp.int32(1)))
    traced = (*args, jnp.int32(options.steps))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*traced))
    wall = (time.perf_counter() - start) / options.steps
    seconds = time_by_kind(compiled, *traced)
    total = sum(seconds.values())
    print(f"dreamer_v3 {options.size}: {1e3 * wall:.0f} ms a step, instructions {1e3 * total / options.steps:.0f} ms")
    for kind, taken in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {kind:<14}{1e3 * taken / options.steps:6.0f} ms {taken / total:5.0%}")
