"""The program `mbrl-jax`: one command line for everything, each subcommand in a file of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mbrl_jax.cli.guard import interruptible

__all__ = ["main"]

COMMANDS = {
    "train": ("mbrl_jax.cli.train", "train an agent, or resume a run"),
    "sweep": ("mbrl_jax.cli.sweep", "train an agent with many settings, and rank them"),
    "evaluate": ("mbrl_jax.cli.evaluate", "play episodes with what a run has learned, and film them"),
    "collect": ("mbrl_jax.cli.collect", "write a data set of what a run has learned to do, for offline agents"),
    "envs": ("mbrl_jax.cli.envs", "list the environments, or describe and check one"),
    "report": ("mbrl_jax.cli.report", "write one HTML page on runs: curves, tables, settings, times and models"),
    "export": ("mbrl_jax.cli.export", "write a run's policy as StableHLO or ONNX, to act without this library"),
    "plot": ("mbrl_jax.cli.plot", "draw learning curves, what a world model imagines, or how far to rely on a model"),
}
"""Module and summary of each subcommand."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the subcommand that a command line names.

    Args:
      argv: the words after the program's name; those of this process where None.
    Returns:
      the exit code: 0 done, 2 a command that cannot be carried out, 130 stopped by a signal.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        with interruptible():
            return importlib.import_module(COMMANDS[words[0]][0]).main(words[1:], prog=f"mbrl-jax {words[0]}")
    if words and words[0] == "--version":
        from mbrl_jax import __version__

        print(f"mbrl-jax {__version__}")
        return 0
    lines = "\n".join(f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items())
    if words and words[0] in ("-h", "--help"):
        print(f"usage: mbrl-jax COMMAND [...]\n\nModel-based reinforcement learning in JAX.\n\ncommands:\n{lines}\n")
        print("What a command takes: mbrl-jax COMMAND --help")
        return 0
    given = f"got {words[0]!r}" if words else "got none"
    print(f"error: command must be one of {', '.join(COMMANDS)}, {given}; --help tells more", file=sys.stderr)
    return 2
