"""`mbrl-jax evaluate`: episodes with what a run has learned: their returns, and a film of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbrl_jax.cli.guard import guarded
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax evaluate"
MOST = {"episodes": 100_000, "film-episodes": 1_000, "film-steps": 10_000}


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Plays deterministic episodes with a run's newest checkpoint, and prints their returns.

    Args:
      argv: the words after the program's name; those of this process where None.
      prog: how the program is called, for its help.
    Returns:
      the exit code: 0 done, 2 a command that cannot be carried out.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _evaluate(words, prog), lambda message: message.replace("seed must", "--seed must", 1))


def _evaluate(words: list[str], prog: str) -> int:
    args = _parsed(words, prog)
    if isinstance(args, int):
        return args
    _check(args)
    played = _play(args)
    if args.json:
        print(json.dumps(played, indent=2))
        return 0
    print(f"{played['algo']} on {played['env']}, seed {played['seed']}, after {played['env_steps']} steps")
    for i, (total, length) in enumerate(zip(played["returns"], played["lengths"], strict=True), 1):
        print(f"  episode {i:<4} return {total:<10.4g} {length} steps")
    print(f"mean return {played['mean']:.4g} (standard deviation {played['std']:.4g}) of {args.episodes} episodes")
    if args.video is not None:
        print(f"film in {args.video}")
    return 0


def _parsed(words: list[str], prog: str) -> Any:
    """The command line's words by name, or the exit code after help."""
    parser = Parser(prog=prog, description="Plays deterministic episodes with what a run has learned.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--episodes", type=int, default=10, metavar="N", help="episodes to play (default: 10)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="I", help="which of the run's seeds, from 0 (default: 0)"
    )
    parser.add_argument("--key", type=int, default=0, metavar="K", help="random key of the episodes (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--video", metavar="FILE.gif", type=Path, help="a film to write, where states can be drawn")
    parser.add_argument("--film-episodes", type=int, default=1, metavar="N", help="episodes in it (default: 1)")
    parser.add_argument(
        "--film-steps", type=int, default=1_000, metavar="N", help="steps of each, at most (default: 1000)"
    )
    parser.add_argument("--fps", type=float, default=25.0, metavar="X", help="its frames a second (default: 25)")
    return parser.parsed(words)


def _check(args: Any) -> None:
    from mbrl_jax.analysis.video import MOST_FPS

    for name, most in MOST.items():
        value = getattr(args, name.replace("-", "_"))
        if not 1 <= value <= most:
            raise ValueError(f"--{name} must be from 1 to {most}, got {value}")
    if not 0 <= args.key < 2**32:
        raise ValueError(f"--key must be at least 0 and below 2**32, got {args.key}")
    if args.video is None:
        return
    if args.video.suffix != ".gif":
        raise ValueError(f"--video must end in .gif, got {args.video}")
    if not args.video.parent.is_dir():
        raise ValueError(f"--video: there is no folder {args.video.parent}")
    if args.film_episodes > args.episodes:
        raise ValueError(f"--film-episodes must be at most --episodes = {args.episodes}, got {args.film_episodes}")
    if not 0 < args.fps <= MOST_FPS:
        raise ValueError(f"--fps must be above 0 and at most {MOST_FPS}, got {args.fps:g}")


def _play(args: Any) -> dict[str, Any]:
    """Plays the episodes, and writes the film."""
    import jax
    import numpy as np

    from mbrl_jax.core.types import HostEnv
    from mbrl_jax.presets.restore import load_run

    run = load_run(args.run, args.seed)
    play = _on_host if isinstance(run.evaluation, HostEnv) else _compiled
    returns, lengths = (np.asarray(out) for out in play(args, run, jax.random.key(args.key)))
    return {
        "run": str(args.run),
        "algo": run.algo,
        "env": run.name,
        "seed": args.seed,
        "key": args.key,
        "env_steps": run.env_steps,
        "episodes": args.episodes,
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "returns": [float(value) for value in returns],
        "lengths": [int(value) for value in lengths],
    }


def _compiled(args: Any, run: Any, key: Any) -> tuple[Any, Any]:
    """Returns and lengths of episodes in an environment in JAX, with the film written."""
    import jax

    from mbrl_jax.train.evaluate import evaluate

    if args.video is not None and run.evaluation.render is None:
        raise ValueError(f"--video: {run.name} cannot be drawn, as its Env has no render")
    play = jax.jit(lambda key, learner: evaluate(run.agent, run.evaluation, key, learner, args.episodes))
    out = play(key, run.state.learner)
    if args.video is not None:
        _film(args, run, key)
    return out


def _on_host(args: Any, run: Any, key: Any) -> tuple[Any, Any]:
    """The same in an environment whose steps are Python."""
    from mbrl_jax.analysis.video import write_gif
    from mbrl_jax.train.host_evaluate import evaluate_host

    shown = 0 if args.video is None else args.film_episodes
    returns, lengths, films = evaluate_host(
        run.agent, run.evaluation, key, run.state.learner, args.episodes, shown=shown, steps=args.film_steps
    )
    if args.video is not None:
        write_gif(args.video, [frame for frames in films for frame in frames], args.fps)
    return returns, lengths


def _film(args: Any, run: Any, key: Any) -> None:
    import jax
    import numpy as np

    from mbrl_jax.analysis.video import write_gif
    from mbrl_jax.train.evaluate import film

    sizes = args.episodes, args.film_episodes, args.film_steps
    shoot = jax.jit(lambda key, learner: film(run.agent, run.evaluation, key, learner, *sizes))
    frames, lengths = (np.asarray(out) for out in shoot(key, run.state.learner))
    write_gif(args.video, np.concatenate([frames[: lengths[i] + 1, i] for i in range(len(lengths))]), args.fps)
