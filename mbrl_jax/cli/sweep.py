"""`mbrl-jax sweep`: many trials of one agent, and a ranked table of them."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbrl_jax.cli.guard import program
from mbrl_jax.cli.launchers import LAUNCHERS
from mbrl_jax.cli.train import first_words, named_folder, split_env_args, task_of
from mbrl_jax.envs.registry import ENVS, is_host
from mbrl_jax.presets.registry import AGENTS

if TYPE_CHECKING:
    from mbrl_jax.cli.flags import Option
    from mbrl_jax.presets.sweep import Range, Sweep
    from mbrl_jax.presets.sweep_run import How, Outcome

PROG = "mbrl-jax sweep"

WIDE = 10
"""A span whose ends are farther apart than this factor is drawn from uniformly in the logarithm."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Runs a sweep as a command line says.

    Args:
      argv: the words after the program's name; those of this process where None.
      prog: how the program is called, for its help and for the command that resumes a sweep.
    Returns:
      the exit code: 0 done, 1 an environment failed, 2 a command that cannot be carried out, 130 stopped by a signal.
    """
    names: list[str] = ["env", "agent_module", "data", "offline"]
    return program(partial(_sweep, names=names), prog, partial(_in_flags, names=names))(argv)


def _in_flags(message: str, names: list[str]) -> str:
    from mbrl_jax.cli.flags import flagged

    own = message.startswith(("--set", "--sample", "trial-"))  # they name the settings as they were given
    return message if own else flagged(message, names)


def _sweep(words: list[str], prog: str, names: list[str]) -> int:
    """Runs a sweep as a command line says; adds the names of all its settings to `names`."""
    algo, env, module, rest = first_words(words)
    if algo is None:
        print(_overview(prog))
        return 0
    rest, given = _split(rest)
    rest, env_args = split_env_args(rest)

    from mbrl_jax.train.devices import settle_devices

    settle_devices([] if is_host(env) else ["--seeds", "2"])  # rows of trials and seeds, in any case more than one
    from mbrl_jax.cli.flags import parse
    from mbrl_jax.models.dynamics.known import settled
    from mbrl_jax.presets import sweep as sweeps
    from mbrl_jax.presets.builder import default_wave
    from mbrl_jax.presets.checks import names_and_values
    from mbrl_jax.presets.task import of_data
    from mbrl_jax.train.compilation import enable_compilation_cache
    from mbrl_jax.train.run import Job

    task = task_of(algo, env, env_args, rest)
    env, known = task.name, task.known
    flags = _options(env, known.steps)
    names += [*(flag.name for flag in flags), *names_and_values(known.agent, known.loop)]
    options = parse(
        flags,
        {"agent": known.agent, "loop": known.loop},
        rest,
        prog=f"{prog} {algo}",
        description=f"Trains {algo} ({AGENTS[algo].summary}) on {env} with many settings.",
    )
    if options is None:
        return 0
    _check_options(options)
    agent = settled(options.agent)
    wave = options.wave or default_wave(agent)
    limit = known.threshold if math.isfinite(known.threshold) else None
    base = Job(
        algo, env, agent, options.loop, options.steps, options.seed, options.seeds, wave, threshold=limit,
        agent_module=module, env_args=env_args, **of_data(task.data),
    )  # fmt: skip
    sweep = sweeps.Sweep(
        base, known, task.env, [], _asked(base, given, options), options.devices, options.together, options.trials,
        data=task.data,
    )  # fmt: skip
    enable_compilation_cache()
    out = named_folder(options.out)
    again = f"{prog} {shlex.join([*(word for word in words if word != '--resume'), '--resume'])}"
    return _started(sweep, read_flags(given, agent, options.loop), out, words, options, again)


def _started(
    sweep: Sweep,
    varied: tuple[dict[str, list[Any]], dict[str, Range]],
    out: Path,
    words: list[str],
    options: Any,
    again: str,
) -> int:
    """Runs a sweep by whatever finds its trials and starts its workers; returns the exit code."""
    from mbrl_jax.cli import launchers
    from mbrl_jax.presets import search, sweep_run
    from mbrl_jax.presets.sweep import draw

    grid, ranges = varied
    if options.search == "optuna":
        search.check_installed()
        at_once = options.at_once or max(1, -(-options.trials // 4))
        if options.prune != "none":
            from mbrl_jax.presets import pruned

            pruning = pruned.Pruning(options.prune, options.prune_after)
            return _ended(
                lambda how: pruned.run(
                    sweep, grid, ranges, out, at_once, pruning, resume=options.resume, how=how
                ), out, options, again,
            )  # fmt: skip

        def searched(how: How) -> Outcome:
            return search.run(sweep, grid, ranges, out, at_once, resume=options.resume, how=how)

        return _ended(searched, out, options, again)
    evolution = _evolution(grid, ranges, sweep.base.agent, options)
    trials = draw(grid, ranges, options.trials, options.seed)
    drawn = sweep._replace(trials=trials, total=0, evolution=evolution)
    if options.workers > 1 or options.launcher != "local":
        return _ended(lambda how: launchers.launch(drawn, out, words, options, how, main), out, options, again)
    join = options.worker_index >= 0
    return _ended(lambda how: sweep_run.run(drawn, out, resume=options.resume, how=how, join=join), out, options, again)


def _check_options(options: Any) -> None:
    """Raises ValueError where options do not go together."""
    if not options.out:
        raise ValueError("--out must name the sweep's folder")
    if options.seed + options.seeds > 2**32:
        raise ValueError(f"seed must be at most 2**32 - seeds = {2**32 - options.seeds}, got {options.seed}")
    if options.search == "optuna" and not options.trials:
        raise ValueError("--trials must be given with --search optuna: how many it may try")
    if options.prune != "none" and options.search != "optuna":
        raise ValueError(f"--prune must be none for --search {options.search}, got {options.prune}: Optuna prunes")
    if options.loop.mesh:
        raise ValueError(f"loop.mesh must be empty in a sweep, whose rows share the devices, got {options.loop.mesh}")
    if options.search != "none" and (options.workers > 1 or options.launcher != "local"):
        raise ValueError(
            f"--workers must be 1 and --launcher local for --search {options.search}, which is one program"
        )
    if options.search == "optuna" and options.worker_index >= 0:
        raise ValueError("--worker-index must not be given with --search optuna, whose rounds one process runs")


def _evolution(grid: Any, ranges: dict[str, Range], agent: Any, options: Any) -> Any:
    """How the trials are members of a population; None where they are not."""
    from mbrl_jax.presets.sweep import is_float
    from mbrl_jax.train.population import Evolution, Span

    if options.search != "pbt":
        return None
    for name in [*grid, *ranges]:
        if name in grid or not is_float(agent, name):
            raise ValueError(f"--search pbt changes floats of the agent while it learns, by --sample; {name} is none")
    if options.trials < 4:
        raise ValueError(
            f"--trials must be at least 4 for --search pbt, the members of a population, got {options.trials}"
        )
    if options.together:
        raise ValueError("--together must not be given with --search pbt: a population is one program")
    spans = {name: Span(span.low, span.high, span.log) for name, span in ranges.items()}
    return Evolution(spans, options.every, options.share)


def _asked(base: Any, given: list[tuple[str, str]], options: Any) -> dict[str, Any]:
    """What decides a sweep's numbers, as `sweep.json` holds it."""
    from mbrl_jax.train.run import settings

    told = settings(base)
    nested = {f"{part}.{name}": value for part in ("agent", "loop") for name, value in told[part].items()}
    kept = ("algo", "env", "agent_module", "env_args", "seed", "seeds", "steps", "wave")
    each = {flag: [text for other, text in given if other == flag] for flag in ("set", "sample")}
    own = {"none": (), "optuna": ("at_once",), "pbt": ("every", "share")}[options.search]
    own = own if options.prune == "none" else (*own, "prune", "prune_after")
    search = {name: getattr(options, name) for name in ("search", "together", *own)}
    of_data = {name: told[name] for name in ("data_digest", "offline") if name in told}
    return {**{name: told[name] for name in kept}, **of_data, "trials": options.trials, **search, **each, **nested}


def _ended(run: Callable[[How], Outcome], out: Path, options: Any, again: str) -> int:
    """Runs the trials, prints the ranked table of those that have ended, and returns the exit code."""
    from mbrl_jax.analysis import sweeps as pictures
    from mbrl_jax.core.types import EnvironmentFailed
    from mbrl_jax.presets.sweep_run import PATIENCE, How
    from mbrl_jax.train.folder import claimed

    how = How(options.quiet, options.checkpoint_seconds, options.env_workers, max(0, options.worker_index))
    try:
        outcome = run(how)
    except EnvironmentFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with claimed(out, wait=PATIENCE):
        table = pictures.report(out)
    if not options.quiet:
        print(table)
        for line in outcome.elsewhere:
            print(f"left to another process: {line}")
        if outcome.done:
            print(f"results in {out}: table.csv, response.png, parallel.png, and a run's folder for each trial")
        elif not outcome.elsewhere:
            print(f"stopped\nresume with: {again}")
    return 0 if outcome.done or outcome.elsewhere else 130


def _split(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The words without every `--set` and `--sample`, and those as pairs of flag and text."""
    rest, given = [], []
    while words:
        word, words = words[0], words[1:]
        flag, equals, value = word.partition("=")
        if flag not in ("--set", "--sample"):
            rest.append(word)
            continue
        if not equals:
            value, words = (words[0], words[1:]) if words and not words[0].startswith("--") else ("", words)
        given.append((flag[2:], value))
    return rest, given


def read_flags(
    given: Sequence[tuple[str, str]], agent: Any, loop: Any
) -> tuple[dict[str, list[Any]], dict[str, Range]]:
    """What `--set` and `--sample` ask for.

    Args:
      given: pairs of "set" or "sample" and the text after it: "agent.lr=1e-4,3e-4", "agent.gamma=0.9..0.999".
      agent, loop: the settings of which some are varied.
    Returns:
      the values of each setting on the grid; the ranges of those that are drawn.
    Raises:
      ValueError: names the flag, and what is wrong with it.
    """
    from mbrl_jax.cli.flags import like
    from mbrl_jax.presets.checks import names_and_values

    known = names_and_values(agent, loop)
    grid: dict[str, list[Any]] = {}
    ranges: dict[str, Any] = {}
    for flag, text in given:
        form = "agent.NAME=VALUE,VALUE,..." if flag == "set" else "agent.NAME=LOW..HIGH"
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not values:
            raise ValueError(f"--{flag} needs {form}, got {text!r}")
        where = f"--{flag} {text}"
        if name not in known:
            ends = [full for full in known if full.rpartition(".")[2] == name.rpartition(".")[2]]
            near = f" (did you mean {ends[0]}?)" if ends else like(name, list(known))
            raise ValueError(f"{where}: {name} is no setting{near}; the flags of train list them")
        if name in grid or name in ranges:
            raise ValueError(f"{where}: {name} is varied already")
        if flag == "set":
            grid[name] = [
                _allowed(where, name, _value(where, word, known[name]), agent, loop) for word in values.split(",")
            ]
            if len({*map(repr, grid[name])}) < len(grid[name]):
                raise ValueError(f"{where}: a value stands there twice")
        else:
            ranges[name] = _range(where, values, known[name])
            for end in (ranges[name].low, ranges[name].high):
                _allowed(where, name, end, agent, loop)
    if not given:
        raise ValueError("--set or --sample must be given: what is to be varied")
    return grid, ranges


def _allowed(where: str, name: str, value: Any, agent: Any, loop: Any) -> Any:
    """The value, if its setting may have it."""
    from mbrl_jax.core.config import check
    from mbrl_jax.presets.sweep import changed

    new_agent, new_loop = changed(agent, loop, {name: value})
    try:
        check(new_agent, "agent.")
        check(new_loop, "loop.")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return value


def _value(where: str, word: str, usual: Any) -> Any:
    """A word as a value of the type of the usual one."""
    word = word.strip()
    try:
        if isinstance(usual, bool):
            return {"true": True, "false": False}[word.lower()]
        if isinstance(usual, tuple):
            return tuple(int(item) for item in word.split("x"))
        if isinstance(usual, int | float):
            value = type(usual)(word)
            if not math.isfinite(value):
                raise ValueError
            return value
    except (ValueError, KeyError) as error:
        kind = (
            "true or false" if isinstance(usual, bool) else "a whole number" if isinstance(usual, int)
            else "whole numbers as in 64x64" if isinstance(usual, tuple) else "a finite number"
        )  # fmt: skip
        raise ValueError(f"{where}: takes {kind}, got {word!r}") from error
    return word


def _range(where: str, text: str, usual: Any) -> Range:
    """A span as `LOW..HIGH`, with `:log` or `:linear` where its width is not to decide."""
    from mbrl_jax.presets.sweep import Range

    if isinstance(usual, bool) or not isinstance(usual, int | float):
        raise ValueError(f"{where}: only numbers can be drawn; --set takes values one by one")
    span, colon, scale = text.partition(":")
    ends = span.split("..")
    if len(ends) != 2 or (colon and scale not in ("log", "linear")):
        raise ValueError(f"{where}: needs LOW..HIGH, and after it :log, :linear or nothing")
    low, high = (_value(where, end, usual) for end in ends)
    if not low < high:
        raise ValueError(f"{where}: the first number must be below the second")
    if scale == "log" and low <= 0:
        raise ValueError(f"{where}: with :log both numbers must be above 0")
    return Range(low, high, scale == "log" or (not colon and low > 0 and high > WIDE * low), isinstance(usual, int))


def _overview(prog: str) -> str:
    return f"""usage: {prog} ALGO --env ENV --out DIR [--seeds N] [--trials T] [--steps S] [--resume]
       [--set agent.NAME=VALUE,VALUE,...]... [--sample agent.NAME=LOW..HIGH[:log|:linear]]...
       [--search none|optuna|pbt] [--prune none|median|halving] [--launcher local|slurm|ray] [--workers N] [...]

Trains an agent with many settings, trials of the same shapes in one program, and ranks them. Every trial leaves the
folder of a run; the sweep leaves sweep.json, table.csv, response.png and parallel.png.

  --set     values to try, crossed with those of every other --set; numbers, true and false, words, or 64x64
  --sample  a range to draw from for each of --trials; logarithmic where its ends are farther apart than a factor of 10
  --search  optuna asks for trials by the results before; pbt copies the best members of a population as they learn
  --prune   trials of optuna that stay behind end on their way, and others begin in their place

algorithms: {", ".join(AGENTS)}

All options, with their defaults for an environment: {prog} ALGO --env ENV --help"""


def _options(env: str, steps: int) -> list[Option]:
    """The options that are no settings of agent or loop."""
    from mbrl_jax.cli.flags import Option

    return [
        Option("env", str, env, f"environment: {', '.join(ENVS)}, or any other that train takes"),
        Option("env_arg", str, "", "an argument of the environment, as key=value; may be given several times"),
        Option("set", str, "", "values to try, as agent.NAME=VALUE,VALUE,...; may be given several times"),
        Option(
            "sample", str, "", "a range to draw from, as agent.NAME=LOW..HIGH, with :log or :linear after it; may be "
            "given several times",
        ),
        Option("trials", int, 0, "how many to draw; 0 takes each point of --set once", {"low": 0, "high": 100_000}),
        Option(
            "search", str, "none", "how trials are found: drawn at once, asked of Optuna by the results before, or a "
            "population whose worst members follow the best", {"choices": ["none", "optuna", "pbt"]},
        ),
        Option("at_once", int, 0, "trials of a round of --search optuna; 0: a quarter of --trials", {"low": 0}),
        Option(
            "prune", str, "none", "which trials of --search optuna end on their way, for others to begin: those below "
            "the median of the ended ones, or by successive halving", {"choices": ["none", "median", "halving"]},
        ),
        Option("prune_after", int, 1, "chunks after which a trial may be pruned first", {"low": 1}),
        Option("every", int, 1, "chunks from one exchange of --search pbt to the next", {"low": 1}),
        Option(
            "share", float, 0.25, "share of a population that follows as large a share of the best",
            {"above": 0, "high": 0.5},
        ),
        Option("together", int, 0, "the most trials in a program; 0: as many as fit into memory", {"low": 0}),
        Option(
            "launcher", str, "local", "what starts the workers that share the programs", {"choices": list(LAUNCHERS)},
        ),
        Option("workers", int, 1, "processes that share the programs", {"low": 1}),
        Option("launcher_args", str, "", "what slurm or ray is to give each worker, as key=value,key=value"),
        Option(
            "worker_index", int, -1, "this process is one of several workers on the folder, and begins with the "
            "program of this number; -1: it is the only one, or starts them", {"low": -1},
        ),
        Option("seeds", int, 1, "seeds of each trial", {"low": 1}),
        Option("seed", int, 0, "first seed of each trial; --sample draws with it too", {"low": 0, "high": 2**32 - 1}),
        Option("steps", int, steps, "real environment steps of each seed, random ones included", {"low": 1}),
        Option("out", str, "", "the sweep's folder, new or empty"),
        Option("data", str, "", "a data set, FILE.npz or minari:ID, as of train"),
        Option("offline", bool, False, "learn from --data alone, as of train"),
        Option("resume", bool, False, "go on with the sweep in --out, which was begun with the same flags"),
        Option("agent_module", str, "", "Python file or module that registers agents of your own, imported first"),
        Option("quiet", bool, False, "print nothing but errors"),
        Option("devices", int, 0, "the most devices that share the rows of a program; 0: all there are", {"low": 0}),
        Option("wave", int, 0, "rows under vmap at once on a device; 0 chooses by the networks' width", {"low": 0}),
        Option(
            "env_workers", int, 0, "processes that share environments whose steps are Python; 0 steps them in this one",
            {"low": 0},
        ),
        Option(
            "checkpoint_seconds", float, 30.0, "least seconds between checkpoints; 0 saves one after every chunk",
            {"low": 0},
        ),
    ]  # fmt: skip
