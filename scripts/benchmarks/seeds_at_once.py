"""Time of one seed's iteration with many seeds in one program: `python scripts/benchmarks/seeds_at_once.py`.

Seeds side by side under one `vmap` on one device. CPU time, the least of several rounds: on a machine that others use,
wall-clock time says little. With `--csv` the rows go to a file as well.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import jax

from mbrl_jax import presets
from mbrl_jax.core.config import replace

LOOP = {"inner": 50, "cycles": 1, "eval_episodes": 0, "warmup": 200, "capacity": 4000}
CASES = {
    "dyna_q": ("FrozenLake", {"planning": 10}, {"warmup": 0, "inner": 400, "capacity": 1}),
    "sac": ("Pendulum-v1", {"hidden": (64, 64), "batch": 64}, {}),
    "mbpo": (
        "Pendulum-v1",
        {
            "policy.hidden": (32, 32), "policy.batch": 32, "model.hidden": (32, 32), "fit.members": 3, "fit.elites": 2,
            "fit.max_epochs": 5, "rollouts": 50, "last_horizon": 1,
        },
        {"inner": 10, "updates": 5},
    ),
}  # fmt: skip
"""Environment, settings and loop of each agent, small enough for many seeds on a processor."""


def measured(algo: str, seeds: int, rounds: int) -> dict[str, object]:
    """A row of the table.

    Args:
      algo: in `CASES`.
      seeds: under one `vmap`.
      rounds: chunks, of which the fastest counts.
    """
    env, agent, changes = CASES[algo]
    cfg = replace(presets.preset(algo, env).loop, {**LOOP, **changes})
    loop = presets.build(algo, env, replace(presets.preset(algo, env).agent, agent), cfg)
    states = jax.jit(jax.vmap(loop.init))(jax.random.split(jax.random.key(0), seeds))
    chunk = jax.jit(jax.vmap(loop.chunk), donate_argnums=0)
    states = jax.block_until_ready(chunk(states))[0]
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        states = jax.block_until_ready(chunk(states))[0]
        best = min(best, time.process_time() - began)
    iteration = 1e6 * best / (seeds * cfg.inner * cfg.cycles)
    return {"algo": algo, "env": env, "seeds": seeds, "cpu_us_per_seed_and_iteration": round(iteration, 2)}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algos", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", default="", metavar="FILE", help="rows are added to it")
    args = parser.parse_args()
    for algo in args.algos:
        for seeds in args.seeds:
            row = measured(algo, seeds, args.rounds)
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
