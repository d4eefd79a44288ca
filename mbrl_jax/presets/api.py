"""Training and loading from Python: what the command line does, as calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Env, HostEnv
from mbrl_jax.envs.registry import make_env, settle
from mbrl_jax.presets.builder import build, default_wave, preset
from mbrl_jax.presets.checks import checked
from mbrl_jax.presets.restore import Loaded, check_resumable, load_run
from mbrl_jax.train.compilation import enable_compilation_cache
from mbrl_jax.train.devices import devices_for
from mbrl_jax.train.run import Job, Result, check_folder, run


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
) -> Result:
    """Trains an agent and leaves a run's folder, as `mbrl-jax train` does.

    Args:
      algo: an agent's name.
      env: an environment's name; an environment, an `Env` or a `HostEnv`, whose steps are Python; or a function that
        makes an `Env`. A run of an environment without a name cannot be loaded in another process: give
        `"file.py:function"` for that.
      out: the run's folder, new or empty.
      steps: real environment steps of each seed, random ones included; the preset's if None.
      seeds: how many, trained under `vmap` in one program.
      seed: the first; seed i of the run is `jax.random.key(seed + i)`.
      agent: changes to the preset's agent settings, by dotted name: `{"policy.lr": 1e-3}`.
      loop: changes to the preset's loop settings.
      resume: go on with the run in `out`.
      quiet: print nothing.
      checkpoint_seconds: least time between checkpoints, in seconds; 0 saves one after every chunk.
      stop_diverged: train seeds no further whose numbers are no longer finite.
      env_args: arguments of the environment that a name stands for.
      env_workers: processes that share environments whose steps are Python; 0 steps them in this one.
    Returns:
      the state of all seeds, the summary, and whether the run came to its end.
    Raises:
      ValueError: a name that does not exist, a setting out of range or at odds with another, a folder that cannot
        be used, or more memory needed than there is.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if not 0 <= seed <= 2**32 - seeds:
        raise ValueError(f"seed must be at least 0 and at most 2**32 - seeds = {2**32 - seeds}, got {seed}")
    env = settle(env) if isinstance(env, str) else env if isinstance(env, HostEnv) else make_env(env)
    made: Any = make_env(env, **(env_args or {})) if isinstance(env, str) else env
    hosted = isinstance(made, HostEnv)
    known = preset(algo, made if hosted or env_args else env)
    agent_cfg, loop_cfg = replace(known.agent, dict(agent or {})), replace(known.loop, dict(loop or {}))
    job = Job(
        algo=algo,
        env=env if isinstance(env, str) else made.spec.name,
        agent=agent_cfg,
        loop=loop_cfg,
        steps=known.steps if steps is None else steps,
        seed=seed,
        seeds=seeds,
        wave=default_wave(agent_cfg),
        devices=1 if hosted else devices_for(0, seeds),
        threshold=known.threshold if math.isfinite(known.threshold) else None,
        stop_diverged=stop_diverged,
        env_args=env_args or {},
    )
    if resume:
        check_resumable(out, algo, agent_cfg, loop_cfg)
    check_folder(job, out, resume)
    enable_compilation_cache()
    program, memory = checked(build(algo, made, agent_cfg, loop_cfg, env_workers), job)
    if not quiet:
        print(memory, flush=True)

    def draw(folder: Path) -> None:
        from mbrl_jax.analysis import curves

        curves.draw(folder / "curve.png", [folder], None, job.threshold)

    return run(program, job, out, resume=resume, quiet=quiet, checkpoint_seconds=checkpoint_seconds, draw=draw)


def load(folder: Path | str, seed: int = 0) -> Loaded:
    """A run's settings, and one of its seeds at the newest checkpoint.

    Args:
      folder: of a run.
      seed: which of its seeds, counted from 0.
    Raises:
      ValueError: there is no run in the folder, no checkpoint, or no such seed.
    """
    return load_run(folder, seed)
