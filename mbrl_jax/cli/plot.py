"""`mbrl-jax plot`: learning curves of runs, what a world model imagines, and how far to rely on a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mbrl_jax.cli import plot_models
from mbrl_jax.cli.guard import program
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax plot"


def _plot(words: list[str], prog: str) -> int:
    """Draws what a command line asks for; returns the exit code."""
    parser = Parser(prog=prog, description="Draws runs.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    kind = kinds.add_parser("curves", help="learning curves of several runs in one picture, and a table of them")
    kind.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run")
    kind.add_argument("--labels", nargs="+", metavar="LABEL", help="one name for each run (default: its algorithm)")
    kind.add_argument("--out", required=True, metavar="FILE.png", type=Path, help="the picture to write")
    kind.add_argument("--threshold", type=float, metavar="X", help="mark this return, and count the steps to it")
    kind.add_argument("--log", action="store_true", help="steps on a logarithmic axis")
    kind = kinds.add_parser("imagine", help="a real episode, its reconstruction and what the world model imagines")
    kind.add_argument("run", metavar="RUN", type=Path, help="folder of a run of an agent with a latent world model")
    kind.add_argument("--out", required=True, metavar="FILE.png", type=Path, help="the picture to write")
    kind.add_argument("--gif", metavar="FILE.gif", type=Path, help="an animation to write as well")
    kind.add_argument("--seed", type=int, default=0, metavar="I", help="which of the run's seeds, from 0 (default: 0)")
    kind.add_argument("--key", type=int, default=0, metavar="K", help="of the episode and the samples (default: 0)")
    kind.add_argument("--context", type=int, default=5, metavar="C", help="observations seen first (default: 5)")
    kind.add_argument("--horizon", type=int, default=45, metavar="H", help="steps imagined then (default: 45)")
    kind.add_argument("--samples", type=int, default=5, metavar="N", help="rollouts imagined (default: 5)")
    plot_models.add_parsers(kinds)
    args = parser.parsed(words)
    if isinstance(args, int):
        return args
    if args.kind in plot_models.KINDS:
        return plot_models.draw(args)
    if args.out.suffix != ".png":
        raise ValueError(f"--out must end in .png, got {args.out}")
    if args.kind == "imagine":
        _imagine(args)
        return 0
    if args.labels and len(args.labels) != len(args.runs):
        raise ValueError(f"--labels must name each of the {len(args.runs)} runs, got {len(args.labels)}")
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise ValueError(f"--threshold must be finite, got {args.threshold}")
    from mbrl_jax.analysis import curves
    from mbrl_jax.analysis.labels import check_labels

    check_labels(args.labels or [])
    print(curves.draw(args.out, args.runs, args.labels, args.threshold, args.log))
    print(f"picture in {args.out}")
    return 0


def _imagine(args: Any) -> None:
    """Plays one episode with a run's newest checkpoint, and draws it beside what the model makes of it."""
    if args.gif is not None and args.gif.suffix != ".gif":
        raise ValueError(f"--gif must end in .gif, got {args.gif}")
    if min(args.context, args.horizon, args.samples) < 1 or args.key < 0:
        raise ValueError("--context, --horizon and --samples must be at least 1, and --key at least 0")
    if args.key >= 2**32:
        raise ValueError(f"--key must be below 2**32, got {args.key}")
    most = {"context": 100_000, "horizon": 100_000, "samples": 1_000}
    for name, limit in most.items():
        if getattr(args, name) > limit:
            raise ValueError(f"--{name} must be at most {limit}, got {getattr(args, name)}")
    import jax
    import numpy as np

    from mbrl_jax import presets
    from mbrl_jax.agents.open_loop import imagine_episode, imagine_recorded
    from mbrl_jax.analysis import imagination
    from mbrl_jax.core.types import HostEnv
    from mbrl_jax.envs import own
    from mbrl_jax.presets.restore import load_run
    from mbrl_jax.train.host_evaluate import record
    from mbrl_jax.train.log import write_atomic

    run = load_run(args.run, args.seed)
    entry = presets.algorithm(run.algo)
    if entry.open_loop_model is None:
        able = ", ".join(name for name, known in presets.AGENTS.items() if known.open_loop_model is not None)
        raise ValueError(f"run must be of an agent with a latent world model ({able}), got {run.algo}")
    seen = entry.open_loop_model(run.config, run.env.spec, run.state.learner)
    sizes = args.context, args.horizon, args.samples
    key = jax.random.key(args.key)
    if isinstance(run.env, HostEnv):
        key_play, key = jax.random.split(key)
        played = record(run.agent, run.env, key_play, run.state.learner, args.context + args.horizon)
        draw = jax.jit(lambda key, played: imagine_recorded(key, seen, played[0], played[1], played[2], *sizes))
        told = jax.device_get(draw(key, played))
    else:
        play = jax.jit(lambda key: imagine_episode(key, run.agent, run.state.learner, run.env, seen, *sizes))
        told = jax.device_get(play(key))
    length = int(told.length)
    if length <= args.context:
        raise ValueError(f"--context must be below {length}, the observations of this episode, got {args.context}")
    real, rebuilt = np.asarray(told.real)[:length], np.asarray(told.rebuilt)[:length]
    imagined = np.asarray(told.imagined)[:, : length - args.context]
    title = f"{run.algo} on {own.title(run.name)}, {args.context} observations seen, {length - args.context} imagined"
    write_atomic(args.out, imagination.picture(real, rebuilt, imagined, title, labels=seen.labels))
    print(f"picture in {args.out}")
    if args.gif is not None:
        imagination.animation(str(args.gif), real, rebuilt, imagined, title)
        print(f"animation in {args.gif}")


main = program(_plot, PROG)
