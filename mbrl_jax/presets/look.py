"""What the model of a run does, for a report: an imagined episode beside the real one, errors, and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mbrl_jax.agents.open_loop import OpenLoopModel, imagine_episode
from mbrl_jax.analysis import imagination
from mbrl_jax.analysis.report import Looked
from mbrl_jax.core.types import Action, Key, Model, Obs, State
from mbrl_jax.envs import own
from mbrl_jax.presets import builder, measure
from mbrl_jax.presets.loaded import Run
from mbrl_jax.presets.probe import MEASURED, ONE_OUTCOME, OVER_OBSERVATIONS
from mbrl_jax.presets.restore import import_agent, saved_settings
from mbrl_jax.train import checkpoint

EPISODES = 4


def look(folder: Path | str, label: str, context: int = 5, horizon: int = 30, samples: int = 8, key: int = 0) -> Looked:
    """Looks at the model of a run's first seed, at its newest checkpoint.

    Args:
      folder: of the run.
      label: its name in the report.
      context: observations of an episode that are seen before predictions begin.
      horizon: steps that are predicted open loop.
      samples: rollouts of each episode.
      key: of the episodes.
    Returns:
      what was found, or a note that says why there is nothing to look at.
    """
    folder = Path(folder)
    saved = saved_settings(folder)
    import_agent(saved)
    if saved["algo"] not in MEASURED:
        return Looked(label, None, None, None)
    if checkpoint.latest_place(folder / "checkpoints") is None:
        return Looked(label, None, None, None, "its folder has no checkpoint, so its model is not there to look at")
    from mbrl_jax.presets.api import load

    run = load(folder)
    try:
        image, note = _imagined(run, context, horizon, samples, key)
    except ValueError as error:
        image, note = None, str(error)
    plan = measure.Plan(episodes=EPISODES, horizon=horizon, context=context)
    try:
        found = measure.errors(run, jax.random.key(key), plan)
        calibration = None
        if run.algo not in ONE_OUTCOME:
            calibration = next(iter(measure.calibrate(run, jax.random.key(key), plan).values())).calibration
    except ValueError as error:
        return Looked(label, image, None, None, note or str(error))
    kind = next(kind for kind in ("observation", "latent", "value", "reward") if kind in found)
    still = found[kind].baselines["persistence"]
    return Looked(label, image, found[kind].rollouts, calibration, note, kind=kind, persistence=still)


def _imagined(run: Run, context: int, horizon: int, samples: int, key: int) -> tuple[bytes | None, str]:
    """A picture of an imagined episode, and why there is none."""
    entry = builder.algorithm(run.algo)
    if not hasattr(run.env, "reset"):
        return None, "the steps of its environment are Python: no episode is imagined"
    if run.algo in OVER_OBSERVATIONS:
        model = _over_observations(run.model)
    elif entry.open_loop_model is None:
        return None, ""
    else:
        model = entry.open_loop_model(run.config, run.env.spec, run.learner)
    play = jax.jit(lambda key: imagine_episode(key, run.agent, run.learner, run.env, model, context, horizon, samples))
    episodes = [jax.device_get(play(k)) for k in jax.random.split(jax.random.key(key), EPISODES)]
    longest: Any = max(episodes, key=lambda found: int(found.length))
    image = imagination.episode_picture(longest, context, f"{run.algo} on {own.title(run.name)}", model.labels)
    return image, "" if image else f"episodes of at most {context} observations are too short to imagine on"


def _over_observations(model: Model) -> OpenLoopModel:
    """A model whose states are observations, as an open-loop model."""

    def track(key: Key, obs: Obs, action: Action) -> State:
        del key, action
        return jnp.asarray(obs, jnp.float32)

    return OpenLoopModel(track, lambda key, state, action: model.step(key, state, action).state, lambda state: state)
