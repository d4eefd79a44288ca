"""Settings of the agents that act by tree search, by agent and environment."""

from __future__ import annotations

from typing import Any

from mbrl_jax.presets.model_free import UNITS

# Small networks, and bootstraps from a slowly moving target network: sixteen simulations are then enough.
SMALL_MUZERO: dict[str, Any] = {
    "net.latent": 64,
    "net.hidden": (64,),
    "search.gumbel.simulations": 16,
    "gamma": 0.99,
    "n_steps": 10,
    "lr": 1e-3,
    "bootstrap": "network",
    "tau": 0.02,
}

MUZERO: dict[str, dict[str, Any]] = {
    "CartPole-v1": SMALL_MUZERO | {"net.support": 10, "net.project": 32},
    "Catch-bsuite": SMALL_MUZERO | {"net.support": 2},
    "Breakout-MinAtar": SMALL_MUZERO
    | {"net.latent": 128, "net.hidden": (128,), "net.support": 6, "net.project": 32, "gamma": 0.98}
    | {"search.gumbel.least_range": 1.0},
    # Transformed returns up to 30 are returns up to 900. Values of actions that hardly differ are no sharp target.
    "": SMALL_MUZERO
    | {"net.latent": 128, "net.hidden": (128,), "net.support": 30, "net.project": 32}
    | {"search.gumbel.least_range": 0.1}
    | UNITS,
}

# The only reward is the result at the end of a game: returns reach that far, or nearly.
GAME: dict[str, Any] = {"search.gumbel.simulations": 50, "gamma": 1.0, "n_steps": 9, "value_weight": 1.0}

MUZERO["TicTacToe"] = GAME | {
    "n_steps": 3,  # then the target network: exploratory moves make the results of whole games worthless
    "search.random": 0.1,  # the model must learn the consequences of bad moves
    "players": 2,
    "net.latent": 128,
    "net.hidden": (128,),
    "net.support": 2,
    "net.project": 32,
    "bootstrap": "network",
    "tau": 0.05,
    "lr": 1e-3,
    "lr_decay": 0.1,  # without it one position in a hundred is played wrong, and not always the same
    "lr_decay_updates": 26_000,  # some 105,000 steps
}

ALPHAZERO: dict[str, dict[str, Any]] = {"TicTacToe": GAME | {"hidden": (128,), "support": 2}}

# Several rollouts from each leaf: one says little about a pole that is about to fall.
UCT: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"uct.simulations": 50, "uct.rollouts": 8},
    "FrozenLake-deterministic": {
        "uct.simulations": 200,
        "uct.gamma": 0.9,
        "uct.rollout_depth": 30,
        "uct.rollouts": 16,
        "uct.c": 0.5,
    },
    "TicTacToe": {"uct.simulations": 200, "uct.gamma": 1.0, "uct.rollout_depth": 9},
}
