"""A run: a Python loop over the compiled chunk, with logs, checkpoints and a clean stop between chunks.

Its numbers equal those of `Loop.train` bitwise, also where it was killed and resumed.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import tree
from mbrl_jax.core.config import flat
from mbrl_jax.core.types import Array, Key, Tree
from mbrl_jax.train import checkpoint
from mbrl_jax.train.interrupt import Stop, aside
from mbrl_jax.train.log import Progress, Record, clock, plain, read_json, write_json
from mbrl_jax.train.loop import Loop, LoopConfig, chunks_for, env_steps, updates
from mbrl_jax.train.sweep import over_seeds, place

LIBRARIES = ("mbrl_jax", "jax", "jaxlib", "flax", "optax", "chex", "distrax", "gymnax", "orbax-checkpoint", "numpy")


class Job(NamedTuple):
    """What to run, and all that is needed to reproduce it."""

    algo: str
    env: str
    agent: Any  # the agent's config
    loop: LoopConfig
    steps: int  # environment steps of one seed; the run ends with the first chunk that reaches them
    seed: int = 0  # seed i of the run is `jax.random.key(seed + i)`
    seeds: int = 1
    wave: int = 1  # seeds under one vmap, on each device
    devices: int = 1  # devices that share the seeds
    threshold: float | None = None  # evaluation return that counts as solved
    command: str = ""  # the command line that started it
    agent_module: str | None = None  # imported before the agent's name is looked up


class Result(NamedTuple):
    """The outcome of a run."""

    state: Tree  # [seeds, ...] the loop's state
    summary: dict[str, Any]  # as in `summary.json`
    finished: bool  # False: stopped by a signal, and may be resumed


def seed_keys(seed: int, seeds: int) -> Key:
    """The keys of a run, [seeds]: row i is `jax.random.key(seed + i)`."""
    return jax.vmap(jax.random.key)(jnp.asarray(np.arange(seed, seed + seeds, dtype=np.uint32)))


def settings(job: Job) -> dict[str, Any]:
    """A job's settings as `config.json` holds them, in types that JSON reads back unchanged."""
    return plain(
        {
            **{
                name: getattr(job, name)
                for name in ("algo", "env", "agent_module", "seed", "seeds", "steps", "wave", "devices", "threshold")
            },
            "agent": flat(job.agent),
            "loop": flat(job.loop),
        }
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries a run depends on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_folder(job: Job, out: Path | str, resume: bool) -> None:
    """Checks that a run can start or resume in a folder; writes nothing.

    Args:
      job: what is to run.
      out: its folder.
      resume: whether a run there is to be continued.
    Raises:
      ValueError: the folder holds another run and `resume` is off; or `resume` is on and the folder holds no run, a run
        with other settings, or one that is already longer.
    """
    out = Path(out)
    config = out / "config.json"
    if not resume:
        if config.exists():
            raise ValueError(f"--out {out} holds another run; choose a new folder, or add --resume to continue it")
        if out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
            raise ValueError(f"--out {out} must be a new or an empty folder")
        return
    if not config.exists():
        raise ValueError(f"--resume needs a run in --out {out}, and there is none (no config.json)")
    old, new = _dotted(read_json(config)), _dotted(settings(job))
    differ = [f"{name} is {old.get(name)!r} there, {new[name]!r} here" for name in new if old.get(name) != new[name]]
    differ = [line for line in differ if not line.startswith(("steps ", "devices "))]  # these change no number
    if differ:
        raise ValueError(f"--resume needs the settings of the run in {out}: {'; '.join(differ)}")
    done = checkpoint.latest(out / "checkpoints") or 0
    if chunks_for(job.loop, job.steps) < done:
        raise ValueError(f"--steps must be at least {env_steps(job.loop, done)}, which the run in {out} has reached")


def _dotted(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in a `config.json` under the names of the command line's flags."""
    nested = {f"{part}.{name}": value for part in ("agent", "loop") for name, value in config.get(part, {}).items()}
    return {**{name: value for name, value in config.items() if name not in ("agent", "loop")}, **nested}


def run(
    loop: Loop,
    job: Job,
    out: Path | str,
    *,
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = 30.0,
    draw: Callable[[Path], Any] | None = None,
) -> Result:
    """Trains all seeds of a job and writes its files to a folder.

    SIGINT or SIGTERM lets the current chunk finish, saves a checkpoint and returns; a second one raises
    KeyboardInterrupt at once, and the last checkpoint stays.

    Args:
      loop: one seed's loop.
      job: what to run.
      out: the folder, created where it is missing.
      resume: continue from the newest checkpoint there, or from the start where there is none yet.
      quiet: print nothing.
      checkpoint_seconds: least time between checkpoints; 0 saves one after every chunk.
      draw: (out) -> None, called at the end to draw the learning curve.
    Returns:
      the state of all seeds, the summary, and whether the run reached its last chunk.
    Raises:
      ValueError: the folder cannot be used: see `check_folder`.
    """
    out = Path(out)
    check_folder(job, out, resume)
    chunks = chunks_for(job.loop, job.steps)
    saves = out / "checkpoints"
    done = start = (checkpoint.latest(saves) or 0) if resume else 0
    record = Record(out, range(job.seed, job.seed + job.seeds))
    keys = seed_keys(job.seed, job.seeds)
    jit_init = jax.jit(lambda keys: tree.strip_weak_types(over_seeds(loop.init, job.wave, job.devices)(keys)))
    state = None
    if done:
        record.load(env_steps(job.loop, done), done)
        state = checkpoint.restore(saves, done, jax.eval_shape(jit_init, keys))
    _write_config(job, out, resume)

    progress = Progress(f"{job.algo} {job.env}", env_steps(job.loop, chunks), job.seeds, quiet)
    with Stop(progress.say) as stop:
        try:
            step, compiling, running = None, 0.0, 0.0
            if done < chunks:
                progress.say(f"compiling {job.algo} on {job.env}, {job.seeds} seed{'s' * (job.seeds > 1)} ...")
                state, step, compiling, running = _compile(loop, job, jit_init, keys, state)
            # Wall time counts this run and those it continues, without compilation.
            base = record.wall_seconds + running - time.monotonic()
            progress.begin(env_steps(job.loop, done))
            state, done = _train(
                job, step, state, (done, chunks), record, saves, stop, progress, base, checkpoint_seconds
            )
            summary = _summary(job, record, done, compiling, out, idle=done == start)
        finally:
            progress.close()
    write_json(out / "summary.json", summary)
    if draw is not None and done:
        draw(out)
    if not quiet:
        _print_summary(job, out, summary, done >= chunks, draw is not None and done > 0)
    return Result(state, summary, done >= chunks)


def _compile(loop: Loop, job: Job, jit_init: Any, keys: Key, state: Tree | None) -> tuple[Tree, Any, float, float]:
    """Compiles the chunk, and the initial state where none was restored, and runs the latter.

    Returns:
      the state of all seeds; the compiled chunk; seconds of compilation; seconds of the warm-up.
    """
    began, running = time.monotonic(), 0.0
    if state is None:
        init = aside(jit_init.lower(keys).compile)
        running -= time.monotonic()
        state = aside(lambda: jax.block_until_ready(init(keys)))
        running += time.monotonic()
    state = place(state, job.devices)
    lowered = jax.jit(over_seeds(loop.chunk, job.wave, job.devices), donate_argnums=0).lower(state)
    step = aside(lowered.compile)
    return state, step, time.monotonic() - began - running, running


def _train(
    job: Job,
    step: Any,
    state: Tree,
    span: tuple[int, int],
    record: Record,
    saves: Path,
    stop: Stop,
    progress: Progress,
    base: float,
    checkpoint_seconds: float,
) -> tuple[Tree, int]:
    """Runs chunks up to the last one or a signal, and saves rows and checkpoints between them.

    Args:
      job: what runs.
      step: the compiled chunk of all seeds.
      state: of all seeds.
      span: chunks done before, and chunks at the end.
      record: of the rows.
      saves: the folder of the checkpoints.
      stop: set by a signal.
      progress: shown between chunks.
      base: wall seconds at time 0 of `time.monotonic`.
      checkpoint_seconds: as in `run`.
    Returns:
      the state after the last chunk, and the number of chunks done.
    """
    done, chunks = span
    saved, last_save = done, time.monotonic()
    while done < chunks and not stop.asked:
        state, report = aside(partial(_call, step, state))
        done += 1
        metrics, returns, lengths = jax.device_get(tuple(report))
        at, wall = env_steps(job.loop, done), base + time.monotonic()
        record.add(at, updates(job.loop, done), wall, metrics, returns, lengths)
        progress.show(at, _mean(metrics["return"]), _mean(np.asarray(record.scores[-1][1])))
        if time.monotonic() - last_save >= checkpoint_seconds and done < chunks:
            saved = _save(record, saves, done, state)
            last_save = time.monotonic()
    if done != saved:
        _save(record, saves, done, state)
    return state, done


def _save(record: Record, saves: Path, done: int, state: Tree) -> int:
    """Writes the rows first, so that a checkpoint is never ahead of them."""
    record.write()
    checkpoint.save(saves, done, state)
    return done


def _write_config(job: Job, out: Path, resume: bool) -> None:
    path = out / "config.json"
    if resume and read_json(path).get("steps") == job.steps:
        return
    out.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0].device_kind
    write_json(path, {**settings(job), "versions": versions(), "device": device, "command": job.command})


def _summary(job: Job, record: Record, done: int, compiling: float, out: Path, idle: bool) -> dict[str, Any]:
    steps, wall = env_steps(job.loop, done), record.wall_seconds
    if idle and (out / "summary.json").exists():
        old = read_json(out / "summary.json")
        if old["env_steps"] == steps:  # nothing was left to do: the old times stand
            return old
    summary = {
        "algo": job.algo,
        "env": job.env,
        "seeds": job.seeds,
        "env_steps": steps,
        "updates": updates(job.loop, done),
        "wall_seconds": round(wall, 3),
        "compile_seconds": round(compiling, 3),
        "env_steps_per_second": round(steps * job.seeds / wall, 3) if wall > 0 else None,
        "eval_return": record.scores[-1][1] if record.scores else [None] * job.seeds,
        "threshold": job.threshold,
        "steps_to_threshold": record.reached(job.threshold),
        "versions": versions(),
    }
    return plain(summary)


def _print_summary(job: Job, out: Path, summary: dict[str, Any], finished: bool, drawn: bool) -> None:
    scores = [score for score in summary["eval_return"] if score is not None]
    mean = f"mean eval return {np.mean(scores):.1f}" if scores else "no evaluation"
    verb = "done" if finished else "stopped"
    took = clock(summary["wall_seconds"])
    print(f"{verb} after {summary['env_steps']:,} steps of {job.seeds} seed{'s' * (job.seeds > 1)} in {took}: {mean}")
    print(f"results in {out}" + (f", curve in {out / 'curve.png'}" if drawn else ""))
    if not finished:
        print(f"resume with: {resume_command(job.command, out)}")
    sys.stdout.flush()


def resume_command(command: str, out: Path | str) -> str:
    """The command line that resumes a run.

    Args:
      command: the one that started it.
      out: the run's folder.
    """
    words = shlex.split(command)
    for i, word in enumerate(words):
        if word == "--out":
            del words[i : i + 2]
            break
    words = [word for word in words if word != "--resume" and not word.startswith("--out=")]
    return shlex.join([*words, "--out", str(out), "--resume"])


def _call(step: Any, state: Tree) -> Any:
    return jax.block_until_ready(step(state))


def _mean(values: Array | np.ndarray) -> float:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else math.nan
