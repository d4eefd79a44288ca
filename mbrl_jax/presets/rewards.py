"""Known reward functions that a planner can use, by the name in an environment's spec."""

from __future__ import annotations

from mbrl_jax.agents import pets
from mbrl_jax.core.types import Agent, Spec
from mbrl_jax.envs import cartpole
from mbrl_jax.models.dynamics.known import RewardFn

REWARDS: dict[str, RewardFn] = {"cartpole-swingup": cartpole.swingup_reward}


def make_pets(cfg: pets.PETSConfig, spec: Spec) -> Agent:
    """PETS with the environment's own reward function where `known_reward` asks for it.

    Args:
      cfg: settings; floats may be traced.
      spec: the environment's.
    Returns:
      the agent.
    Raises:
      ValueError: as `pets.make`; no reward function is known for the environment.
    """
    return pets.make(cfg, spec, REWARDS.get(spec.name) if cfg.known_reward else None)
