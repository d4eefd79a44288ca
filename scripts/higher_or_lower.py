"""A task that no fixed rate solves: an agent names a number, and hears whether the sought one is higher or lower.

mbrl-jax sweep climber --agent-module scripts/higher_or_lower.py --env scripts/higher_or_lower.py:higher_or_lower \
    --search pbt --trials 16 --sample agent.rate=1e-6..1 --every 1 --seeds 8 --out sweeps/population

A rate is the size of a step. Small ones do not arrive, large ones step back and forth over the number.
"""

from __future__ import annotations

import jax.numpy as jnp

import mbrl_jax as mbrl
from mbrl_jax.core import Array, Key, config, setting
from mbrl_jax.core.types import Metrics, Replay, Tree

SOUGHT = 0.4321
NEAR = 1e-6  # distance at which the reward is close to 1


def higher_or_lower() -> mbrl.Env:
    """One guess an episode. The reward falls with the logarithm of the distance, from 1 at the number to 0 at -1."""
    spec = mbrl.Spec(mbrl.Box((1,)), mbrl.Box((1,), -1.0, 1.0), time_limit=1, terminates=True, name="HigherOrLower")

    def reset(key: Key) -> tuple[Array, Array]:
        del key
        return jnp.zeros(()), jnp.zeros(1)

    def step(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        del key
        away = SOUGHT - action[0]
        reward = 1.0 - jnp.log1p(jnp.abs(away) / NEAR) / jnp.log1p((1.0 + SOUGHT) / NEAR)
        return state, jnp.sign(away)[None], reward, jnp.zeros(()), jnp.ones((), bool)

    return mbrl.Env(spec, reset, step)


@config
class ClimberConfig:
    """Settings of the agent."""

    rate: float = setting(default=1e-2, above=0, help="size of a step")


def make(cfg: ClimberConfig, spec: mbrl.Spec) -> mbrl.Agent:
    """An agent that learns one number, a step at a time, by what it hears of its last guess.

    Args:
      cfg: settings.
      spec: of `higher_or_lower`.
    """

    def init(key: Key) -> Array:
        del key
        return -jnp.ones(spec.action.shape)

    def act(key: Key, guess: Array, carry: Tree, obs: Array, explore: bool) -> tuple[Array, Tree, Tree]:
        del key, obs, explore
        return guess, carry, ()

    def update(key: Key, guess: Array, replay: Replay) -> tuple[Array, Metrics, Tree]:
        heard = replay.sample(key, 1).next_obs[0]
        return jnp.clip(guess + cfg.rate * heard.reshape(guess.shape), -1.0, 1.0), {}, ()

    return mbrl.Agent(init, lambda: (), act, update)


mbrl.register_agent(
    "climber", ClimberConfig, make, summary="steps of one size", action_kinds=("continuous",), replay="latest"
)
