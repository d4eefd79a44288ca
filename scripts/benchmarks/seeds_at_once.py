"""Time of one seed's update with many seeds in one program, beside its time alone.

    python scripts/benchmark.py seeds [--algos sac] [--seeds 1 4 16 64] [--rounds 3] [--csv FILE]

Seeds side by side under one `vmap` on one device, each number of them in a program of its own; the programs take turns.
CPU time, the least of several rounds: on a machine that others use, wall-clock time says little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from benchmarks.timing import by_agent
from mbrl_jax import presets
from mbrl_jax.core.config import replace

LOOP = {"inner": 50, "cycles": 1, "eval_episodes": 0, "warmup": 200, "capacity": 4000}
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any], dict[str, int]]] = {
    "dyna_q": ("FrozenLake", (1, 4, 16, 64, 256), {"planning": 10}, {"warmup": 0, "inner": 400, "capacity": 1}),
    "sac": ("Pendulum-v1", (1, 4, 16, 64), {"hidden": (64, 64), "batch": 64}, {}),
    "mbpo": (
        "Pendulum-v1",
        (1, 4, 16, 32),
        {
            "policy.hidden": (32, 32), "policy.batch": 32, "model.hidden": (32, 32), "fit.members": 3, "fit.elites": 2,
            "fit.max_epochs": 5, "rollouts": 50, "first_horizon": 1, "last_horizon": 1,
        },
        {"inner": 10, "updates": 5},
    ),
}  # fmt: skip
"""Environment, numbers of seeds, settings and loop of each agent, small enough for many seeds on a processor."""


class Program:
    """So many seeds of one agent, compiled and under way.

    Args:
      algo: in `CASES`.
      seeds: under one `vmap`.
    """

    def __init__(self, algo: str, seeds: int):
        env, _, agent, changes = CASES[algo]
        known = presets.preset(algo, env)
        cfg = replace(known.loop, {**LOOP, **changes})
        loop = presets.build(algo, env, replace(known.agent, agent), cfg)
        self.updates = seeds * cfg.inner * cfg.cycles * cfg.updates
        self.states = jax.jit(jax.vmap(loop.init))(jax.random.split(jax.random.key(0), seeds))
        self.chunk = jax.jit(jax.vmap(loop.chunk), donate_argnums=0)
        self.best = float("inf")  # microseconds of one seed's update
        self.run()

    def run(self) -> float:
        """One chunk of all seeds; microseconds of CPU time for one seed's update."""
        began = time.process_time()
        self.states = jax.block_until_ready(self.chunk(self.states))[0]
        return 1e6 * (time.process_time() - began) / self.updates


def rows(algo: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table of one agent.

    Args:
      algo: in `CASES`.
      given: the options `seeds`, numbers of seeds, those of `CASES` if empty, and `rounds` of each.
    """
    counts = given.seeds or CASES[algo][1]
    programs = [Program(algo, seeds) for seeds in counts]
    for _ in range(given.rounds):
        for program in programs:
            program.best = min(program.best, program.run())
    for seeds, program in zip(counts, programs, strict=True):
        share = program.best / programs[0].best  # of the fewest seeds
        took = {"cpu_us_per_seed_and_update": round(program.best, 2), "share": round(share, 3)}
        yield {"algo": algo, "env": CASES[algo][0], "seeds": seeds, **took}


OPTIONS: dict[str, dict[str, Any]] = {
    "--seeds": {
        "nargs": "+",
        "type": int,
        "default": [],
        "help": "numbers of seeds in a program; each agent's if none",
    },
    "--rounds": {"type": int, "default": 3, "help": "timed chunks of each program, of which the fastest counts"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    return by_agent(__doc__, list(CASES), rows, OPTIONS, argv)
