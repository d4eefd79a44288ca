"""The learned model of a run in one form for all agents, to measure what it predicts beside what happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Action, Array, DictSpace, Env, Key, Obs, State, StepOut
from mbrl_jax.envs import games
from mbrl_jax.presets import builder
from mbrl_jax.presets.loaded import Run

OVER_OBSERVATIONS = ("pets", "mbpo", "dyna_dqn", "mopo", "morel", "combo", "rambo")
"""Agents whose model's states are observations."""
DREAMERS = ("dreamer_v1", "dreamer_v2", "dreamer_v3")
DRAWS = (*DREAMERS, "world_models")
"""Agents with one latent model that draws its predictions."""
ONE_OUTCOME = ("tdmpc2", "muzero")
"""Agents with one latent model without noise."""
MEASURED = (*OVER_OBSERVATIONS, *DRAWS, *ONE_OUTCOME)
MOST = 256
"""Entries of an observation that are looked at; of larger ones as many, evenly spread."""


class Output(NamedTuple):
    """One kind of thing that a model predicts of the state it comes to."""

    predicted: Callable[[Key, State], Array]  # (key, state) -> [D]
    names: tuple[str, ...]  # of the D entries
    real: Callable[[Key, Obs], Array] | None = None
    """(key, observation) -> [D] what it should be; None for the return that follows"""


class Probe(NamedTuple):
    """A learned model with its parameters inside."""

    track: Callable[[Key, Obs, Action], State]
    """(key, observations [T, ...], actions [T, ...] taken there) -> states [T, ...] of an episode from its start"""
    step: Callable[[Array, Key, State, Action], StepOut]  # (member i, key, state, action)
    members: int
    random: bool  # whether two draws of a step differ
    outputs: dict[str, Output]  # beside the reward
    moments: Callable[[Array, Obs, Action], tuple[Array, Array]] | None  # as of `LearnedModel`
    context: int  # observations to see first
    gamma: float = 1.0  # discount of the return that a value predicts


def probe(run: Run) -> Probe:
    """The model of a run.

    Args:
      run: of an agent in `MEASURED`.
    Raises:
      ValueError: another agent, a game, or observations that are a dict of arrays.
    """
    if run.algo not in MEASURED:
        raise ValueError(f"run must be of an agent with a learned model ({', '.join(MEASURED)}), got {run.algo}")
    if isinstance(run.loaded.raw, Env) and games.is_game(run.loaded.raw):
        raise ValueError(f"errors are measured where one player acts, {run.name} has two or illegal actions")
    if isinstance(run.loaded.raw.spec.obs, DictSpace):
        raise ValueError(f"errors are measured of observations that are one array, those of {run.name} are a dict")
    learned = builder.algorithm(run.algo).learned_model
    assert learned is not None
    found = learned(run.config, run.env.spec, run.learner)
    if run.algo in OVER_OBSERVATIONS:
        return _over_observations(run, found)
    return _of_dreamer(run, found) if run.algo in DREAMERS else _of_latents(run, found)


def view(obs: Obs) -> Array:
    """An observation as a vector of at most `MOST` of its entries."""
    flat = jnp.ravel(jnp.asarray(obs, jnp.float32))
    return flat[jnp.asarray(_kept(flat.size))]


def _kept(size: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, MOST)).round().astype(int))


def _observation(run: Run, decode: Callable[[State], Array]) -> Output:
    names = tuple(f"o[{i}]" for i in _kept(int(np.prod(run.env.spec.obs.shape))))
    return Output(lambda key, state: view(decode(state)), names, lambda key, obs: view(obs))


def _over_observations(run: Run, found: Any) -> Probe:
    at = found.model.at
    return Probe(
        lambda key, obs, action: jnp.asarray(obs, jnp.float32),
        lambda i, key, state, action: at(i).step(key, state, action),
        found.model.members,
        run.algo != "dyna_dqn" or bool(run.config.known.member),
        {"observation": _observation(run, lambda state: state)},
        found.moments,
        1,
    )


def _of_dreamer(run: Run, found: Any) -> Probe:
    follow = run.agent.follow
    assert follow is not None

    def track(key: Key, obs: Obs, action: Action) -> State:
        def one(carry: Any, at: tuple[Array, Obs, Action]) -> tuple[Any, State]:
            i, obs, action = at
            carry, _ = follow(jax.random.fold_in(key, i), run.learner, carry, obs, action)
            return carry, carry.latent

        steps = jnp.arange(len(jax.tree.leaves(obs)[0]))
        return jax.lax.scan(one, run.agent.carry(), (steps, obs, action))[1]

    outputs = {}
    if getattr(run.config.net, "decoder", True):
        seen = builder.algorithm(run.algo).open_loop_model
        assert seen is not None
        outputs["observation"] = _observation(run, seen(run.config, run.env.spec, run.learner).decode)
    return Probe(track, _alone(found), 1, True, outputs, None, 5)


def _of_latents(run: Run, found: Any) -> Probe:
    """World Models, TD-MPC2 and MuZero."""
    if run.algo == "muzero":
        value = Output(found.model.value, ("value",))
        return Probe(_encoded(found), _alone(found), 1, False, {"value": value}, None, 1, float(run.config.gamma))
    if run.algo == "tdmpc2":
        size = found.encode(jax.random.key(0), jnp.zeros(run.env.spec.obs.shape, run.env.spec.obs.dtype)).z.size
        names = tuple(f"z[{i}]" for i in _kept(size))
        latent = Output(lambda key, state: view(state.z), names, lambda key, obs: view(found.encode(key, obs).z))
        return Probe(_encoded(found), _alone(found), 1, False, {"latent": latent}, None, 1)
    seen = builder.algorithm(run.algo).open_loop_model
    assert seen is not None
    dream = seen(run.config, run.env.spec, run.learner)
    return Probe(dream.track, _alone(found), 1, True, {"observation": _observation(run, dream.decode)}, None, 5)


def _alone(found: Any) -> Callable[[Array, Key, State, Action], StepOut]:
    return lambda i, key, state, action: found.model.step(key, state, action)


def _encoded(found: Any) -> Callable[[Key, Obs, Action], State]:
    """Every observation on its own, for models without memory."""
    return lambda key, obs, action: jax.vmap(lambda obs: found.encode(key, obs))(obs)
