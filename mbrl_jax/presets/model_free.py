"""Settings of SAC, MBPO, DQN, deep Dyna and PPO by environment."""

from __future__ import annotations

from typing import Any

UNITS: dict[str, Any] = {"normalize_obs": True, "scale_rewards": True}
"""What makes one setting fit tasks of any units, see `agents.standardized`."""

SAC: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"hidden": (64, 64), "lr": 1e-3},
    "CartPole-v1": {"hidden": (64, 64), "lr": 1e-3, "target_entropy": 0.2},
    "ContinuousCartPole": {"hidden": (64, 64), "lr": 1e-3},
    # With 64 units, or 256 and a rate of 3e-4, most seeds tried stayed where a pole spins.
    "CartPoleSwingUp": UNITS | {"hidden": (128, 128), "lr": 1e-3, "alpha": 0.1},
    # Rewards of 0.01 or of 1,000 teach nothing as they are: the temperature starts out of all proportion to them.
    "": UNITS | {"alpha": 0.1},
}

# Small tasks, a few thousand real transitions: small members, more gradient steps per epoch, and rollouts long enough
# to reach states that are not in the replay buffer.
SMALL_TASK: dict[str, Any] = {
    "model.hidden": (128, 128),
    "fit.members": 5,
    "fit.elites": 4,
    "fit.batch": 64,
    "rollouts": 512,
    "first_horizon": 8,
    "last_horizon": 8,
    "retain": 2,
    "real_ratio": 0.25,
}

MBPO: dict[str, dict[str, Any]] = {
    # Smaller than the paper's seven members of four layers: a fit takes seconds on a processor.
    "": {
        "model.hidden": (200, 200), "fit.members": 5, "fit.elites": 4, "fit.batch": 128, "rollouts": 1024,
        "first_horizon": 4, "last_horizon": 4, "retain": 4, "real_ratio": 0.1, "policy.hidden": (128, 128),
    },
    "Pendulum-v1": SMALL_TASK | {"fit.batch": 32, "retain": 4},
    "CartPole-v1": SMALL_TASK,
    "ContinuousCartPole": SMALL_TASK,
    # The reward is almost zero but near the upright pole: no short rollout comes there, and without a bonus no policy.
    "CartPoleSwingUp": SMALL_TASK
    | {
        "first_horizon": 25, "last_horizon": 25, "explorer": "disagreement", "bonus": 1.0,
        "known.reward": "mbrl_jax.envs.cartpole:swingup_reward",
    },
}  # fmt: skip

DQN: dict[str, dict[str, Any]] = {
    # Terminations are rare among targets near 100, and a Huber loss that is linear from 1 treats them as outliers:
    # values then diverge.
    "CartPole-v1": {
        "lr": 5e-4, "tau": 0.02, "batch": 128, "epsilon": 0.05, "decay_updates": 3_000, "huber": 1_000.0,
    },
    "Catch-bsuite": {"lr": 5e-4, "tau": 0.02, "epsilon": 0.05},
    "": UNITS
    | {"lr": 5e-4, "tau": 0.02, "batch": 128, "epsilon": 0.05, "decay_updates": 3_000, "huber": 1_000.0},
}  # fmt: skip

DYNA_DQN: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"policy.decay_updates": 500, "fit.patience": 2, "horizon": 16},
    "Catch-bsuite": {"policy.decay_updates": 500, "fit.patience": 2},
    "": {"policy.decay_updates": 500, "fit.patience": 2},
}

PPO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"lr": 1e-3},
    "Catch-bsuite": {"lr": 1e-3},
    "Catch": {"lr": 1e-3},
    "Reach": {"lr": 1e-3},
    "Reach-seen": {"lr": 1e-3, "channels": 8},
    "Pendulum-v1": {"lr": 1e-3, "epochs": 10, "gamma": 0.95, "entropy_weight": 0.0},
    # The environment is deterministic: with a small learning rate the policy settles in a cycle that catches the ball
    # and hits no new brick.
    "Breakout-MinAtar": {"lr": 5e-3, "minibatches": 8, "channels": 0},
    "": UNITS,
}
PPO_CONTINUOUS: dict[str, Any] = {"epochs": 10, "entropy_weight": 0.0}
"""What PPO's general settings add where actions are continuous: the deviation needs no bonus to stay wide."""
