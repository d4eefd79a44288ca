"""`mbrl-jax export`: a run's policy as a file that runs without this library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mbrl_jax.cli.guard import guarded
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax export"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Writes the policy that a command line asks for.

    Args:
      argv: the words after the program's name; those of this process where None.
      prog: how the program is called, for its help.
    Returns:
      the exit code: 0 done, 2 a command that cannot be carried out.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _export(words, prog), _in_flags)


def _in_flags(message: str) -> str:
    for name in ("seed", "checkpoint", "platforms"):
        if message.startswith(f"{name} must"):
            return f"--{message}"
    return message


def _export(words: list[str], prog: str) -> int:
    parser = Parser(prog=prog, description="Writes a run's policy as StableHLO, to be read with jax alone.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("file", metavar="FILE.stablehlo", type=Path, help="the file to write; FILE.stablehlo.json too")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="I", help="which of the run's seeds, from 0 (default: 0)"
    )
    parser.add_argument("--checkpoint", metavar="K", help="which of its checkpoints (default: the newest)")
    parser.add_argument("--sampled", action="store_true", help="draw actions as in training")
    parser.add_argument("--platforms", default="cpu", metavar="NAMES", help="cpu, cuda, rocm, tpu (default: cpu)")
    args = parser.parsed(words)
    if isinstance(args, int):
        return args
    if args.file.suffix != ".stablehlo":
        raise ValueError(f"FILE must end in .stablehlo, got {args.file}")
    if not args.file.absolute().parent.is_dir():
        raise ValueError(f"FILE: there is no folder {args.file.parent}")
    from mbrl_jax.presets.api import load
    from mbrl_jax.presets.export import export_policy

    platforms = [name.strip() for name in args.platforms.split(",") if name.strip()]
    policy = load(args.run, args.seed, args.checkpoint).policy
    export_policy(policy, args.file, sample=args.sampled, platforms=platforms)
    print(f"policy in {args.file}, its arrays described in {args.file}.json")
    return 0
