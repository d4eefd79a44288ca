"""What an agent has learned of its environment, as a planner's `Model`, and how an observation becomes its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Key, Model, Obs, State, WorldModel
from mbrl_jax.models.dynamics.ensemble import bind
from mbrl_jax.models.dynamics.fit import FitState


class LearnedModel(NamedTuple):
    """A model with its parameters inside, and the way into it."""

    model: Model  # for `core.unroll`, `core.imagine` and every planner
    encode: Callable[[Key, Obs], State]  # (key, observation that starts an episode) -> the model's state


def ensemble_model(member: WorldModel, fitted: FitState, members: int) -> LearnedModel:
    """A fitted ensemble over observations; each rollout keeps its member.

    Args:
      member: one member.
      fitted: the parameters of all members.
      members: E.
    """
    model = bind(member, fitted.params, members=members)
    return LearnedModel(model, lambda key, obs: jnp.asarray(obs, jnp.float32))


def state_model(model: Model) -> LearnedModel:
    """A model whose states are the agent's observations: a table, or the simulator itself.

    Args:
      model: with its parameters inside.
    """
    return LearnedModel(model, lambda key, obs: jax.tree.map(jnp.asarray, obs))
