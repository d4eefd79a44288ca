"""Settings of agents with latent models, by environment; `presets.settings` collects them. "" is for any other."""

from __future__ import annotations

from typing import Any

from mbrl_jax.presets.model_free import UNITS

# The Dreamers --------------------------------------------------------------------------------------------------------

# Minutes on a CPU: few rows per update, and bins only as far as the returns of small tasks reach.
NANO_DREAMER: dict[str, Any] = {
    "batch": 16,
    "length": 16,
    "imagined": 12,
    "lr": 5e-4,
    "lr_warmup": 200,
    "net.bins": 41,
    "net.bound": 6,
    "gamma": 0.99,
}

# Angles of a few hundredths of a radian and a drift over a hundred steps decide: reconstructions must be precise, and a
# free nat of error in every imagined step is too much.
POLE_DREAMER: dict[str, Any] = NANO_DREAMER | {"decoder_scale": 10.0, "free": 0.1, "entropy": 1e-3}

# A pole that is a fraction of a pixel off already costs several units of reconstruction.
PIXEL_DREAMER: dict[str, Any] = NANO_DREAMER | {"free": 0.1, "entropy": 1e-3}

DREAMER_V3: dict[str, dict[str, Any]] = {
    "CartPole-pixels": PIXEL_DREAMER,
    "CartPole-pixels-x2": PIXEL_DREAMER,
    "CartPole-v1-x2": POLE_DREAMER,
    "CartPole-hidden": POLE_DREAMER,
    "CartPole-hidden-x2": POLE_DREAMER,
    "Pendulum-v1": NANO_DREAMER | {"gamma": 0.98},
    "MountainCarContinuous-v0-x8": NANO_DREAMER | {"gamma": 0.97},
    "Catch-bsuite": NANO_DREAMER | {"lr": 1e-3, "gamma": 0.97, "imagined": 9, "entropy": 3e-3},
    "MemoryChain-bsuite": NANO_DREAMER | {"lr": 1e-3, "gamma": 0.97, "entropy": 3e-3},
    # With a third of this entropy weight and half the updates, the policy stayed at three bricks for long.
    "Breakout-MinAtar": NANO_DREAMER | {"gamma": 0.98, "entropy": 1e-2, "imagined": 15},
    "": {name: value for name, value in NANO_DREAMER.items() if name not in ("net.bins", "net.bound")}
    # With a whole nat free, a step of the prior may be that far from what was observed: too far to balance a pole.
    | {"normalize_obs": True, "free": 0.1},
}

# The first two Dreamers, small.
SMALL_RSSM: dict[str, Any] = {
    "net.deter": 128,
    "net.units": 64,
    "net.layers": 2,
    "net.squash": True,
    "batch": 16,
    "length": 16,
    "imagined": 12,
    "model_lr": 1e-3,
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
}

DREAMER_V1: dict[str, dict[str, Any]] = {
    # Learning rates made for rewards up to 1 learn rewards down to -16 slowly.
    "Pendulum-v1": SMALL_RSSM
    | {"net.stoch": 16, "gamma": 0.98, "free": 1.0, "reward_scale": 0.1, "actor_lr": 1e-3, "critic_lr": 1e-3},
    "": SMALL_RSSM | UNITS,
}
DREAMER_V2: dict[str, dict[str, Any]] = {
    # From zeros, sixteen rows say little of the states that an episode of hundreds of steps comes to: context. Values
    # a hundred steps ahead take many copies of the target critic.
    "": SMALL_RSSM
    | UNITS
    | {"net.stoch": 8, "net.classes": 8, "imagined": 15, "context": True, "free": 0.1}
    | {"critic_lr": 1e-3, "copy_every": 25},
}
DISCRETE_V2: dict[str, Any] = {"reinforce": 1.0, "entropy": 1e-2, "cont_scale": 5.0}
"""What DreamerV2's general settings have for discrete actions; the paper's entropy is a tenth of this."""

# World Models ---------------------------------------------------------------------------------------------------------

SMALL_DREAM: dict[str, Any] = {
    "vision.latent": 0,  # observations are small vectors already
    "memory.hidden": 32,
    "length": 32,
    "memory_updates": 1_000,
    "lr": 3e-3,
    "horizon": 200,
    "sigma": 0.5,
}

WORLD_MODELS: dict[str, dict[str, Any]] = {
    "CartPole-hidden": SMALL_DREAM | {"population": 32, "generations": 25},
    "CartPole-pixels": SMALL_DREAM
    | {
        "vision.latent": 8,
        "vision_rate": 1e-3,
        "vision_updates": 300,
        "memory_updates": 600,
        "batch": 16,
        "population": 32,
        "generations": 25,
    },
    "Pendulum-v1": SMALL_DREAM | {"population": 64, "generations": 60, "tries": 3, "temperature": 1.0},
    "": SMALL_DREAM | {"population": 64, "generations": 40},
}

IMAGE_DREAM: dict[str, Any] = {"vision.latent": 16, "vision_rate": 1e-3, "vision_updates": 300, "batch": 16}
"""What World Models' general settings have for images and planes instead."""

# TD-MPC2 --------------------------------------------------------------------------------------------------------------

NANO_TDMPC: dict[str, Any] = {
    "net.size": "nano",
    "batch": 64,
    "lr": 1e-3,
    "planner.population": 128,
    "planner.elites": 16,
    "planner.iterations": 3,
    "planner.proposals": 16,
}

# From episodes of 200 steps the discount rule derives a horizon of 40 steps; balancing a pole needs more.
FAR_TDMPC: dict[str, Any] = NANO_TDMPC | {"rho": 0.7, "gamma_low": 0.99, "gamma_high": 0.99}

TDMPC2: dict[str, dict[str, Any]] = {
    "Pendulum-v1": NANO_TDMPC | {"entropy_weight": 1e-3},
    "ContinuousCartPole": FAR_TDMPC,
    # Episodes fail by drifting for a hundred steps; with half as many decisions values propagate that back faster.
    "ContinuousCartPole-x2": FAR_TDMPC | {"tau": 0.02},
    "CartPoleSwingUp": FAR_TDMPC | {"planner.population": 96},
    "MountainCarContinuous-v0-x8": FAR_TDMPC,
    "": NANO_TDMPC | UNITS,  # minutes on a CPU, where the default size 5m would take hours
}
