"""`mbrl-jax evaluate`: episodes with what a run has learned: their returns, and a film of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mbrl_jax.cli.guard import as_flags, program
from mbrl_jax.cli.parser import Parser

PROG = "mbrl-jax evaluate"
MOST = {"episodes": 100_000, "film-episodes": 1_000, "film-steps": 10_000}
QUANTILES = {"least": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "most": 1.0}


def _evaluate(words: list[str], prog: str) -> int:
    args = _parsed(words, prog)
    if isinstance(args, int):
        return args
    _check(args)
    played = _play(args)
    print(json.dumps(played, indent=2) if args.json else report(played))
    if args.video is not None and not args.json:
        print(f"film in {args.video}, of seed {played['seeds'][0]['seed']}")
    return 0


def _parsed(words: list[str], prog: str) -> Any:
    """The command line's words by name, or the exit code after help."""
    parser = Parser(prog=prog, description="Plays episodes with what a run has learned.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--episodes", type=int, default=10, metavar="N", help="episodes of each seed (default: 10)")
    parser.add_argument("--seed", type=int, metavar="I", help="which of the run's seeds, from 0 (default: all)")
    parser.add_argument("--checkpoint", metavar="K", help="which of its checkpoints (default: the newest)")
    parser.add_argument("--sampled", action="store_true", help="draw actions as in training")
    parser.add_argument("--key", type=int, default=0, metavar="K", help="random key of the episodes (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every return and length")
    parser.add_argument("--video", metavar="FILE.gif|mp4", type=Path, help="a film to write, of the first seed played")
    parser.add_argument("--film-episodes", type=int, default=1, metavar="N", help="episodes in it (default: 1)")
    parser.add_argument(
        "--film-steps", type=int, default=1_000, metavar="N", help="steps of each, at most (default: 1000)"
    )
    parser.add_argument("--fps", type=float, default=25.0, metavar="X", help="its frames a second (default: 25)")
    return parser.parsed(words)


def _check(args: Any) -> None:
    from mbrl_jax.analysis.video import MOST_FPS, need_ending

    for name, most in MOST.items():
        value = getattr(args, name.replace("-", "_"))
        if not 1 <= value <= most:
            raise ValueError(f"--{name} must be from 1 to {most}, got {value}")
    if not 0 <= args.key < 2**32:
        raise ValueError(f"--key must be at least 0 and below 2**32, got {args.key}")
    if args.video is None:
        return
    need_ending(args.video)
    if not args.video.absolute().parent.is_dir():
        raise ValueError(f"--video: there is no folder {args.video.parent}")
    if args.film_episodes > args.episodes:
        raise ValueError(f"--film-episodes must be at most --episodes = {args.episodes}, got {args.film_episodes}")
    if not 0 < args.fps <= MOST_FPS:
        raise ValueError(f"--fps must be above 0 and at most {MOST_FPS}, got {args.fps:g}")


def _play(args: Any) -> dict[str, Any]:
    """Plays the episodes of every seed, and writes the film."""
    import jax
    import numpy as np

    from mbrl_jax.core.types import HostEnv
    from mbrl_jax.presets.restore import load_seeds

    seeds = None if args.seed is None else [args.seed]
    first = play = None
    key, found = jax.random.key(args.key), []
    for i, run in enumerate(load_seeds(args.run, seeds, args.checkpoint)):
        if first is None or play is None:
            first, play = run, (_on_host if isinstance(run.evaluation, HostEnv) else _compiled)(args, run)
        returns, lengths = (np.asarray(out) for out in play(key, run.state.learner, args.video is not None and i == 0))
        found.append({"seed": i if args.seed is None else args.seed, **described(returns, lengths)})
    every = [value for one in found for value in one["returns"]]
    means = np.array([one["mean"] for one in found])
    assert first is not None  # a run has a seed
    return {
        "run": str(args.run),
        "algo": first.algo,
        "env": first.name,
        "checkpoint": first.checkpoint,
        "env_steps": first.env_steps,
        "sampled": args.sampled,
        "key": args.key,
        "episodes": args.episodes,
        "mean": float(np.mean(means)),
        "standard_error": standard_error(means if len(means) > 1 else every),
        "quantiles": quantiles(every),
        "seeds": found,
    }


def described(returns: Any, lengths: Any) -> dict[str, Any]:
    """What is said of the episodes of one seed.

    Args:
      returns: [E].
      lengths: [E] in steps.
    """
    import numpy as np

    return {
        "mean": float(np.mean(returns)),
        "standard_error": standard_error(returns),
        "quantiles": quantiles(returns),
        "mean_length": float(np.mean(lengths)),
        "returns": [float(value) for value in returns],
        "lengths": [int(value) for value in lengths],
    }


def standard_error(values: Any) -> float | None:
    """The standard error of the mean of independent values; None of a single one.

    Args:
      values: [N].
    """
    import numpy as np

    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def quantiles(values: Any) -> dict[str, float]:
    """The values at `QUANTILES`, by name.

    Args:
      values: [N].
    """
    import numpy as np

    return {name: float(np.quantile(values, at)) for name, at in QUANTILES.items()}


def report(played: dict[str, Any]) -> str:
    """A table of what was played: a row for each seed, and where there are several one of all.

    Args:
      played: as the JSON object has it.
    """
    from mbrl_jax.analysis.text import aligned

    def row(name: str, one: dict[str, Any], lengths: Sequence[int]) -> list[str]:
        error = "-" if one["standard_error"] is None else f"{one['standard_error']:.3g}"
        mean = sum(lengths) / len(lengths)
        spread = f"{mean:.4g}" if len(set(lengths)) == 1 else f"{mean:.4g} ({min(lengths)} to {max(lengths)})"
        return [name, f"{one['mean']:.5g}", error, *(f"{value:.5g}" for value in one["quantiles"].values()), spread]

    rows = [["seed", "mean return", "std error", *QUANTILES, "steps"]]
    rows += [row(str(one["seed"]), one, one["lengths"]) for one in played["seeds"]]
    if len(played["seeds"]) > 1:
        rows.append(row("all", played, [length for one in played["seeds"] for length in one["lengths"]]))
    kind = "with sampled actions" if played["sampled"] else "with deterministic actions"
    lines = [
        f"{played['algo']} on {played['env']} after {played['env_steps']:,} steps (checkpoint {played['checkpoint']})",
        f"{played['episodes']} episodes {kind} of each seed, of random key {played['key']}",
        *aligned(rows),
    ]
    if len(played["seeds"]) > 1:
        lines.append("all: the mean over seeds and its standard error; quantiles over the episodes of all")
    return "\n".join(lines)


def _compiled(args: Any, run: Any) -> Any:
    """(key, learner, filmed) -> returns and lengths of episodes in an environment in JAX; writes the film."""
    import jax

    from mbrl_jax.train.evaluate import evaluate

    if args.video is not None and run.evaluation.render is None:
        raise ValueError(f"--video: {run.name} cannot be drawn, as its Env has no render")
    agent, env = run.agent, run.evaluation
    play = jax.jit(lambda key, learner: evaluate(agent, env, key, learner, args.episodes, args.sampled))

    def played(key: Any, learner: Any, filmed: bool) -> Any:
        out = play(key, learner)
        if filmed:
            _film(args, run, key, learner)
        return out

    return played


def _on_host(args: Any, run: Any) -> Any:
    """The same in an environment whose steps are Python."""
    import jax

    from mbrl_jax.analysis.video import write_film
    from mbrl_jax.train.host_evaluate import actors, evaluate_host

    begin, act = (jax.jit(part) for part in actors(run.agent, args.episodes, args.sampled))
    play = partial(evaluate_host, run.agent, run.evaluation, episodes=args.episodes, compiled=(begin, act))

    def played(key: Any, learner: Any, filmed: bool) -> Any:
        shown = args.film_episodes if filmed else 0
        returns, lengths, films = play(key=key, learner=learner, shown=shown, steps=args.film_steps)
        if filmed:
            write_film(args.video, [frame for frames in films for frame in frames], args.fps)
        return returns, lengths

    return played


def _film(args: Any, run: Any, key: Any, learner: Any) -> None:
    import jax
    import numpy as np

    from mbrl_jax.analysis.video import write_film
    from mbrl_jax.train.evaluate import film

    sizes = args.episodes, args.film_episodes, args.film_steps
    shoot = jax.jit(lambda key, learner: film(run.agent, run.evaluation, key, learner, *sizes, explore=args.sampled))
    frames, lengths = (np.asarray(out) for out in shoot(key, learner))
    write_film(args.video, np.concatenate([frames[: lengths[i] + 1, i] for i in range(len(lengths))]), args.fps)


main = program(_evaluate, PROG, as_flags("seed", "checkpoint"))
