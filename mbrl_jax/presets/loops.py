"""Settings of the training loop that work well, as plain tables; `settings.py` combines them with the agents'."""

from __future__ import annotations

from typing import Any

OFFLINE: dict[str, Any] = {
    "steps": 20_000, "num_envs": 1, "unroll": 1, "updates": 1, "inner": 250, "cycles": 8, "warmup": 0, "hold": 1,
    "overlap": 0, "capacity": 1, "eval_episodes": 10,
}  # fmt: skip
"""Of a run that learns from a data set alone: its steps are updates."""

MBPO_LOOP: dict[str, Any] = {"updates": 20, "inner": 50, "warmup": 200, "eval_episodes": 10}

LOOP: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", ""): {"steps": 200_000, "num_envs": 8, "unroll": 128, "warmup": 0, "inner": 5, "cycles": 1},
    ("ppo", "Reach"): {"steps": 100_000, "eval_episodes": 50},
    ("ppo", "Reach-seen"): {"steps": 100_000, "eval_episodes": 50},
    ("ppo", "CartPole-v1"): {"steps": 500_000},
    ("ppo", "Pendulum-v1"): {"steps": 600_000, "num_envs": 16},
    ("ppo", "Breakout-MinAtar"): {"steps": 5_000_000, "num_envs": 64},
    ("dqn", "CartPole-v1"): {"steps": 30_000},
    ("dqn", "Catch-bsuite"): {"steps": 10_000},
    ("dyna_dqn", "CartPole-v1"): {"steps": 4_000, "inner": 50, "cycles": 5},
    ("dyna_dqn", "Catch-bsuite"): {"steps": 4_000, "inner": 50, "cycles": 5},
    ("sac", "Pendulum-v1"): {"steps": 20_000, "cycles": 2},
    ("sac", "CartPole-v1"): {"steps": 50_000},
    ("sac", "ContinuousCartPole"): {"steps": 20_000},
    # Actions held for a fifth of a second swing the pole where white noise shakes it.
    ("sac", "CartPoleSwingUp"): {"steps": 50_000, "warmup": 2_000, "hold": 5, "cycles": 20},
    # Planning is the same in training and evaluation, so the training returns suffice.
    ("pets", ""): {"steps": 2_000, "inner": 50, "cycles": 4, "eval_episodes": 0},
    ("pets", "Pendulum-v1"): {"steps": 2_000},
    ("pets", "ContinuousCartPole"): {"steps": 1_000, "warmup": 100, "inner": 50, "cycles": 2},
    ("pets", "CartPoleSwingUp"): {"steps": 2_000},
    ("muzero", ""): {"num_envs": 8, "updates": 4, "warmup": 50, "inner": 125, "cycles": 2, "capacity": 50_000},
    # Stored searches grow stale: those made with an early, poor model hold values and policies back.
    ("muzero", "CartPole-v1"): {"steps": 60_000, "updates": 1, "cycles": 4, "capacity": 20_000},
    ("muzero", "Catch-bsuite"): {"steps": 40_000, "updates": 1, "capacity": 40_000},
    ("muzero", "Breakout-MinAtar"): {"steps": 100_000, "cycles": 10, "capacity": 100_000},
    ("muzero", "TicTacToe"): {
        "steps": 130_000,
        "num_envs": 32,
        "updates": 8,
        "warmup": 30,
        "capacity": 20_000,
        "eval_episodes": 100,
    },
    ("alphazero", ""): {"num_envs": 8, "warmup": 50, "inner": 125, "cycles": 2, "capacity": 50_000},
    ("alphazero", "TicTacToe"): {
        "steps": 100_000,
        "num_envs": 32,
        "updates": 4,
        "warmup": 30,
        "capacity": 30_000,
        "eval_episodes": 100,
    },
    ("dreamer_v1", ""): {"num_envs": 4, "warmup": 200, "inner": 250, "cycles": 1, "capacity": 100_000},
    ("dreamer_v1", "Pendulum-v1"): {"steps": 10_000, "updates": 2},
    ("dreamer_v2", ""): {
        "num_envs": 4,
        "warmup": 200,
        "inner": 250,
        "cycles": 1,
        "capacity": 100_000,
        "updates": 2,
    },
    ("dreamer_v2", "CartPole-v1-x2"): {"steps": 6_000},
    ("dreamer_v3", ""): {
        "num_envs": 4,
        "warmup": 100,
        "inner": 250,
        "cycles": 1,
        "capacity": 100_000,
        "updates": 2,
    },
    ("dreamer_v3", "Pendulum-v1"): {"steps": 10_000, "updates": 1},
    ("dreamer_v3", "CartPole-v1"): {"steps": 15_000},
    ("dreamer_v3", "CartPole-v1-x2"): {"steps": 5_000, "updates": 1},
    ("dreamer_v3", "CartPole-hidden-x2"): {"steps": 5_000, "updates": 1},
    ("dreamer_v3", "CartPole-hidden"): {"steps": 12_000, "updates": 2},
    ("dreamer_v3", "MountainCarContinuous-v0-x8"): {"steps": 4_000, "updates": 1},
    ("dreamer_v3", "CartPole-pixels"): {"steps": 6_000, "updates": 2, "capacity": 20_000},
    ("dreamer_v3", "CartPole-pixels-x2"): {"steps": 5_000, "updates": 1, "capacity": 20_000},
    ("dreamer_v3", "Catch-bsuite"): {"steps": 20_000, "updates": 2},
    ("dreamer_v3", "MemoryChain-bsuite"): {"steps": 20_000, "updates": 2, "eval_episodes": 50},
    ("dreamer_v3", "Breakout-MinAtar"): {"steps": 16_000, "inner": 500, "updates": 2},
    ("world_models", ""): {
        "num_envs": 4,
        "warmup": 500,
        "inner": 250,
        "cycles": 1,
        "capacity": 40_000,
        "eval_episodes": 16,
    },
    ("world_models", "CartPole-hidden"): {"steps": 8_000},
    ("world_models", "CartPole-pixels"): {"steps": 8_000, "capacity": 20_000},
    ("world_models", "Pendulum-v1"): {"steps": 12_000, "inner": 500},
    ("tdmpc2", ""): {"warmup": 500, "inner": 500, "cycles": 1, "capacity": 20_000, "eval_episodes": 5},
    ("tdmpc2", "Pendulum-v1"): {"steps": 5_000, "updates": 2, "eval_episodes": 10},
    ("tdmpc2", "ContinuousCartPole"): {"steps": 10_000},
    ("tdmpc2", "ContinuousCartPole-x2"): {"steps": 5_000, "updates": 2},
    ("tdmpc2", "CartPoleSwingUp"): {"warmup": 1_000, "steps": 20_000},
    ("tdmpc2", "MountainCarContinuous-v0-x8"): {"steps": 2_500, "updates": 4, "warmup": 250, "hold": 4, "inner": 250},
    ("uct", ""): {"steps": 1_000, "warmup": 0, "inner": 200, "cycles": 1, "eval_episodes": 0},
    ("mpc", ""): {"steps": 1_000, "warmup": 0, "inner": 200, "cycles": 1, "eval_episodes": 0},
    # What a model is good for: many updates for each dear step.
    ("mbpo", ""): {"steps": 10_000, "updates": 20, "inner": 100, "cycles": 5, "warmup": 500, "eval_episodes": 5},
    ("mbpo", "Pendulum-v1"): MBPO_LOOP | {"steps": 3_000, "updates": 30, "inner": 25, "cycles": 4},
    ("mbpo", "CartPole-v1"): MBPO_LOOP | {"steps": 6_000},
    ("mbpo", "ContinuousCartPole"): MBPO_LOOP | {"steps": 3_000},
    ("mbpo", "CartPoleSwingUp"): MBPO_LOOP | {"steps": 5_000, "hold": 5},
}
"""Loop settings by (agent, environment), "" for any environment; `steps` are environment steps of one seed."""

HOST: dict[str, dict[str, Any]] = {
    "mbpo": {"warmup": 500},
    "pets": {"inner": 200, "cycles": 5, "steps": 5_000},  # every step is planned with the whole ensemble
}
"""What differs for an agent where steps are Python."""

HOST_CHUNK = 1_000
"""Environment steps of a chunk, at least, where steps are Python: an evaluation takes whole episodes of dear steps."""


def for_host(loop: dict[str, Any], replay: bool) -> dict[str, Any]:
    """An agent's general settings of the loop, for environments whose steps are Python.

    Larger tasks than those of the tables: 100,000 steps, all of which fit into the replay buffer, random actions for
    the first 1,000, and few evaluation episodes, which take as long as training does.

    Args:
      loop: the agent's settings for any environment.
      replay: whether the agent learns from older steps too.
    """
    rows = loop.get("num_envs", 1) * loop.get("unroll", 1)
    cycle = rows * loop.get("inner", 50)
    changes: dict[str, Any] = {
        "steps": max(loop["steps"], 100_000),
        "cycles": max(1, -(-HOST_CHUNK // cycle)),
    }
    if replay:
        changes["capacity"] = max(loop.get("capacity", 0), 100_000)
    if loop.get("warmup", 1) > 0:
        changes["warmup"] = max(loop.get("warmup", 0), -(-1_000 // rows))
    if loop.get("eval_episodes", 10) > 5:
        changes["eval_episodes"] = 5
    return loop | changes


# A tabular agent learns from every step once, as it comes.
TABULAR: dict[str, Any] = {"warmup": 0, "capacity": 1, "cycles": 1, "inner": 100}

TABULAR_LOOP: dict[str, dict[str, Any]] = {
    "DynaMaze": {"steps": 5_000, "inner": 50},
    # The maze changes within the single episode of the run, so greedy evaluation from its start would say nothing.
    "BlockingMaze": {"steps": 3_000, "eval_episodes": 0},
    "ShortcutMaze": {"steps": 6_000, "eval_episodes": 0},
    "FrozenLake": {"steps": 20_000, "inner": 500, "eval_episodes": 100},
    "FrozenLake-deterministic": {"steps": 5_000},
    "FourRooms": {"steps": 20_000, "inner": 500},
    "DeepSea": {"steps": 5_000, "eval_episodes": 1},
    "Catch": {"steps": 20_000, "inner": 500, "eval_episodes": 100},
}
