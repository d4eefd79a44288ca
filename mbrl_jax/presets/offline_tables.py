"""Settings of the offline agents: one for all environments, chosen on seeds from 100 on."""

from __future__ import annotations

from typing import Any

from mbrl_jax.presets.model_free import UNITS

# Smaller than the papers' networks of three layers of 256 units, with a larger learning rate: 5,000 updates of one seed
# then take some seconds on a processor. With half of a batch from the data, MOPO learned the pendulum from random rows
# far faster than with its 5 % (seed 100).
FREE: dict[str, Any] = {"hidden": (64, 64), "batch": 64, "lr": 1e-3}
MODEL: dict[str, Any] = {
    "model.hidden": (64, 64), "fit.members": 5, "fit.elites": 4, "fit.max_epochs": 30, "policy.hidden": (64, 64),
    "policy.batch": 64, "policy.lr": 1e-3, "imagined.rollouts": 400, "imagined.real_ratio": 0.5,
}  # fmt: skip

BC: dict[str, dict[str, Any]] = {"": FREE}
IQL: dict[str, dict[str, Any]] = {"": FREE}
MOPO: dict[str, dict[str, Any]] = {"": MODEL}
# HALT is worth the lowest reward for ever, thousands of units below all else: unscaled, critics learned little else.
MOREL: dict[str, dict[str, Any]] = {
    "": MODEL | {f"policy.{name}": value for name, value in UNITS.items()} | {"policy.alpha": 0.1}
}
COMBO: dict[str, dict[str, Any]] = {"": MODEL}
RAMBO: dict[str, dict[str, Any]] = {"": MODEL}
