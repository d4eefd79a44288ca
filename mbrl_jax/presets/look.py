"""What the model of a run does, for a report: an imagined episode beside the real one, errors, and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.agents.open_loop import OpenLoopModel, imagine_episode
from mbrl_jax.analysis import imagination
from mbrl_jax.analysis.report import Calibration, Looked
from mbrl_jax.core.types import Action, Key, Model, Obs, State
from mbrl_jax.envs import own
from mbrl_jax.presets import builder
from mbrl_jax.presets.loaded import Run
from mbrl_jax.presets.restore import import_agent, saved_configs, saved_settings
from mbrl_jax.train import checkpoint

OVER_OBSERVATIONS = ("pets", "mbpo", "dyna_dqn")
"""Agents whose model's states are observations."""
EPISODES = 4
ROWS, DRAWS = 400, 64
"""Rows of the replay buffer that calibration is measured on, and predictions of each."""


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
    entry = builder.algorithm(saved["algo"])
    if entry.open_loop_model is None and saved["algo"] not in OVER_OBSERVATIONS:
        return Looked(label, None, None, None)
    if checkpoint.latest_place(folder / "checkpoints") is None:
        return Looked(label, None, None, None, "its folder has no checkpoint, so its model is not there to look at")
    from mbrl_jax.presets.api import load

    run = load(folder)
    if not hasattr(run.env, "reset"):
        return Looked(label, None, None, None, "the steps of its environment are Python: no episode is imagined")
    try:
        model = _over_observations(run.model) if entry.open_loop_model is None else entry.open_loop_model(
            run.config, run.env.spec, run.learner
        )  # fmt: skip
    except ValueError as error:
        return Looked(label, None, None, None, str(error))
    play = jax.jit(lambda key: imagine_episode(key, run.agent, run.learner, run.env, model, context, horizon, samples))
    episodes = [jax.device_get(play(k)) for k in jax.random.split(jax.random.key(key), EPISODES)]
    errors = open_loop_errors(episodes, context)
    calibration = one_step_calibration(run, key) if saved["algo"] in OVER_OBSERVATIONS else None
    note = "" if errors is not None else f"episodes of at most {context} observations are too short to imagine on"
    return Looked(label, _picture(run, model, episodes, context), errors, calibration, note)


def _over_observations(model: Model) -> OpenLoopModel:
    """A model whose states are observations, as an open-loop model."""

    def track(key: Key, obs: Obs, action: Action) -> State:
        del key, action
        return jnp.asarray(obs, jnp.float32)

    return OpenLoopModel(track, lambda key, state, action: model.step(key, state, action).state, lambda state: state)


def _picture(run: Run, model: OpenLoopModel, episodes: list[Any], context: int) -> bytes | None:
    longest = max(episodes, key=lambda found: int(found.length))
    return imagination.episode_picture(longest, context, f"{run.algo} on {own.title(run.name)}", model.labels)


def open_loop_errors(episodes: list[Any], context: int) -> np.ndarray | None:
    """Root mean square errors of open-loop predictions, by the number of steps ahead.

    Args:
      episodes: as `imagine_episode` gives them.
      context: observations seen first.
    Returns:
      [H] in standard deviations of each episode's observations, over entries, rollouts and the episodes that last so
      long; None where no episode goes on after the context. Entries that do not change are left out.
    """
    squares: list[list[float]] = []
    for found in episodes:
        length = int(found.length)
        if length <= context:
            continue
        real = np.asarray(found.real, np.float64)[:length].reshape(length, -1)
        spread = real.std(axis=0)
        moves = spread > 1e-6
        if not moves.any():
            continue
        imagined = np.asarray(found.imagined, np.float64)[:, : length - context]
        imagined = imagined.reshape(*imagined.shape[:2], -1)
        off = (imagined - real[None, context:]) / np.where(moves, spread, 1.0)
        for h, value in enumerate(np.mean(np.square(off[..., moves]), axis=(0, 2))):
            if h == len(squares):
                squares.append([])
            squares[h].append(float(value))
    return np.sqrt([np.mean(values) for values in squares]) if squares else None


def one_step_calibration(run: Run, key: int = 0) -> Calibration:
    """How well a model over observations covers what happened, on rows of its run's replay buffer.

    Args:
      run: of an agent with such a model.
      key: of rows and predictions.
    """
    loop = saved_configs(run.folder, saved_settings(run.folder))[1]
    replay = builder.buffer(run.algo, run.config, loop).replay(run.state.buffer)
    key_rows, key_steps = jax.random.split(jax.random.key(key))
    rows = replay.sample(key_rows, ROWS)

    def predicted(key: Key, obs: Obs, action: Action) -> Any:
        out = jax.vmap(lambda k: run.model.step(k, jnp.asarray(obs, jnp.float32), action))(jax.random.split(key, DRAWS))
        return out.state, out.reward

    states, rewards = jax.jit(jax.vmap(predicted))(jax.random.split(key_steps, ROWS), rows.obs, rows.action)
    drawn = np.concatenate([np.asarray(states), np.asarray(rewards)[..., None]], axis=-1)  # [R, DRAWS, D + 1]
    real = np.concatenate([np.asarray(rows.next_obs), np.asarray(rows.reward)[:, None]], axis=-1)
    return coverage(drawn, real)


def coverage(drawn: Any, real: Any) -> Calibration:
    """The share of what happened that lies in central intervals of drawn predictions.

    Args:
      drawn: [R, K, D] predictions of each row.
      real: [R, D].
    """
    drawn, real = np.asarray(drawn, np.float64), np.asarray(real, np.float64)[:, None]
    rank = np.mean(drawn < real, axis=1) + 0.5 * np.mean(drawn == real, axis=1)  # in [0, 1], uniform where calibrated
    levels = np.linspace(0.1, 0.9, 9)
    return Calibration(levels, np.array([np.mean(np.abs(rank - 0.5) <= level / 2) for level in levels]), len(drawn))
