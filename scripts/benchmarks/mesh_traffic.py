"""What passes between devices in an update on a mesh.

    python scripts/benchmark.py mesh [--algos sac] [--mesh data=8 data=4,model=2] [--csv FILE]

Each agent's chunk of one iteration, compiled for eight devices of which nothing is asked but that they exist; the
collective operations are read from the compiled program (`mbrl_jax.analysis.collectives`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from benchmarks.timing import by_agent

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


def rows(algo: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The collectives of one iteration of an agent, by mesh and kind.

    Args:
      algo: in `CASES`.
      given: the option `mesh`, several as of `LoopConfig.mesh`.
    """
    from mbrl_jax import presets
    from mbrl_jax.analysis.collectives import collectives
    from mbrl_jax.core.config import replace
    from mbrl_jax.core.tree import num_bytes

    env, agent = CASES[algo]
    known = presets.preset(algo, env)
    for mesh in given.mesh:
        loop = presets.build(algo, env, replace(known.agent, agent), replace(known.loop, {**LOOP, "mesh": mesh}))
        state = jax.eval_shape(loop.init, jax.random.key(0))
        place = loop.place
        assert place is not None
        chunk = jax.jit(lambda state, loop=loop, place=place: loop.chunk(place(state)))
        found = collectives(chunk.lower(state).compile())
        size = round(num_bytes(state.learner) / 1e6, 3)
        for kind, one in found.items():
            passed = {"kind": kind, "count": one.times, "megabytes": round(one.bytes / 1e6, 3)}
            yield {"algo": algo, "mesh": mesh, **passed, "learner_megabytes": size}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    jax.config.update("jax_num_cpu_devices", 8)
    meshes = {"nargs": "+", "default": ["data=8", "data=4,model=2"], "help": "as of --loop.mesh"}
    return by_agent(__doc__, list(CASES), rows, {"--mesh": meshes}, argv)
