"""`mbrl-jax collect`: a data set of what a run has learned to do, of random actions, or of its replay buffer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbrl_jax.cli.guard import guarded
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax collect"
MOST = 10_000_000  # rows of a data set


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Writes a data set to a file, or to Minari's folder.

    Args:
      argv: the words after the program's name; those of this process where None.
      prog: how the program is called, for its help.
    Returns:
      the exit code: 0 done, 2 a command that cannot be carried out.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _collect(words, prog), _in_flags)


def _in_flags(message: str) -> str:
    for name in ("seed", "checkpoint", "out", "steps"):
        if message.startswith((f"{name} must", f"{name}: ")):
            return f"--{message}"
    return message


def _collect(words: list[str], prog: str) -> int:
    args = _parsed(words, prog)
    if isinstance(args, int):
        return args
    _check(args)
    import jax

    from mbrl_jax.buffers import datasets
    from mbrl_jax.presets import collect
    from mbrl_jax.presets.offline import MINARI
    from mbrl_jax.presets.restore import load_run

    run = load_run(args.run, args.seed, args.checkpoint)
    if args.replay:
        data = collect.replayed(run)
    else:
        key = jax.random.key(args.key)
        how = {"envs": args.envs, "sampled": args.sampled, "random": args.random}
        data = collect.collect(run, key, args.steps, **how)
    data = data._replace(about=data.about | {"run": str(args.run), "seed": args.seed, "key": args.key})
    if args.out.startswith(MINARI):
        from mbrl_jax.buffers.minari import to_minari

        to_minari(data, args.out.removeprefix(MINARI), run.raw.spec)
    else:
        datasets.save(args.out, data)
    mean = f", mean return {data.about['mean_return']:.4g}" if "mean_return" in data.about else ""
    print(f"{data.rows:,} rows, {data.about['episodes']} complete episodes{mean}, in {args.out}")
    return 0


def _parsed(words: list[str], prog: str) -> Any:
    """The command line's words by name, or the exit code after help."""
    parser = Parser(prog=prog, description="Writes a data set of what a run has learned to do.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="the file to write, or minari:ID")
    parser.add_argument("--steps", type=int, metavar="N", help="rows of the data set; not with --replay")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="I", help="which of the run's seeds, from 0 (default: 0)"
    )
    parser.add_argument("--key", type=int, default=0, metavar="K", help="random key of the episodes (default: 0)")
    parser.add_argument("--checkpoint", metavar="NAME", help="which of the run's checkpoints (default: the newest)")
    parser.add_argument(
        "--sampled", action="store_true", help="draw the policy's actions as in training, not as in evaluation"
    )
    parser.add_argument(
        "--random", type=float, default=0.0, metavar="X", help="share of the rows with uniformly random actions"
    )
    parser.add_argument(
        "--envs", type=int, default=10, metavar="N", help="copies of the environment, side by side (default: 10)"
    )
    parser.add_argument("--replay", action="store_true", help="the rows of the run's replay buffer instead")
    return parser.parsed(words)


def _check(args: Any) -> None:
    if args.replay:
        if args.steps is not None or args.sampled or args.random:
            raise ValueError(
                "--replay takes the rows that are there: --steps, --sampled and --random do not go with it"
            )
    elif args.steps is None:
        raise ValueError("--steps must be given: rows of the data set")
    elif not 1 <= args.steps <= MOST:
        raise ValueError(f"--steps must be from 1 to {MOST}, got {args.steps}")
    if not 0 <= args.random <= 1:
        raise ValueError(f"--random must be from 0 to 1, got {args.random}")
    if not 1 <= args.envs <= 10_000:
        raise ValueError(f"--envs must be from 1 to 10000, got {args.envs}")
    if not 0 <= args.key < 2**32:
        raise ValueError(f"--key must be at least 0 and below 2**32, got {args.key}")
    if args.out.startswith("minari:"):
        return
    out = Path(args.out)
    if out.suffix != ".npz":
        raise ValueError(f"--out must end in .npz, or be minari:ID, got {args.out}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out: there is no folder {out.parent}")
