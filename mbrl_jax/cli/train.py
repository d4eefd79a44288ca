"""`mbrl-jax train`: trains an agent, or resumes a run.

Flags come from the config dataclasses (`flags.py`), with the preset of the agent and the environment as defaults.
Whatever is wrong with a command gets one line on stderr and exit code 2. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import ast
import glob
import math
import re
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbrl_jax.cli.guard import program
from mbrl_jax.envs.own import FORM, folder_name
from mbrl_jax.envs.registry import ENVS, LIBRARIES, is_host
from mbrl_jax.presets.registry import AGENTS, import_agents

if TYPE_CHECKING:
    from mbrl_jax.cli.flags import Option
    from mbrl_jax.presets.task import Task
    from mbrl_jax.train.run import Job

PROG = "mbrl-jax train"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Trains an agent as a command line says.

    Args:
      argv: the words after the program's name; those of this process where None.
      prog: how the program is called, for its help and for the command that resumes a run.
    Returns:
      the exit code: 0 done, 1 every seed diverged or an environment failed, 2 a command that cannot be carried out, 130
      stopped by a signal.
    """
    names: list[str] = ["env", "agent_module", "data", "offline", "track", "init_from", "init_parts"]
    return program(partial(_trained, names=names), prog, partial(_in_flags, names=names))(argv)


def _trained(words: list[str], prog: str, names: list[str]) -> int:
    """Begins a run, or goes on with one of which only the folder is named; returns the exit code."""
    alone = words and words[0].startswith("--") and any(word.partition("=")[0] == "--resume" for word in words)
    return (_resume if alone else _train)(words, prog, names)


def _in_flags(message: str, names: list[str]) -> str:
    from mbrl_jax.cli.flags import flagged

    return flagged(message, names)


def _train(words: list[str], prog: str, names: list[str]) -> int:
    """Trains as a command line says; adds the names of all its settings to `names`."""
    algo, env, module, rest = first_words(words)
    if algo is None:
        print(_overview(prog))
        return 0

    from mbrl_jax.train.devices import settle_devices

    rest, env_args = split_env_args(rest)
    settle_devices([] if is_host(env) else rest)
    _connect(rest)
    from mbrl_jax.cli.flags import parse
    from mbrl_jax.models.dynamics.known import settled
    from mbrl_jax.presets.checks import names_and_values
    from mbrl_jax.presets.restore import check_resumable, with_wave
    from mbrl_jax.presets.task import of_data
    from mbrl_jax.train.hosts import agreed
    from mbrl_jax.train.run import Job, check_folder

    task = task_of(algo, env, env_args, words)
    env, known = task.name, task.known
    given = _options(algo, env, known.steps)
    names += [*(option.name for option in given), *names_and_values(known.agent, known.loop)]
    options = parse(
        given,
        {"agent": known.agent, "loop": known.loop},
        rest,
        prog=f"{prog} {algo}",
        description=f"Trains {algo} ({AGENTS[algo].summary}) on {env}.",
    )
    if options is None:
        return 0
    agent, loop_cfg = settled(options.agent), options.loop
    command = f"{prog} {shlex.join(word for word in words if word != '--resume')}"
    limit = known.threshold if math.isfinite(known.threshold) else None
    job = Job(algo, env, agent, loop_cfg, options.steps, threshold=limit, agent_module=module, env_args=env_args)
    job = job._replace(command=command, stop_diverged=options.stop_diverged, **of_data(task.data))
    job = _shared(job, options, task.hosted)
    base = _base(algo, env, options.seed)
    out = named_folder(options.out) if options.out else _newest(base) if options.resume else None
    if options.resume and out is not None:
        check_resumable(out, algo, agent, loop_cfg)
        job = job if options.wave else with_wave(job, out)
    if out is not None and options.distributed:
        agreed(lambda: check_folder(job, out, options.resume))
    elif out is not None:
        check_folder(job, out, options.resume)
    return _run(job, task, out, base, options)


def _connect(words: list[str]) -> None:
    """Makes this process one of several where the command line says so."""
    given = _value_of(words, "--distributed", "auto, or ADDRESS:PORT,PROCESSES,NUMBER")
    if given:
        from mbrl_jax.train.hosts import connect

        connect(given)


def _shared(job: Job, options: Any, hosted: bool) -> Job:
    """The job with its seeds, and how they are shared out over devices and processes.

    Raises:
      ValueError: they cannot be.
    """
    from mbrl_jax import presets
    from mbrl_jax.train.devices import devices_for
    from mbrl_jax.train.hosts import shared

    if options.seed + options.seeds > 2**32:
        raise ValueError(f"seed must be at most 2**32 - seeds = {2**32 - options.seeds}, got {options.seed}")
    job = job._replace(seed=options.seed, seeds=options.seeds, wave=options.wave or presets.default_wave(job.agent))
    if options.distributed:
        if options.loop.mesh or hosted:
            what = f"loop.mesh {options.loop.mesh}" if options.loop.mesh else f"{job.env}, whose steps are Python"
            raise ValueError(f"--distributed shares out seeds of compiled programs on one device each, not {what}")
        if not options.out:
            raise ValueError("--out must name the run's folder with --distributed")
        return shared(job, options.devices)
    devices = 1 if hosted or options.loop.mesh else devices_for(options.devices, options.seeds)
    wave = options.wave or presets.default_wave(job.agent, options.seeds // devices)
    return job._replace(wave=wave, devices=devices)


def task_of(algo: str, env: str, env_args: dict[str, Any], words: list[str]) -> Task:
    """The environment and the data set that a command line names, with the agent's settings there.

    Args:
      algo: an agent's name.
      env: its environment's; "" for the first that it can handle.
      env_args: arguments of the environment.
      words: of the command line, `--data` and `--offline` among them. Where they ask for help no data is read.
    Raises:
      ValueError: as `presets.task.task`.
    """
    from mbrl_jax.presets.builder import default_env
    from mbrl_jax.presets.task import task

    helps = bool({"-h", "--help"} & set(words))
    data = "" if helps else _value_of(words, "--data", "a file of rows") or ""
    return task(algo, env or default_env(algo), env_args, data, "--offline" in words, read=not helps)


def _words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _resume(words: list[str], prog: str, names: list[str]) -> int:
    """Goes on with a run of which only the folder is named; returns the exit code."""
    from mbrl_jax.cli.parser import Parser
    from mbrl_jax.presets.restore import saved_configs, saved_settings
    from mbrl_jax.train.devices import settle_devices

    parser = Parser(prog=prog, description="Goes on with a run; all its settings come from its folder.")
    parser.add_argument("--resume", required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--steps", type=int, metavar="N", help="real environment steps of each seed at the end")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--devices", type=int, default=0, metavar="N", help="devices that share the seeds; 0 chooses")
    parser.add_argument("--env-workers", type=int, default=0, metavar="N", help="processes that share Python's steps")
    parser.add_argument("--checkpoint-seconds", type=float, default=30.0, metavar="S", help="least between checkpoints")
    parser.add_argument("--track", default="", metavar="NAMES", help="trackers, with commas between them")
    args = parser.parsed(words)
    if isinstance(args, int):
        return args
    folder = named_folder(args.resume)
    saved = saved_settings(folder)
    shared = ["--seeds", str(saved["seeds"]), "--loop.mesh", str(saved.get("loop", {}).get("mesh", ""))]
    settle_devices([] if is_host(saved["env"]) else shared)
    for name, least in (("steps", 1), ("devices", 0), ("env_workers", 0), ("checkpoint_seconds", 0)):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    from mbrl_jax.presets import api
    from mbrl_jax.presets.checks import names_and_values

    names += ["steps", "devices", *names_and_values(*saved_configs(folder, saved))]
    result = api.resume(
        folder, steps=args.steps, quiet=args.quiet, checkpoint_seconds=args.checkpoint_seconds, devices=args.devices,
        env_workers=args.env_workers, track=_words(args.track),
    )  # fmt: skip
    return 1 if result.diverged else 0 if result.finished else 130


def _run(job: Job, task: Task, out: Path | None, base: Path, options: Any) -> int:
    """Trains in a folder, a new one after `base` where none is named, or follows the first process; the exit code."""
    from mbrl_jax.presets.api import run_loop, started
    from mbrl_jax.presets.builder import build
    from mbrl_jax.presets.checks import checked
    from mbrl_jax.train.folder import new_folder, remove_empty
    from mbrl_jax.train.hosts import Hosts, follow, is_first

    going_on = out if options.resume else None
    job, start = started(job, task.env, going_on, options.init_from or None, _words(options.init_parts) or None)
    built = build(job.algo, task.env, job.agent, job.loop, options.env_workers, start, task.data)
    loop, memory = checked(built, job)
    if options.distributed and not is_first():
        return 0 if follow(loop, job) else 130
    made = None if out is not None else new_folder(base)
    try:
        with Hosts(loop) if options.distributed else nullcontext(loop) as shared:
            result = run_loop(
                shared, job, task.env, out or made or base, memory=memory, resume=options.resume, quiet=options.quiet,
                checkpoint_seconds=options.checkpoint_seconds, track=_words(options.track),
            )  # fmt: skip
            if isinstance(shared, Hosts):
                shared.finished = result.finished
    finally:
        if made is not None:
            remove_empty(made)
    if result.diverged:
        return 1
    return 0 if result.finished else 130


def named_folder(out: str) -> Path:
    """The folder that `out` names, "~" resolved; ValueError where nobody has such a home."""
    try:
        return Path(out).expanduser()
    except RuntimeError as error:
        raise ValueError(f"--out {out} is in the home of a user who does not exist") from error


def first_words(words: list[str]) -> tuple[str | None, str, str | None, list[str]]:
    """The algorithm, the environment, the module of the user's agents and the other words.

    There is no algorithm where only help is asked for; the environment is "" where none is named. The module is
    imported, so that its agents are known.

    Args:
      words: after the program's name.
    Raises:
      ValueError: there is no such algorithm, or a flag without its value.
    """
    if not words or words[0] in ("-h", "--help"):
        if words:
            return None, "", None, []
        raise ValueError(f"algo must come first, one of {', '.join(AGENTS)}; --help tells more")
    algo, rest = words[0], words[1:]
    given = _value_of(rest, "--agent-module", "a Python file or a module") or _value_of(
        rest, "--agent_module", "a Python file or a module"
    )
    module = import_agents(given) if given else None
    if algo not in AGENTS:
        from mbrl_jax.cli.flags import like

        raise ValueError(f"algo must be one of {', '.join(AGENTS)}, got {algo!r}{like(algo, list(AGENTS))}")
    env = _value_of(rest, "--env", f"a name, one of {', '.join(ENVS)}") or ""
    return algo, env, module, rest


def split_env_args(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without every `--env-arg key=value`, and the arguments of the environment that those give.

    Args:
      words: of the command line.
    Raises:
      ValueError: one is not of that form.
    """
    rest, found = [], {}
    flags = ("--env-arg", "--env_arg")
    while words:
        word, words = words[0], words[1:]
        flag, equals, value = word.partition("=")
        if flag not in flags:
            rest.append(word)
            continue
        if not equals:
            value, words = (words[0], words[1:]) if words else ("", [])
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--env-arg needs key=value, an argument of the environment, got {value!r}")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return rest, found


def _value_of(words: list[str], flag: str, needs: str) -> str | None:
    """The last value of a flag that is read before all others are known."""
    found = None
    for i, word in enumerate(words):
        if word == flag:
            if i + 1 == len(words) or words[i + 1].startswith("-"):
                raise ValueError(f"{flag} needs {needs}")
            found = words[i + 1]
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found


def _overview(prog: str) -> str:
    algos = "\n".join(f"  {name:<13}{entry.summary}" for name, entry in AGENTS.items())
    envs = "\n".join(f"  {name}" for name in ENVS)
    libraries = "\n".join(f"  {prefix}:NAME" for prefix in LIBRARIES)
    return f"""usage: {prog} ALGO [--env ENV] [--seeds N] [--seed K] [--steps S] [--out DIR] [--resume]
       [--agent-module FILE.py|MODULE] [...]
       {prog} --resume RUN [--steps S]

Trains an agent, and leaves its settings, metrics, a summary, a picture of the learning curve and checkpoints in a
folder.

algorithms:
{algos}

environments (`mbrl-jax envs` says more of them, and what other names there are):
{envs}
{libraries}

All options, with their defaults for an environment: {prog} ALGO --env ENV --help"""


def _options(algo: str, env: str, steps: int) -> list[Option]:
    """The options that are no settings of agent or loop."""
    from mbrl_jax.cli.flags import Option

    return [
        Option(
            "env", str, env, f"environment: {', '.join(ENVS)}, one of gymnax's, {', '.join(LIBRARIES)}:NAME, or {FORM}"
        ),
        Option("env_arg", str, "", "an argument of the environment, as key=value; may be given several times"),
        Option(
            "env_workers", int, 0, "processes that share environments whose steps are Python; 0 steps them in this one",
            {"low": 0},
        ),
        Option("seeds", int, 1, "seeds trained side by side in one program", {"low": 1}),
        Option("seed", int, 0, "the first seed; seed i of the run is seed + i", {"low": 0, "high": 2**32 - 1}),
        Option(
            "steps", int, steps, "real environment steps of each seed, random ones included; updates where --data is "
            "all that is learned from", {"low": 1},
        ),
        Option("out", str, "", f"the run's folder, new or empty; if none is given, a new {_base(algo, env, 'SEED')}"),
        Option("resume", bool, False, "go on with the run in --out; --steps may be larger than it was"),
        Option("init_from", str, "", "folder of a run to start from what its first seed has learned; else afresh"),
        Option("init_parts", str, "", "parts of the learner to take from it, with commas between them; else all"),
        Option(
            "data", str, "", "a data set, FILE.npz or minari:ID: agents for data sets learn from it alone, others have "
            "its rows in their replay buffer before the first step",
        ),
        Option(
            "offline", bool, False, "learn from --data alone, also with an agent that would collect; steps are updates"
        ),
        Option("agent_module", str, "", "Python file or module that registers agents of your own, imported first"),
        Option("track", str, "", "trackers beside the CSV files: tensorboard, wandb, mlflow, with commas between them"),
        Option("quiet", bool, False, "print nothing but errors"),
        Option(
            "wave", int, 0, "seeds under vmap at once on a device; waves follow each other; 0 chooses by the "
            "networks' width", {"low": 0},
        ),
        Option(
            "devices", int, 0, "devices that share the seeds; the cores of a processor count as devices; 0 takes as "
            "many as share them evenly, with --resume at most those that the run began with", {"low": 0},
        ),
        Option(
            "distributed", str, "", "this process is one of several that share the seeds: auto where SLURM or a TPU "
            "pod tells who is who, else ADDRESS:PORT,PROCESSES,NUMBER",
        ),
        Option("stop_diverged", bool, False, "train seeds no further whose numbers are no longer finite"),
        Option(
            "checkpoint_seconds", float, 30.0, "least seconds between checkpoints; 0 saves one after every chunk",
            {"low": 0},
        ),
    ]  # fmt: skip


def _newest(base: Path) -> Path:
    """Of the folders that runs without `--out` went to, `base`, `base-2` and so on, the one begun last."""

    def begun(folder: Path) -> float:
        return (folder / "config.json").stat().st_mtime

    found = [folder for folder in base.parent.glob(f"{glob.escape(base.name)}*") if (folder / "config.json").is_file()]
    found = [folder for folder in found if re.fullmatch(r"(-[2-9]|-[1-9][0-9]+)?", folder.name[len(base.name) :])]
    return max(found, key=begun, default=base)


def _base(algo: str, env: str, seed: int | str) -> Path:
    """A run's folder where none is named."""
    return Path("runs") / f"{algo}-{folder_name(env)}-{seed}"
