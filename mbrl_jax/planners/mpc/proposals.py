"""Candidates that follow the model's prior, added to those a planner draws (Hansen et al. 2024)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mbrl_jax.core.rollout import imagine
from mbrl_jax.core.types import Action, Array, Key, Model, Spec, State
from mbrl_jax.planners.mpc.common import bounds, is_discrete

UNLIKELY = -1e8  # logit in place of NaN or infinity


def propose(model: Model, key: Key, state: State, n: int, horizon: int, spec: Spec) -> Action | None:
    """n sequences of actions from rollouts of the model's `prior` in the model.

    Args:
      model: its `prior` gives logits [A] of discrete actions, or a continuous action, which is clipped to the bounds;
        a NaN action becomes the centre of the range, a NaN logit the least likely.
      key: used once.
      state: one state.
      n: number of sequences.
      horizon: H.
      spec: the environment's.
    Returns:
      [n, H, ...]; None if n is 0 or the model has no prior.
    """
    prior = model.prior
    if n == 0 or prior is None:
        return None

    def choose(key: Key, state: State) -> Array:
        key_prior, key_choice = jax.random.split(key)
        logits = prior(key_prior, state)
        logits = jnp.where(logits < jnp.inf, logits, UNLIKELY)  # False for NaN
        if model.legal is not None:
            logits = jnp.where(model.legal(state), logits, -jnp.inf)
        return jax.random.categorical(key_choice, logits).astype(spec.action.dtype)

    def follow(key: Key, state: State) -> Array:
        box = bounds(spec)
        action = prior(key, state)
        return jnp.where(jnp.isnan(action), box.centre, box.clip(action)).astype(spec.action.dtype)

    policy = choose if is_discrete(spec) else follow
    return jax.vmap(lambda key: imagine(model.step, policy, key, state, horizon)[1].actions)(jax.random.split(key, n))


def replace_last(samples: Array, proposed: Array | None) -> Array:
    """The candidates [N, ...] with the last n replaced by the proposals [n, ...], if any."""
    return samples if proposed is None else samples.at[samples.shape[0] - proposed.shape[0] :].set(proposed)
