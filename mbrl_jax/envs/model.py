"""The simulator as a model: planning with the true dynamics."""

from __future__ import annotations

from mbrl_jax.core import Env, Key, Model, StepOut
from mbrl_jax.core.precision import narrow_env
from mbrl_jax.core.types import Action, State


def as_model(env: Env) -> Model:
    """The environment's own step as a model, whose states are the environment's states.

    A time limit does not set the discount to 0, so a planner looks past it.

    Args:
      env: any environment.
    Returns:
      A model over the environment's states.
    """

    env = narrow_env(env)

    def step(key: Key, state: State, action: Action) -> StepOut:
        state, _, reward, discount, _ = env.step(key, state, action)
        return StepOut(state, reward, discount)

    return Model(step)
