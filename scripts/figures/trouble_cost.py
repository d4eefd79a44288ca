"""Trouble: what a model costs. Real steps and computing until the threshold, of every recorded run on five tasks.

    computing    core-seconds of one seed: wall-clock of all seeds x cores / seeds x (steps to threshold / all steps)
    break-even   (computing with - without the model) / (real steps without - with it): the seconds that a real step
                 must take, on one core, before the model pays

Nothing is trained: the tables are those of the runs in `results`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from figures.common import canvas, save, show, write_csv
from figures.troubles import number
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.train.run_files import read_json

TASKS: dict[str, dict[str, str]] = {
    "Pendulum-v1": {
        "SAC": "pendulum-sac", "SAC, 30 updates": "pendulum-sac-30", "MBPO": "pendulum-mbpo", "PETS": "pendulum-pets",
        "TD-MPC2": "pendulum-tdmpc2", "DreamerV3": "pendulum-dreamer-v3", "Dreamer": "pendulum-dreamer-v1",
        "World Models": "pendulum-world-models",
    },
    "CartPole-v1": {
        "DQN": "cartpole-dqn", "SAC": "cartpole-sac", "PPO": "cartpole-ppo", "MBPO": "cartpole-mbpo",
        "deep Dyna, n = 50": "cartpole-dyna-50", "MuZero": "cartpole-muzero", "DreamerV3": "cartpole-dreamer-v3",
    },
    "ContinuousCartPole": {
        "SAC": "continuous-cartpole-sac", "MBPO": "continuous-cartpole-mbpo", "PETS": "continuous-cartpole-pets",
    },
    "Catch-bsuite": {
        "DQN": "catch-dqn", "PPO": "catch-ppo", "deep Dyna, n = 5": "catch-dyna-5", "MuZero": "catch-muzero",
        "DreamerV3": "catch-dreamer-v3",
    },
    "CartPoleSwingUp": {"SAC": "swingup-sac", "PETS, reward known": "swingup-pets", "TD-MPC2": "swingup-tdmpc2"},
}  # fmt: skip
"""The run of each agent, by task; the first is the model-free one that the others are compared with."""
FREE = ("SAC", "SAC, 30 updates", "DQN", "PPO")
CORES = 2
"""Of the machine that the runs were made on, where a run does not say how many it had."""
HEAD = ("task", "agent", "seed", "steps_to_threshold", "core_seconds")


class Cost(NamedTuple):
    """What each seed of a run needed."""

    steps: np.ndarray  # [S] real steps until the threshold, inf where it was never reached
    rate: float  # core-seconds of one seed's real step, all learning included

    @property
    def seconds(self) -> np.ndarray:
        """[S] core-seconds until the threshold."""
        return self.steps * self.rate


def read(folder: Path) -> Cost:
    """The cost of a run, from its `summary.json` and `config.json`."""
    made, settings = read_json(folder / "summary.json"), read_json(folder / "config.json")
    reached = [math.inf if step is None else float(step) for step in made["steps_to_threshold"]]
    cores = settings.get("devices") or CORES
    return Cost(np.array(reached), made["wall_seconds"] * cores / made["seeds"] / made["env_steps"])


def cost(out: Path, seeds: int = 8, runs: Path = Path("results")) -> dict[str, dict[str, Cost]]:
    """Reads the runs, and writes `cost.csv` and `cost.png`.

    Args:
      out: folder.
      seeds: not looked at; a run has those that it was made with.
      runs: folder of the runs.
    Returns:
      by task and agent.
    """
    del seeds
    found = {task: {name: read(runs / folder) for name, folder in own.items()} for task, own in TASKS.items()}
    table = [
        (task, name, seed, int(steps) if math.isfinite(steps) else "", float(seconds) if math.isfinite(steps) else "")
        for task, own in found.items()
        for name, one in own.items()
        for seed, (steps, seconds) in enumerate(zip(one.steps, one.seconds, strict=True))
    ]
    write_csv(out / "cost.csv", HEAD, table)
    rows = [
        (task, name, *cells(one, next(iter(own.values())))) for task, own in found.items() for name, one in own.items()
    ]
    head = ("task", "agent", "real steps", "core-seconds", "fewer steps, times", "break-even, s per step")
    show("Medians over seeds until the threshold; intervals of 95 %", head, rows)
    draw(out / "cost.png", found)
    return found


def cells(one: Cost, free: Cost) -> tuple[str, str, str, str]:
    """Steps, seconds, the ratio of the model-free agent's steps with its interval, and the break-even."""
    middle = float(np.median(one.steps))
    seconds = f"{number(middle * one.rate)}" if math.isfinite(middle) else "-"
    steps = f"{middle:,.0f}" if math.isfinite(middle) else "not reached"
    if one is free:
        return steps, seconds, "", ""
    ratio, low, high = steps_ratio(one.steps, free.steps)
    times = f"{_times(ratio)} [{_times(low)}, {_times(high)}]" if math.isfinite(middle) else "-"
    times = _times(ratio) if math.isinf(low) else times
    return steps, seconds, times, break_even(one, free)


def _times(value: float) -> str:
    return "solved at all" if math.isinf(value) else number(value)


def steps_ratio(steps: np.ndarray, free: np.ndarray, resamples: int = 2_000) -> tuple[float, float, float]:
    """Median real steps of the model-free agent by those with the model, and its 95 % bootstrap interval.

    Args:
      steps: [S] with the model; inf where the threshold was not reached.
      free: [S'] without.
      resamples: of the seeds of both.
    """
    rng = np.random.default_rng(0)

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        top, bottom = np.median(b, -1), np.median(a, -1)
        both = np.isinf(top) & np.isinf(bottom)
        return np.where(both, 1.0, np.where(np.isinf(bottom), 0.0, top / np.where(np.isinf(bottom), 1.0, bottom)))

    drawn = ratio(rng.choice(steps, (resamples, len(steps))), rng.choice(free, (resamples, len(free))))
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf")
    return float(ratio(steps, free)), float(low), float(high)


def break_even(one: Cost, free: Cost) -> str:
    """Seconds of a real step from which the agent is the cheaper one, as text."""
    steps, others = float(np.median(one.steps)), float(np.median(free.steps))
    if math.isinf(steps):
        return "never"
    if math.isinf(others):
        return "solved at all"
    if steps >= others:
        saved = others * free.rate - steps * one.rate
        return f"below {number(saved / max(steps - others, 1e-9))}" if saved > 0 else "never"
    needed = (steps * one.rate - others * free.rate) / (others - steps)
    return f"above {number(needed)}" if needed > 0 else "always"


def draw(path: Path, found: dict[str, dict[str, Cost]]) -> None:
    """Draws computing against real steps of each agent, a panel for each task."""
    figure, panels = canvas(len(found), 17.0, 3.9)
    for axes, (task, own) in zip(panels, found.items(), strict=True):
        for i, (name, one) in enumerate(own.items()):
            reached = np.isfinite(one.steps)
            colour = COLOURS[i % len(COLOURS)]
            marker = "s" if name in FREE else "o" if i < len(COLOURS) else "^"
            missed = int((~reached).sum())
            label = f"{name} ({missed} of {len(reached)} never)" if missed else name
            axes.plot(one.steps[reached], one.seconds[reached], marker, color=colour, markersize=3, alpha=0.4)
            middle = float(np.median(one.steps))
            if math.isfinite(middle):
                axes.plot(middle, middle * one.rate, marker, color=colour, markersize=7.5, label=label)
            else:
                axes.plot([], [], marker, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlim=(300, 80_000), ylim=(0.03, 300), title=task)
        axes.set_xlabel("real steps to the threshold")
        axes.legend(frameon=False, fontsize=6.5, loc="lower left", labelspacing=0.25)
    panels[0].set_ylabel("core-seconds of one seed until then")
    save(path, figure)
