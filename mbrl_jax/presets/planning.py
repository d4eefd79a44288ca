"""Settings of the agents that plan with MPC, PETS and planning in the true dynamics, by environment."""

from __future__ import annotations

from typing import Any

# A small ensemble, and plans that take some tens of milliseconds on two CPU cores.
SMALL_PLAN: dict[str, Any] = {
    "model.hidden": (128, 128),
    "fit.members": 5,
    "fit.elites": 5,
    "fit.batch": 32,
    "planner.cem.horizon": 20,
    "planner.cem.population": 150,
    "planner.cem.elites": 15,
    "planner.cem.iterations": 3,
    "planner.cem.particles": 5,
}

PETS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": SMALL_PLAN,
    # A late push matters only once the pole falls: over a short horizon all plans score alike.
    "ContinuousCartPole": SMALL_PLAN | {"planner.cem.horizon": 40},
    # A learned reward is unknown where no data is: with the known reward the planner seeks the upright pole.
    "CartPoleSwingUp": SMALL_PLAN
    | {
        "known_reward": True,
        "planner.cem.horizon": 25,
        "planner.shooting.horizon": 25,
        "planner.shooting.population": 450,
        "planner.shooting.particles": 5,
    },
    "": SMALL_PLAN,  # the paper's 500 candidates and members of four layers take a second for each step
}

# Equal budgets of model steps for every planner: 360 candidates per step of the horizon.
TRUE_PLAN: dict[str, Any] = {
    "planner.shooting.population": 360,
    "planner.cem.population": 120,
    "planner.cem.elites": 12,
    "planner.cem.iterations": 3,
    "planner.icem.population": 148,
    "planner.mppi.population": 120,
    "planner.mppi.iterations": 3,
}


def _horizon(steps: int) -> dict[str, Any]:
    return {f"planner.{kind}.horizon": steps for kind in ("shooting", "cem", "icem", "mppi", "gradient")}


# The gradient planner evaluates `restarts` candidates in each iteration and once more at the end.
GRADIENT_PLAN: dict[str, Any] = {"planner.gradient.restarts": 12, "planner.gradient.iterations": 29}

MPC: dict[str, dict[str, Any]] = {
    "Pendulum-v1": TRUE_PLAN | _horizon(20) | GRADIENT_PLAN,
    "CartPoleSwingUp": TRUE_PLAN | _horizon(25) | GRADIENT_PLAN | {"planner.mppi.kappa": 5.0},
    # A late push matters only once the pole falls: a horizon of half a second is too short.
    "ContinuousCartPole": TRUE_PLAN | _horizon(50) | {
        "planner.icem.beta": 0.5,
        "planner.icem.std": 1.0,
        "planner.gradient.restarts": 180,
        "planner.gradient.iterations": 1,
        "planner.gradient.smoothness": 0.3,
    },
    # Pushes must keep their direction for some twenty steps before they gain anything.
    "MountainCarContinuous-v0": TRUE_PLAN | _horizon(100) | {
        "planner.icem.beta": 3.0,
        "planner.icem.std": 1.0,
        "planner.mppi.beta": 0.05,
        "planner.mppi.sigma": 5.0,
        "planner.gradient.restarts": 30,
        "planner.gradient.iterations": 11,
        "planner.gradient.smoothness": 0.95,
    },
    "Reacher-misc": TRUE_PLAN | _horizon(40) | GRADIENT_PLAN | {
        "planner.mppi.kappa": 30.0,
        "planner.mppi.sigma": 1.0,
        "planner.mppi.beta": 0.5,
    },
}  # fmt: skip
