"""Where the members of an ensemble disagree: a measure of what the model does not know, without a unit.

    u(s, a)  = 1/D Σ_d Var_i[ m_i,d(s, a) ] / v_d                  `disagreement`

m_i is the mean that member i predicts of the next observation and the reward. Noise of the environment is in each
member's deviation and not in u. Two units v are in use:

    v_d      = mean over rows of Var_i[ m_i,d(s, a) ]              `usual`: u is 1 on average over those rows
    v_d      = Var over rows of the change of entry d              `variance`: u falls to 0 as the members come to agree

The second makes u the bonus of Pathak et al. 2019, "Self-Supervised Exploration via Disagreement" (arXiv 1906.04161),
in the units that the model itself is fitted in (`uncertainty`, `with_bonus`).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Model, Obs, Params, Replay, StepOut, WorldModel
from mbrl_jax.models.dynamics import common
from mbrl_jax.models.dynamics.ensemble import revised
from mbrl_jax.ops.normalize import fit_normalizer

LEAST = 1e-12
"""Least variance of the members that is divided by: entries that all members know exactly."""


def usual(means: Array) -> Array:
    """v, the variance of the members' means, averaged over rows.

    Args:
      means: [N, K, D] what each of K members predicts of N rows.
    Returns:
      [D] in squared units of the predictions.
    """
    return jnp.mean(jnp.var(means, axis=1), axis=0)


def variance(replay: Replay) -> Array:
    """v, the variance of the change of the observation, and of the reward, over real rows.

    Args:
      replay: the rows; an empty one counts as one row.
    Returns:
      [D] in squared units of the predictions; 1 for an entry that never changes, or always by as much.
    """
    index, size = jnp.arange(replay.capacity), jnp.maximum(replay.size, 1)
    changes = jax.vmap(common.target)(replay.take(jnp.minimum(index, size - 1)))
    return jnp.square(fit_normalizer(changes, index < size).std)


def disagreement(means: Array, unit: Array) -> Array:
    """u, the variance of the members' means in a unit, averaged over what is predicted.

    Args:
      means: [K, D] what each member predicts of one step.
      unit: [D] v, from `usual` or `variance`.
    Returns:
      [] at least 0.
    """
    return jnp.mean(jnp.var(means, axis=0) / jnp.maximum(unit, LEAST))


def member_means(model: WorldModel, params: Params) -> Callable[[Obs, Action], Array]:
    """(observation, action) -> what each member expects of the next observation and the reward, [K, D].

    Args:
      model: one member, with `moments`.
      params: of the members, [K, ...].
    """
    moments = model.moments
    assert moments is not None
    return lambda obs, action: jax.vmap(moments, (0, None, None))(params, obs, action)[0]


def uncertainty(model: WorldModel, params: Params, unit: Array) -> Callable[[Obs, Action], Array]:
    """(observation, action) -> u [], the members' disagreement about a step.

    Args:
      model: one member, with `moments`.
      params: of the members, [K, ...].
      unit: [D] v, from `usual` or `variance`.
    """
    means = member_means(model, params)
    return lambda obs, action: disagreement(means(obs, action), unit)


def with_bonus(bound: Model, unsure: Callable[[Obs, Action], Array], weight: Array | float) -> Model:
    """A model whose rewards have a bonus where its members disagree, r + w u(s, a).

    Args:
      bound: the ensemble as a planner, or `core.branch`, sees it.
      unsure: u, from `uncertainty`.
      weight: w, at least 0; may be traced.
    """

    def more(obs: Obs, action: Action, out: StepOut) -> StepOut:
        return out._replace(reward=out.reward + weight * unsure(obs, action))

    return revised(bound, more)


def need_moments(model: WorldModel, members: int, field: str) -> None:
    """Refuses an ensemble that cannot disagree.

    Args:
      model: one member.
      members: that are asked.
      field: of the setting that counts them, for messages.
    Raises:
      ValueError: the member has no `moments`, or there is only one of it.
    """
    if model.moments is None:
        raise ValueError(
            "explorer must be none for a member without moments, mean and deviation of a step, got disagreement"
        )
    if members < 2:
        raise ValueError(f"{field} must be at least 2 with explorer disagreement, got {members}")
