"""The words and the rollouts: floor 0, which imports jax and chex alone."""

from mbrl_jax.core import tree
from mbrl_jax.core.config import axes, check, config, replace, setting
from mbrl_jax.core.rollout import branch, discounted_return, imagine, spread, unroll
from mbrl_jax.core.types import (
    Agent,
    Array,
    Box,
    Buffer,
    Discrete,
    Env,
    EnvironmentFailed,
    HostEnv,
    HostEnvs,
    HostStep,
    Key,
    Metrics,
    Model,
    Planner,
    Replay,
    Rollout,
    Space,
    Spec,
    StepOut,
    Transition,
    Tree,
    WorldModel,
)

__all__ = [
    "Agent", "Array", "Box", "Buffer", "Discrete", "Env", "EnvironmentFailed", "HostEnv", "HostEnvs", "HostStep",
    "Key", "Metrics", "Model", "Planner", "Replay", "Rollout",
    "Space", "Spec", "StepOut", "Transition", "Tree", "WorldModel", "axes", "branch", "check", "config",
    "discounted_return", "imagine", "replace", "setting", "spread", "tree", "unroll",
]  # fmt: skip
