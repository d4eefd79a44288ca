"""What passes between devices in an update on a mesh: `python scripts/benchmarks/mesh_traffic.py --csv FILE`.

Each agent's chunk of one iteration, compiled for eight devices of which nothing is asked but that they exist; the
collective operations are read from the compiled program (`mbrl_jax.analysis.collectives`).
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import Any

import jax

LOOP: dict[str, Any] = {
    "num_envs": 8, "unroll": 1, "updates": 1, "inner": 1, "cycles": 1, "warmup": 80, "eval_episodes": 0,
    "capacity": 4096,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sac": ("Pendulum-v1", {"hidden": (256, 256), "batch": 256}),
    "tdmpc2": ("Pendulum-v1", {"batch": 256, "planner.population": 64, "planner.iterations": 2}),
    "dreamer_v3": ("Pendulum-v1", {"batch": 16, "length": 16}),
    "muzero": ("CartPole-v1", {"batch": 256, "search.gumbel.simulations": 4}),
    "pets": ("Pendulum-v1", {"fit.max_epochs": 1, "planner.cem.population": 64, "planner.cem.iterations": 1}),
}


def rows(algo: str, mesh: str) -> list[dict[str, Any]]:
    """The collectives of one iteration of an agent, by kind.

    Args:
      algo: in `CASES`.
      mesh: as `LoopConfig.mesh`.
    """
    from mbrl_jax import presets
    from mbrl_jax.analysis.collectives import collectives
    from mbrl_jax.core.config import replace
    from mbrl_jax.core.tree import num_bytes

    env, agent = CASES[algo]
    known = presets.preset(algo, env)
    loop = presets.build(algo, env, replace(known.agent, agent), replace(known.loop, {**LOOP, "mesh": mesh}))
    state = jax.eval_shape(loop.init, jax.random.key(0))
    place = loop.place
    assert place is not None
    found = collectives(jax.jit(lambda state: loop.chunk(place(state))).lower(state).compile())
    head = {"algo": algo, "mesh": mesh}
    size = {"learner_megabytes": round(num_bytes(state.learner) / 1e6, 3)}
    return [
        {**head, "kind": kind, "count": one.times, "megabytes": round(one.bytes / 1e6, 3), **size}
        for kind, one in found.items()
    ]


def main() -> None:
    """Compiles, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algos", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--mesh", nargs="+", default=["data=8", "data=4,model=2"])
    parser.add_argument("--csv", default="", metavar="FILE", help="rows are added to it")
    args = parser.parse_args()
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    jax.config.update("jax_num_cpu_devices", 8)
    for algo in args.algos:
        for mesh in args.mesh:
            for row in rows(algo, mesh):
                print(row, flush=True)
                if args.csv:
                    new = not Path(args.csv).exists()
                    with open(args.csv, "a", newline="") as file:
                        writer = csv.DictWriter(file, list(row), lineterminator="\n")
                        if new:
                            writer.writeheader()
                        writer.writerow(row)


if __name__ == "__main__":
    main()
