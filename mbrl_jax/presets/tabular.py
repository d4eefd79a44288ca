"""Settings of the tabular agents, by environment."""

from __future__ import annotations

from typing import Any

# Stochastic transitions: step sizes that fall with the visits; a discount near 1, because success counts, not speed.
SLIPPERY: dict[str, Any] = {"lr": 1.0, "decay": 0.6, "gamma": 0.99, "epsilon": 0.2}

TABLE: dict[str, dict[str, Any]] = {
    "FrozenLake": SLIPPERY,
    "FourRooms": SLIPPERY,
    "DeepSea": {"lr": 1.0, "gamma": 0.99, "first_value": 1.0},
    "Catch": {"lr": 0.5, "gamma": 0.99},
    "BlockingMaze": {"lr": 1.0},
    "ShortcutMaze": {"lr": 1.0},
}

# In a deterministic environment the last outcome is exact, and it follows a change at once.
DYNA_Q: dict[str, dict[str, Any]] = {
    "DynaMaze": {"form": "last"},
    "BlockingMaze": {"form": "last"},
    "ShortcutMaze": {"form": "last", "planning": 50},
    "FrozenLake-deterministic": {"form": "last"},
    "DeepSea": {"form": "last"},
}

DYNA_Q_PLUS: dict[str, dict[str, Any]] = {"BlockingMaze": {"bonus": 1e-4}}
