"""The words and the rollouts: floor 0, which imports jax and chex alone."""

from mbrl_jax.core import images, tree
from mbrl_jax.core.config import axes, check, config, replace, setting
from mbrl_jax.core.rollout import Cut, branch, discounted_return, imagine, spread, unroll
from mbrl_jax.core.types import (
    Agent,
    Array,
    Box,
    Buffer,
    DictSpace,
    Discrete,
    Env,
    EnvironmentFailed,
    HostEnv,
    HostEnvs,
    HostStep,
    Key,
    Metrics,
    Model,
    MultiDiscrete,
    Planner,
    Replay,
    Rollout,
    Space,
    Spec,
    StepOut,
    Transition,
    Tree,
    WorldModel,
    multi_binary,
    plan_anew,
)

__all__ = [
    "Agent", "Array", "Box", "Buffer", "Cut", "DictSpace", "Discrete", "Env", "EnvironmentFailed", "HostEnv",
    "HostEnvs", "HostStep", "Key", "Metrics", "Model", "MultiDiscrete", "Planner", "Replay", "Rollout", "Space",
    "Spec", "StepOut", "Transition", "Tree", "WorldModel", "axes", "branch", "check", "config", "discounted_return",
    "images", "imagine", "multi_binary", "plan_anew", "replace", "setting", "spread", "tree", "unroll",
]  # fmt: skip
