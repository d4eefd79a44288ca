"""What an agent has learned of its environment, as a planner's `Model`, and how an observation becomes its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Key, Model, Obs, Spec, State, WorldModel
from mbrl_jax.models.dynamics.ensemble import bind, member
from mbrl_jax.models.dynamics.fit import FitState
from mbrl_jax.models.dynamics.gaussian import gaussian
from mbrl_jax.models.dynamics.known import RewardFn, TerminationFn, member_of


class LearnedModel(NamedTuple):
    """A model with its parameters inside, and the way into it."""

    model: Model  # for `core.unroll`, `core.imagine` and every planner
    encode: Callable[[Key, Obs], State]  # (key, observation that starts an episode) -> the model's state
    moments: Callable[[Array, State, Action], tuple[Array, Array]] | None = None
    """(i, state, action) -> mean and standard deviation of the next observation and the reward, [|o| + 1] each, that
    member i of an ensemble predicts; None where a model predicts none"""


def gaussian_member(
    cfg: Any,
    spec: Spec,
    member: WorldModel | None = None,
    reward: RewardFn | None = None,
    termination: TerminationFn | None = None,
) -> WorldModel:
    """The ensemble's member of an agent that learns Gaussian models, with what is known of the environment.

    Args:
      cfg: settings of the agent, with the fields `model` and `known`.
      spec, member, reward, termination: as for `mbpo.make`.
    Raises:
      ValueError: as there.
    """
    return member_of(cfg.known, lambda: gaussian(cfg.model, spec), spec, member, reward, termination)


def ensemble_model(world: WorldModel, fitted: FitState, members: int) -> LearnedModel:
    """A fitted ensemble over observations; each rollout keeps its member.

    Args:
      world: one member.
      fitted: the parameters of all members.
      members: E.
    """
    model = bind(world, fitted.params, members=members)
    of_member = world.moments

    def moments(i: Array, state: State, action: Action) -> tuple[Array, Array]:
        assert of_member is not None
        return of_member(member(fitted.params, i), state, action)

    encode = lambda key, obs: jnp.asarray(obs, jnp.float32)  # noqa: E731
    return LearnedModel(model, encode, None if of_member is None else moments)


def state_model(model: Model) -> LearnedModel:
    """A model whose states are the agent's observations: a table, or the simulator itself.

    Args:
      model: with its parameters inside.
    """
    return LearnedModel(model, lambda key, obs: jax.tree.map(jnp.asarray, obs))
