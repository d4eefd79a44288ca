"""What trackers show at a run's end: a film of an episode, and an episode that its world model imagines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mbrl_jax.agents.open_loop import imagine_episode
from mbrl_jax.analysis import imagination
from mbrl_jax.analysis.video import write_gif
from mbrl_jax.core.types import Agent, EnvironmentFailed, HostEnv, Tree
from mbrl_jax.envs import own
from mbrl_jax.presets import builder
from mbrl_jax.train.evaluate import film
from mbrl_jax.train.host_evaluate import evaluate_host
from mbrl_jax.train.log import write_atomic
from mbrl_jax.train.run import Event, Job
from mbrl_jax.train.trackers import Picture

STEPS, CONTEXT, HORIZON, SAMPLES = 500, 5, 45, 5
"""Steps of the film at most; observations seen first, steps imagined then, and rollouts."""


def last_pictures(job: Job, env: Any) -> Callable[[Event], list[Picture]]:
    """A function that draws what the first seed of a run has learned, into the folder `pictures` of the run.

    Args:
      job: what runs.
      env: its environment.
    Returns:
      (event) -> the pictures; what cannot be drawn is left out, and a line on stderr says why where that is a fault.
    """
    agent, seen = builder.learner(job.algo, env, job.agent)
    evaluation = builder.evaluation_env(job.algo, env)

    def made(event: Event) -> list[Picture]:
        learner = jax.tree.map(lambda leaf: leaf[0], event.state.learner)
        folder, found = event.folder / "pictures", []
        folder.mkdir(exist_ok=True)
        for name, draw in (
            ("film.gif", lambda path: _filmed(agent, evaluation, learner, path)),
            ("imagined.png", lambda path: _imagined(job, agent, seen, learner, path)),
        ):
            try:
                drawn = draw(folder / name)
            except (ValueError, EnvironmentFailed) as error:
                print(f"{name} was not drawn: {error}", file=sys.stderr)
                continue
            if drawn:
                found.append(Picture(event.seeds[0], name.partition(".")[0], folder / name))
        return found

    return made


def _filmed(agent: Agent, env: Any, learner: Tree, path: Path) -> bool:
    """Films an episode; whether the environment can be drawn."""
    key = jax.random.key(0)
    if isinstance(env, HostEnv):
        if not env.drawable:
            return False
        frames: Any = evaluate_host(agent, env, key, learner, 1, shown=1, steps=STEPS)[2][0]
    elif env.render is None:
        return False
    else:
        shoot = jax.jit(lambda key, learner: film(agent, env, key, learner, 1, 1, STEPS))
        drawn, lengths = (np.asarray(out) for out in shoot(key, learner))
        frames = drawn[: int(lengths[0]) + 1, 0]
    write_gif(path, frames)
    return True


def _imagined(job: Job, agent: Agent, env: Any, learner: Tree, path: Path) -> bool:
    """Draws an imagined episode beside the real one; whether there is a latent model that can."""
    entry = builder.algorithm(job.algo)
    if entry.open_loop_model is None or isinstance(env, HostEnv):
        return False
    model = entry.open_loop_model(job.agent, env.spec, learner)
    play = jax.jit(lambda key: imagine_episode(key, agent, learner, env, model, CONTEXT, HORIZON, SAMPLES))
    who = f"{job.algo} on {own.title(job.env)}"
    picture = imagination.episode_picture(jax.device_get(play(jax.random.key(0))), CONTEXT, who, model.labels)
    if picture is not None:
        write_atomic(path, picture)
    return picture is not None
