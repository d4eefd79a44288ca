"""Training and loading from Python: what the command line does, as calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Env, HostEnv
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.dynamics.known import settled
from mbrl_jax.presets.builder import Start, build, default_wave, learner
from mbrl_jax.presets.checks import checked
from mbrl_jax.presets.fine_tune import taken_from
from mbrl_jax.presets.loaded import Run
from mbrl_jax.presets.offline import Data
from mbrl_jax.presets.restore import check_resumable, load_run, saved_configs, saved_settings, with_wave
from mbrl_jax.presets.task import Task, data_for, of_data, task
from mbrl_jax.train import checkpoint, trackers
from mbrl_jax.train import run as runs
from mbrl_jax.train.compilation import enable_compilation_cache
from mbrl_jax.train.devices import devices_for
from mbrl_jax.train.run import Job, Result, Watcher, check_folder


def train(
    algo: str,
    env: str | Env | HostEnv | Callable[[], Env],
    *,
    out: Path | str,
    steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    agent: Mapping[str, Any] | None = None,
    loop: Mapping[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = True,
    checkpoint_seconds: float = 30.0,
    stop_diverged: bool = False,
    env_args: Mapping[str, Any] | None = None,
    env_workers: int = 0,
    callback: Watcher | None = None,
    track: str | Sequence[str] = (),
    init_from: Run | Path | str | None = None,
    init_parts: Sequence[str] | None = None,
    data: Path | str = "",
    offline: bool = False,
) -> Result:
    """Trains an agent and leaves a run's folder, as `mbrl-jax train` does.

    Args:
      algo: an agent's name.
      env: an environment's name; an environment, an `Env` or a `HostEnv`, whose steps are Python; or a function that
        makes an `Env`. A run of an environment without a name cannot be loaded in another process: give
        `"file.py:function"` for that.
      out: the run's folder, new or empty.
      steps: real environment steps of each seed, random ones included; the preset's if None.
      seeds, seed: how many, trained in one program; the first. Seed i of the run is `jax.random.key(seed + i)`.
      agent, loop: changes to the preset's settings, by dotted name: `{"policy.lr": 1e-3}`.
      resume: go on with the run in `out`; see also `resume`, which takes all settings from it.
      quiet: print nothing.
      checkpoint_seconds: least time between checkpoints, in seconds; 0 saves one after every chunk.
      stop_diverged: train seeds no further whose numbers are no longer finite.
      env_args: arguments of the environment that a name stands for.
      env_workers: processes that share environments whose steps are Python; 0 steps them in this one.
      callback: (`train.run.Event`) -> None, called after every chunk; where it returns True the run stops.
      track: trackers that rows are sent to besides the CSV files: "tensorboard", "wandb", "mlflow".
      init_from: a run, or its folder, to start from what it has learned (its seed 0), instead of from fresh parameters.
      init_parts: parts of the learner to take from it, by dotted name; all if None.
      data: a data set, the path of an npz file or "minari:ID". An agent for data sets, as `mopo` is, learns from it
        alone; the replay buffer of any other holds its rows before the first step.
      offline: learn from the data set alone with an agent that would collect, as `sac` does.
    Returns:
      the state of all seeds, the summary, and whether the run came to its end.
    Raises:
      ValueError: a name that does not exist, a setting out of range or at odds with another, a folder that cannot
        be used, learners that do not fit each other, or more memory needed than there is.
    """
    given = task(algo, env, env_args, str(data), offline)
    known = given.known
    agent_cfg, loop_cfg = settled(replace(known.agent, dict(agent or {}))), replace(known.loop, dict(loop or {}))
    known = known._replace(agent=agent_cfg, loop=loop_cfg)
    job = _new_job(algo, given._replace(known=known), known.steps if steps is None else steps, (seed, seeds))
    job = job._replace(stop_diverged=stop_diverged, env_args=env_args or {})
    if resume:
        check_resumable(out, algo, agent_cfg, loop_cfg)
        job = with_wave(job, out)
    job, start = started(job, given.env, out if resume else None, init_from, init_parts)
    how = {"quiet": quiet, "checkpoint_seconds": checkpoint_seconds, "callback": callback, "track": track}
    return run_job(job, given.env, out, resume=resume, env_workers=env_workers, start=start, data=given.data, **how)


def _new_job(algo: str, given: Task, steps: int, seeds: tuple[int, int]) -> Job:
    """A job of a task's settings, for the first of the seeds and their number."""
    first, count = seeds
    if count < 1:
        raise ValueError(f"seeds must be at least 1, got {count}")
    if not 0 <= first <= 2**32 - count:
        raise ValueError(f"seed must be at least 0 and at most 2**32 - seeds = {2**32 - count}, got {first}")
    agent, loop, _, solved = given.known
    devices = 1 if given.hosted or loop.mesh else devices_for(0, count)
    return Job(
        algo, given.name, agent, loop, steps, first, count, default_wave(agent, count // devices), devices=devices,
        threshold=solved if math.isfinite(solved) else None, **of_data(given.data),
    )  # fmt: skip


def run_job(
    job: Job,
    env: Env | HostEnv,
    out: Path | str,
    *,
    resume: bool,
    quiet: bool,
    checkpoint_seconds: float = 30.0,
    env_workers: int = 0,
    callback: Watcher | None = None,
    track: str | Sequence[str] = (),
    start: Start | None = None,
    data: Data | None = None,
) -> Result:
    """Checks a job, builds its loop and runs it.

    Args:
      job: what to run.
      env: its environment.
      out: the run's folder.
      resume: go on with the run there.
      quiet, checkpoint_seconds, env_workers, callback, track: as for `train`.
      start, data: as for `build`.
    Returns:
      as `train`.
    Raises:
      ValueError: as `train`.
    """
    check_folder(job, out, resume)
    loop: Any = build(job.algo, env, job.agent, job.loop, env_workers, start, data)
    program, memory = checked(loop, job)
    return run_loop(
        program, job, env, out, memory=memory, resume=resume, quiet=quiet, checkpoint_seconds=checkpoint_seconds,
        callback=callback, track=track,
    )  # fmt: skip


def run_loop(
    loop: Any,
    job: Job,
    env: Env | HostEnv,
    out: Path | str,
    *,
    memory: str,
    resume: bool,
    quiet: bool,
    checkpoint_seconds: float,
    callback: Watcher | None = None,
    track: str | Sequence[str] = (),
) -> Result:
    """Runs a loop that is built and checked, with trackers, and draws its curve.

    Args:
      loop: what `train.run.run` takes.
      job: what to run.
      env: its environment.
      out: the run's folder.
      memory: what it needs, a line to print.
      resume: go on with the run there.
      quiet, checkpoint_seconds, callback, track: as for `train`.
    Returns:
      as `train`.
    Raises:
      ValueError: there is no such tracker, or the folder cannot be used.
    """
    drawn = None
    if track:
        from mbrl_jax.presets.pictures import last_pictures

        drawn = last_pictures(job, env)
    watchers = [*trackers.made(track, job, drawn), *([] if callback is None else [callback])]
    if not quiet:
        print(memory, flush=True)

    def draw(folder: Path) -> None:
        from mbrl_jax.analysis import curves

        curves.draw(folder / "curve.png", [folder], None, job.threshold)

    return runs.run(
        loop, job, out, resume=resume, quiet=quiet, checkpoint_seconds=checkpoint_seconds, draw=draw, watchers=watchers
    )


def resume(
    out: Path | str,
    *,
    steps: int | None = None,
    quiet: bool = True,
    checkpoint_seconds: float = 30.0,
    devices: int = 0,
    env_workers: int = 0,
    callback: Watcher | None = None,
    track: str | Sequence[str] = (),
) -> Result:
    """Goes on with a run; all its settings come from its folder.

    Args:
      out: the run's folder.
      steps: real environment steps of each seed at the end, those made so far included; what the run was to make if
        None.
      quiet, checkpoint_seconds, env_workers, callback, track: as for `train`.
      devices: that share the seeds; 0 chooses.
    Returns:
      as `train`.
    Raises:
      ValueError: there is no run in the folder, or one that this version cannot go on with.
    """
    folder = Path(out)
    saved = saved_settings(folder)
    agent_cfg, loop_cfg = saved_configs(folder, saved)
    made: Any = make_env(saved["env"], **saved.get("env_args", {}))
    hosted = isinstance(made, HostEnv)
    data = data_for(
        saved["algo"], made, saved.get("data", ""), saved.get("offline", False), saved.get("data_digest", "")
    )
    job = Job(
        algo=saved["algo"],
        env=saved["env"],
        agent=agent_cfg,
        loop=loop_cfg,
        steps=saved["steps"] if steps is None else steps,
        seed=saved["seed"],
        seeds=saved["seeds"],
        wave=saved.get("wave") or default_wave(agent_cfg),
        devices=1 if hosted or loop_cfg.mesh else devices_for(devices, saved["seeds"]),
        threshold=saved.get("threshold"),
        command=saved.get("command", ""),
        agent_module=saved.get("agent_module"),
        stop_diverged=saved.get("stop_diverged", False),
        env_args=saved.get("env_args", {}),
        **of_data(data),
    )
    job, start = started(job, made, folder, None, None)
    how = {"quiet": quiet, "checkpoint_seconds": checkpoint_seconds, "callback": callback, "track": track}
    return run_job(job, made, folder, resume=True, env_workers=env_workers, start=start, data=data, **how)


def started(
    job: Job,
    env: Env | HostEnv,
    resumed: Path | str | None,
    init_from: Run | Path | str | None,
    init_parts: Sequence[str] | None,
) -> tuple[Job, Start | None]:
    """A job that begins with what another run has learned.

    Args:
      job: what is to run.
      env: its environment.
      resumed: folder of the run that goes on, None for a new one. Until its first checkpoint it begins as it began.
      init_from: a run or its folder; None to begin with fresh parameters, or as the run in `resumed` began.
      init_parts: parts of the learner to take from it, by dotted name; all if None.
    Returns:
      the job, which says where it begins; a function from fresh learners to those to start from, None for fresh ones.
    Raises:
      ValueError: `init_parts` without `init_from`, no such run or part, learners that do not fit each other, or a
        resumed run that began elsewhere.
    """
    if init_from is None and init_parts is not None:
        raise ValueError("init_parts must come with init_from, a run to take them from")
    if resumed is not None and not (Path(resumed) / "config.json").exists():
        return job, None  # `check_folder` says what is wrong
    if resumed is not None:
        kept = saved_settings(resumed).get("init_from")
        asked = init_from.folder if isinstance(init_from, Run) else init_from
        if asked is not None and (kept is None or Path(kept["folder"]) != Path(asked).absolute()):
            began = "fresh parameters" if kept is None else kept["folder"]
            raise ValueError(f"init_from must be what the run in {resumed} began with, {began}, got {asked}")
        if kept is None or checkpoint.latest_place(Path(resumed) / "checkpoints") is not None:
            return job, None
        old, parts = load(kept["folder"], kept["seed"], kept.get("checkpoint")), kept.get("parts")
    elif init_from is None:
        return job, None
    else:
        old, parts = init_from if isinstance(init_from, Run) else load(init_from), init_parts
    start = taken_from(old.learner, parts)
    # before anything is built: whether the two fit each other
    jax.eval_shape(lambda key: start(learner(job.algo, env, job.agent)[0].init(key)), jax.random.key(0))
    source = {"folder": str(old.folder.absolute()), "seed": old.seed, "checkpoint": old.checkpoint}
    return job._replace(init_from=source | ({} if parts is None else {"parts": list(parts)})), start


def load(folder: Path | str, seed: int = 0, checkpoint: str | int | None = None) -> Run:
    """A run taken up again: its policy, its model, its settings and its rows. Nothing of the training is compiled.

    Args:
      folder: of a run.
      seed: which of its seeds, counted from 0.
      checkpoint: which of the kept checkpoints, by the name of its folder; the newest if None.
    Raises:
      ValueError: there is no run in the folder, no checkpoint, or no such seed.
    """
    enable_compilation_cache()
    return Run(folder, seed, load_run(folder, seed, checkpoint))
