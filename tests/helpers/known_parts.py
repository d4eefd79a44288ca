"""A reward, a termination and an ensemble's member that settings name."""

from __future__ import annotations

import jax.numpy as jnp

from mbrl_jax.models import DeterministicConfig, deterministic


def reward(obs, action):
    return jnp.sum(obs)


def termination(obs, action):
    return jnp.sum(obs) > 1.0


def member(spec):
    return deterministic(DeterministicConfig(hidden=(3,)), spec)
