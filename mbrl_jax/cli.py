"""The command line: `main` trains an agent, `plot` draws runs.

Flags come from the config dataclasses (`flags.py`), with the preset of the agent and the environment as defaults.
Whatever is wrong with a command gets one line on stderr and exit code 2. Heavy imports wait until they are needed.
"""

from __future__ import annotations

import ast
import io
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbrl_jax.flags import Option

PROG = "python scripts/train.py"
PACKAGE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Trains an agent as a command line says.

    Args:
      argv: the words after the script's name; those of this process where None.
    Returns:
      the exit code: 0 done, 2 a command that cannot be carried out, 130 stopped by a signal.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _train(words))


def plot(argv: Sequence[str] | None = None) -> int:
    """Draws runs and prints a table of them, as a command line says; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    from mbrl_jax import pictures

    return _guarded(lambda: pictures.plot(words))


def _guarded(work: Callable[[], int]) -> int:
    """Turns what the user can mend into one line and exit code 2; a mistake in the program keeps its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal does not have ends no run
            stream.reconfigure(errors="replace")
    try:
        return work()
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last checkpoint, if there is one", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # compiled code may still be at work on another thread, and cannot be called off
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if PACKAGE not in Path(last).resolve().parents:
            raise
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
    except BrokenPipeError:  # who read the output has gone, `head` say: nothing can be printed any more, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


# Training -----------------------------------------------------------------------------------------------------------


def _train(words: list[str]) -> int:
    algo, env, rest = _first_words(words)
    if algo is None:
        print(_overview())
        return 0

    from mbrl_jax.devices import devices_for, settle_devices

    settle_devices(rest)
    from mbrl_jax import pictures, presets
    from mbrl_jax.flags import parse
    from mbrl_jax.train.run import Job, check_folder, run

    known = presets.preset(algo, env)
    options = parse(
        _options(algo, env, known.steps),
        {"agent": known.agent, "loop": known.loop},
        rest,
        prog=f"{PROG} {algo}",
        description=f"Trains {algo} ({names('AGENTS')[algo]}) on {env}.",
    )
    if options is None:
        return 0
    agent, loop_cfg = options.agent, options.loop
    if options.seed + options.seeds > 2**32:
        raise ValueError(f"seed must be at most 2**32 - seeds = {2**32 - options.seeds}, got {options.seed}")
    script = f"python {sys.argv[0]}" if Path(sys.argv[0]).name == "train.py" else PROG
    command = f"{script} {shlex.join(word for word in words if word != '--resume')}"
    limit = known.threshold if math.isfinite(known.threshold) else None
    wave, devices = options.wave or presets.default_wave(agent), devices_for(options.devices, options.seeds)
    job = Job(
        algo, env, agent, loop_cfg, options.steps, options.seed, options.seeds, wave, devices, limit, command
    )  # fmt: skip
    out = Path(options.out).expanduser() if options.out else _default_out(algo, env, options.seed, options.resume)
    check_folder(job, out, options.resume)
    _cache()
    loop = presets.build(algo, env, agent, loop_cfg)

    def draw(folder: Path) -> None:
        pictures.draw(folder / "curve.png", [folder], None, limit)

    result = run(
        loop, job, out, resume=options.resume, quiet=options.quiet,
        checkpoint_seconds=options.checkpoint_seconds, draw=draw,
    )  # fmt: skip
    return 0 if result.finished else 130


def _first_words(words: list[str]) -> tuple[str | None, str, list[str]]:
    """The algorithm, the environment and the other words; no algorithm where only help is asked for."""
    algos, envs = names("AGENTS"), names("ENVS")
    if not words or words[0] in ("-h", "--help"):
        if words:
            return None, "", []
        raise ValueError(f"algo must come first, one of {', '.join(algos)}; --help tells more")
    algo, rest = words[0], words[1:]
    if algo not in algos:
        from mbrl_jax.flags import like

        raise ValueError(f"algo must be one of {', '.join(algos)}, got {algo!r}{like(algo, list(algos))}")
    env = next(iter(envs))
    for i, word in enumerate(rest):
        if word == "--env":
            if i + 1 == len(rest) or rest[i + 1].startswith("-"):
                raise ValueError(f"--env needs a name, one of {', '.join(envs)}")
            env = rest[i + 1]
        elif word.startswith("--env="):
            env = word.removeprefix("--env=")
    return algo, env, rest


TABLES = {"AGENTS": "algorithms.py", "ENVS": "envs/names.py"}


def names(table: str) -> dict[str, str]:
    """The names in one of `TABLES`, each with its summary, read from its text: importing it takes seconds."""
    for node in ast.parse((PACKAGE / TABLES[table]).read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == table:
            assert isinstance(node.value, ast.Dict)
            return {
                key.value: _summary(value)
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    raise LookupError(f"{TABLES[table]} has no table {table}")


def _summary(value: ast.expr) -> str:
    words = value.keywords if isinstance(value, ast.Call) else []
    found = [word.value.value for word in words if word.arg == "summary" and isinstance(word.value, ast.Constant)]
    return str(found[0]) if found else ""


def _overview() -> str:
    algos = "\n".join(f"  {name:<13}{summary}" for name, summary in names("AGENTS").items())
    envs = "\n".join(f"  {name}" for name in names("ENVS"))
    return f"""usage: {PROG} ALGO [--env ENV] [--seeds N] [--seed K] [--steps S] [--out DIR] [--resume] [...]

Trains an agent, and leaves its settings, metrics, a summary, a picture of the learning curve and checkpoints in a
folder.

algorithms:
{algos}

environments (other names are looked up in gymnax):
{envs}

All options, with their defaults for an environment: {PROG} ALGO --env ENV --help"""


def _options(algo: str, env: str, steps: int) -> list[Option]:
    """The options that are no settings of agent or loop."""
    from mbrl_jax.flags import Option

    return [
        Option("env", str, env, f"environment: {', '.join(names('ENVS'))}, or one of gymnax's"),
        Option("seeds", int, 1, "seeds trained side by side in one program", {"low": 1}),
        Option("seed", int, 0, "the first seed; seed i of the run is seed + i", {"low": 0}),
        Option("steps", int, steps, "real environment steps of each seed, random ones included", {"low": 1}),
        Option("out", str, "", f"the run's folder, new or empty; where none is given, a new runs/{algo}-{env}-SEED"),
        Option("resume", bool, False, "go on with the run in --out; --steps may be larger than it was"),
        Option("quiet", bool, False, "print nothing but errors"),
        Option(
            "wave", int, 0, "seeds under vmap at once on a device; waves follow each other; 0 chooses by the "
            "networks' width", {"low": 0},
        ),
        Option(
            "devices", int, 0, "devices that share the seeds; the cores of a processor count as devices; 0 takes as "
            "many as share them evenly", {"low": 0},
        ),
        Option(
            "checkpoint_seconds", float, 30.0, "least seconds between checkpoints; 0 saves one after every chunk",
            {"low": 0},
        ),
    ]  # fmt: skip


def _default_out(algo: str, env: str, seed: int, resume: bool) -> Path:
    """A folder that is not there yet, or the newest one of the name to resume."""
    base = Path("runs") / f"{algo}-{env}-{seed}"
    taken = [base]
    while taken[-1].exists():
        taken.append(base.with_name(f"{base.name}-{len(taken) + 1}"))
    return taken[max(0, len(taken) - 2)] if resume else taken[-1]


def _cache() -> None:
    """Keeps compiled programs between runs; does without where the folder cannot be written."""
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mbrl_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
