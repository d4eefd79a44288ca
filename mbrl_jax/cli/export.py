"""`mbrl-jax export`: a run's policy as a file that runs without this library: StableHLO, or ONNX."""

from __future__ import annotations

from pathlib import Path

from mbrl_jax.cli.guard import as_flags, program
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax export"


def _export(words: list[str], prog: str) -> int:
    parser = Parser(prog=prog, description="Writes a run's policy as StableHLO, to be read with jax alone, or as ONNX.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("file", metavar="FILE.stablehlo|onnx", type=Path, help="the file to write; FILE....json too")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="I", help="which of the run's seeds, from 0 (default: 0)"
    )
    parser.add_argument("--checkpoint", metavar="K", help="which of its checkpoints (default: the newest)")
    parser.add_argument("--sampled", action="store_true", help="draw actions as in training")
    parser.add_argument("--platforms", metavar="NAMES", help="of StableHLO: cpu, cuda, rocm, tpu (default: cpu)")
    parser.add_argument("--batch", type=int, metavar="B", help="of ONNX: observations at once (default: 1)")
    args = parser.parsed(words)
    if isinstance(args, int):
        return args
    if args.file.suffix not in (".stablehlo", ".onnx"):
        raise ValueError(f"FILE must end in .stablehlo or .onnx, got {args.file}")
    if args.file.suffix == ".onnx" and (args.sampled or args.platforms is not None):
        raise ValueError(f"--{'sampled' if args.sampled else 'platforms'} is for .stablehlo alone, got {args.file}")
    if args.file.suffix == ".stablehlo" and args.batch is not None:
        raise ValueError(f"--batch is for .onnx alone, got {args.file}")
    if not args.file.absolute().parent.is_dir():
        raise ValueError(f"FILE: there is no folder {args.file.parent}")
    from mbrl_jax.presets.api import load
    from mbrl_jax.presets.export import export_onnx, export_policy

    platforms = [name.strip() for name in (args.platforms or "cpu").split(",") if name.strip()]
    policy = load(args.run, args.seed, args.checkpoint).policy
    if args.file.suffix == ".onnx":
        export_onnx(policy, args.file, batch=1 if args.batch is None else args.batch)
    else:
        export_policy(policy, args.file, sample=args.sampled, platforms=platforms)
    print(f"policy in {args.file}, its arrays described in {args.file}.json")
    return 0


main = program(_export, PROG, as_flags("seed", "checkpoint", "platforms", "batch"))
