"""Bytes of a run of each agent with its preset: what a seed holds, and what the compiled chunk takes at its peak.

    python scripts/benchmark.py memory [--algos sac dreamer_v3] [--seeds 1] [--csv FILE]

Nothing is trained. The chunk is compiled in the form in which a run calls it, its state donated, and XLA says what it
needs (`memory_analysis`):

    learner, replay, environments   of one seed
    arguments   state and metrics of all seeds, as the program takes them
    aliased     of its results, those that lie where the arguments lay
    temporary   what it takes beside them while it runs
    peak        arguments, temporary arrays, and results that lie elsewhere
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.timing import by_agent, count
from mbrl_jax.presets.registry import AGENTS


def rows(algo: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The row of one agent in its first environment.

    Args:
      algo: an agent's name.
      given: the option `seeds`.
    """
    import jax

    from mbrl_jax import presets
    from mbrl_jax.train.driver import CompiledDriver
    from mbrl_jax.train.memory import reckon_parts
    from mbrl_jax.train.run import seed_keys

    env = presets.default_env(algo)
    known = presets.preset(algo, env)
    loop = presets.build(algo, env, known.agent, known.loop)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    parts = reckon_parts({"learner": state.learner, "replay": state.buffer, "environments": state.actors}).parts
    wave = presets.default_wave(known.agent, given.seeds)
    driver = CompiledDriver(loop, seed_keys(0, given.seeds), wave, 1)
    found = driver.lowered(driver.shapes()).compile().memory_analysis()
    arguments, aliased = found.argument_size_in_bytes, found.alias_size_in_bytes
    temporary, results = found.temp_size_in_bytes, found.output_size_in_bytes
    yield {
        "algo": algo, "env": env, "seeds": given.seeds,
        **parts, "arguments": arguments, "aliased": aliased, "temporary": temporary,
        "peak": arguments + temporary + results - aliased,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    agents = [name for name, entry in AGENTS.items() if not entry.offline]
    options = {"--seeds": {"type": count, "default": 1, "help": "seeds of the run"}}
    return by_agent(__doc__, agents, rows, options, argv)
