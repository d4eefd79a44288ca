"""Trouble: what a model costs. Real steps and computing until the threshold, of every recorded run on five tasks.

    computing    core-seconds of one seed: wall-clock of all seeds x cores / seeds x (steps to threshold / all steps)
    operations   of matrix products (`analysis.operations`) per real step x steps to threshold
    break-even   (computing with - without the model) / (real steps without - with it): the seconds that a real step
                 must take, on one core, before the model pays

The tables are those of the runs in `results`. Operations come from shapes, and nothing is trained for them, but for
agents whose fits end by themselves: of such one seed is trained once more, up to the threshold. What
`cost_operations.csv` holds is not counted again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes

from figures.common import canvas, save, show, write_csv
from figures.troubles import number, read_cases
from mbrl_jax import presets
from mbrl_jax.analysis import curves
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.analysis.operations import counting, fixed
from mbrl_jax.analysis.statistics import steps_to_threshold
from mbrl_jax.core.config import flat, replace
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.loop import Loop, LoopConfig
from mbrl_jax.train.run_files import read_json

TASKS: dict[str, dict[str, str]] = {
    "Pendulum-v1": {
        "SAC": "pendulum-sac", "SAC, 30 updates": "pendulum-sac-30", "MBPO": "pendulum-mbpo", "PETS": "pendulum-pets",
        "TD-MPC2": "pendulum-tdmpc2", "DreamerV3": "pendulum-dreamer-v3", "Dreamer": "pendulum-dreamer-v1",
        "World Models": "pendulum-world-models",
    },
    "CartPole-v1": {
        "DQN": "cartpole-dqn", "SAC": "cartpole-sac", "PPO": "cartpole-ppo", "MBPO": "cartpole-mbpo",
        "deep Dyna, n = 50": "cartpole-dyna-50", "MuZero": "cartpole-muzero",
        "DreamerV3": "general/dreamer_v3-cartpole",
    },
    "ContinuousCartPole": {
        "SAC": "continuous-cartpole-sac", "MBPO": "continuous-cartpole-mbpo", "PETS": "continuous-cartpole-pets",
    },
    "Catch-bsuite": {
        "DQN": "catch-dqn", "PPO": "catch-ppo", "deep Dyna, n = 5": "catch-dyna-5", "MuZero": "catch-muzero",
        "DreamerV3": "catch-dreamer-v3",
    },
    "CartPoleSwingUp": {
        "SAC": "swingup-sac-held", "PETS, reward known": "swingup-pets", "MBPO, reward known": "swingup-mbpo",
        "TD-MPC2": "swingup-tdmpc2",
    },
}  # fmt: skip
"""The run of each agent, by task; the first is the model-free one that the others are compared with."""
THRESHOLDS = {"scripts/general_tasks.py:cartpole": 475.0}
"""Of environments that have none of their own."""
FREE = ("SAC", "SAC, 30 updates", "DQN", "PPO")
CORES = 2
"""Of the machine that the runs were made on, where a run does not say how many it had."""
HEAD = ("task", "agent", "seed", "steps_to_threshold", "core_seconds", "gflop")


class Cost(NamedTuple):
    """What each seed of a run needed."""

    steps: np.ndarray  # [S] real steps until the threshold, inf where it was never reached
    rate: float  # core-seconds of one seed's real step, all learning included
    gflop: float = math.nan  # of one seed's real step, likewise

    @property
    def seconds(self) -> np.ndarray:
        """[S] core-seconds until the threshold."""
        return self.steps * self.rate


def read(folder: Path) -> Cost:
    """The cost of a run, without its operations, from its `summary.json`, `config.json` and its curve."""
    made, settings = read_json(folder / "summary.json"), read_json(folder / "config.json")
    steps = made["steps_to_threshold"]
    if settings["env"] in THRESHOLDS:
        curve = curves.load(folder)
        steps = steps_to_threshold(curve.steps, curve.scores, THRESHOLDS[settings["env"]])
    reached = [math.inf if step is None else float(step) for step in steps]
    cores = settings.get("devices") or CORES
    return Cost(np.array(reached), made["wall_seconds"] * cores / made["seeds"] / made["env_steps"])


def as_recorded(folder: Path) -> tuple[Loop, int]:
    """The loop of a recorded run without evaluations, and the real steps of its chunk.

    Settings that the run did not have yet are at their defaults, those that are gone are left out: neither changes what
    is multiplied.
    """
    saved = read_json(folder / "config.json")
    made: list[Any] = []
    for plain, own in ((presets.AGENTS[saved["algo"]].config(), saved["agent"]), (LoopConfig(), saved["loop"])):
        known = {name: tuple(x) if isinstance(x, list) else x for name, x in own.items() if name in flat(plain)}
        made.append(replace(plain, known))
    agent, loop = made[0], replace(made[1], {"eval_episodes": 0})
    built = presets.build(saved["algo"], make_env(saved["env"]), agent, loop)
    return built, loop.num_envs * loop.unroll * loop.inner * loop.cycles


def gflop_per_step(folder: Path, steps: float) -> float:
    """Billions of operations for a real step, learning included, evaluations not.

    Args:
      folder: of the run.
      steps: how long an agent is trained whose operations only a run tells.
    """
    loop, each = as_recorded(folder)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    known = fixed(jax.make_jaxpr(loop.chunk)(state).jaxpr)
    if known is not None:
        return known / each / 1e9
    state, chunk = jax.jit(loop.init)(jax.random.key(0)), jax.jit(counting(loop.chunk), donate_argnums=0)
    counts = []
    for _ in range(max(1, round(steps / each))):
        (state, _), count = chunk(state)
        counts.append(float(count))
    return float(np.mean(counts)) / each / 1e3


def counted(path: Path, runs: Path, found: dict[str, dict[str, Cost]]) -> dict[str, dict[str, Cost]]:
    """The costs with their operations; those that the table lacks are counted, and added to it."""
    table = {run: float(row["gflop_per_step"]) for (run,), (row,) in read_cases(path, ["run"]).items()}
    for task, own in found.items():
        for name, one in own.items():
            run = TASKS[task][name]
            if run not in table:
                middle = float(np.median(one.steps))
                table[run] = gflop_per_step(runs / run, middle if math.isfinite(middle) else 1_000)
                print(f"{run}: {table[run]:.4g} GFLOP for a real step", flush=True)
                write_csv(path, ("run", "gflop_per_step"), list(table.items()))
    return {
        task: {name: one._replace(gflop=table[TASKS[task][name]]) for name, one in own.items()}
        for task, own in found.items()
    }


def cost(out: Path, seeds: int = 8, runs: Path = Path("results")) -> dict[str, dict[str, Cost]]:
    """Reads the runs, and writes `cost.csv`, `cost_operations.csv` and `cost.png`.

    Args:
      out: folder.
      seeds: not looked at; a run has those that it was made with.
      runs: folder of the runs.
    Returns:
      by task and agent.
    """
    del seeds
    found = {task: {name: read(runs / folder) for name, folder in own.items()} for task, own in TASKS.items()}
    found = counted(out / "cost_operations.csv", runs, found)
    table = [
        (task, name, seed, *(numbers if math.isfinite(numbers[0]) else [""] * 3))
        for task, own in found.items()
        for name, one in own.items()
        for seed, numbers in enumerate(zip(one.steps, one.seconds, one.steps * one.gflop, strict=True))
    ]
    write_csv(out / "cost.csv", HEAD, table)
    rows = [
        (task, name, *cells(one, next(iter(own.values())))) for task, own in found.items() for name, one in own.items()
    ]
    head = ("task", "agent", "real steps", "core-seconds", "GFLOP", "fewer steps, times", "break-even, s per step")
    show("Medians over seeds until the threshold; intervals of 95 %", head, rows)
    draw(out / "cost.png", found)
    return found


def cells(one: Cost, free: Cost) -> tuple[str, str, str, str, str]:
    """Steps, seconds, operations, the ratio of the model-free agent's steps with its interval, and the break-even."""
    middle = float(np.median(one.steps))
    seconds = f"{number(middle * one.rate)}" if math.isfinite(middle) else "-"
    gflop = f"{number(middle * one.gflop)}" if math.isfinite(middle) else "-"
    steps = f"{middle:,.0f}" if math.isfinite(middle) else "not reached"
    if one is free:
        return steps, seconds, gflop, "", ""
    ratio, low, high = steps_ratio(one.steps, free.steps)
    times = f"{_times(ratio)} [{_times(low)}, {_times(high)}]" if math.isfinite(middle) else "-"
    times = _times(ratio) if math.isinf(low) else times
    return steps, seconds, gflop, times, break_even(one, free)


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
    """Draws core-seconds, and below them operations, against real steps of each agent, a column for each task."""
    figure, panels = canvas(len(found), 17.0, 7.4, lines=2)
    lines = (("core-seconds of one seed until then", (0.03, 300)), ("GFLOP of one seed until then", (3, 20_000)))
    for line, (label, limits) in enumerate(lines):
        row = panels[line * len(found) : (line + 1) * len(found)]
        for axes, (task, own) in zip(row, found.items(), strict=True):
            for i, (name, one) in enumerate(own.items()):
                agent(axes, i, name, one, one.gflop if line else one.rate)
            axes.set(xscale="log", yscale="log", xlim=(300, 80_000), ylim=limits)
            if line:
                axes.set_xlabel("real steps to the threshold")
            else:
                axes.set_title(task)
                axes.legend(frameon=False, fontsize=6.5, loc="lower left", labelspacing=0.25)
        row[0].set_ylabel(label)
    save(path, figure)


def agent(axes: Axes, i: int, name: str, one: Cost, rate: float) -> None:
    """Draws one agent: a point for each seed, a larger one for their median.

    Args:
      axes: of its task.
      i: its number there.
      name: its name.
      one: its costs.
      rate: what a real step costs.
    """
    reached, colour = np.isfinite(one.steps), COLOURS[i % len(COLOURS)]
    marker = "s" if name in FREE else "o" if i < len(COLOURS) else "^"
    missed, middle = int((~reached).sum()), float(np.median(one.steps))
    label = f"{name} ({missed} of {len(reached)} never)" if missed else name
    axes.plot(one.steps[reached], one.steps[reached] * rate, marker, color=colour, markersize=3, alpha=0.4)
    if math.isfinite(middle):
        axes.plot(middle, middle * rate, marker, color=colour, markersize=7.5, label=label)
    else:
        axes.plot([], [], marker, color=colour, label=label)
