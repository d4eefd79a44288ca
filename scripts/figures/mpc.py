"""Figure of planning with the true model: every planner on every task, at equal budgets of model steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, mean_and_error, save, share, show, timed, write_csv
from mbrl_jax import presets
from mbrl_jax.agents import mpc as mpc_true
from mbrl_jax.agents.mpc import MPCConfig
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Agent, Array, Env, Key
from mbrl_jax.envs.registry import make_env
from mbrl_jax.planners import mpc
from mbrl_jax.planners.mpc.choice import KINDS, PlannerConfig
from mbrl_jax.planners.mpc.gradient import Gradient
from mbrl_jax.presets import settings
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.sweep import over_seeds

NOTHING = "nothing"  # baseline: action 0 in every step


class Task(NamedTuple):
    """One environment, and the return that counts as solving it."""

    title: str
    bar: float | None  # mean return; None where the best return depends on the initial state
    above: float = 0.0  # without a bar: margin above the mean return of doing nothing


TASKS: dict[str, Task] = {
    "Pendulum-v1": Task("Pendulum", settings.THRESHOLD["Pendulum-v1"]),
    "CartPoleSwingUp": Task("Cartpole swing-up", settings.THRESHOLD["CartPoleSwingUp"]),
    "ContinuousCartPole": Task("Continuous CartPole", settings.THRESHOLD["ContinuousCartPole"]),
    "MountainCarContinuous-v0": Task("Mountain car, continuous", 90.0),
    # Two links and a goal anywhere in a square, possibly out of reach; an episode has 100 steps of reward at most 1.
    "Reacher-misc": Task("Reacher, two links", None, above=40.0),
}


def model_steps(cfg: PlannerConfig) -> int:
    """Model steps of one plan; backward passes of the gradient planner are not counted."""
    chosen = getattr(cfg, cfg.kind)
    if isinstance(chosen, Gradient):
        return chosen.particles * chosen.restarts * chosen.horizon * (chosen.iterations + 1)
    return mpc.model_steps(chosen)


def planning(env: str, kind: str, changes: Mapping[str, Any] | None = None) -> MPCConfig:
    """The settings of one kind of planner for one task."""
    return replace(presets.preset("mpc", env).agent, {**(changes or {}), "planner.kind": kind})


def idle(env: Env) -> Agent:
    """An agent that does nothing."""
    nothing = jnp.zeros(env.spec.action.shape, env.spec.action.dtype)
    return Agent(
        init=lambda key: (),
        carry=lambda: (),
        act=lambda key, learner, carry, obs, explore: (nothing, carry, ()),
        update=lambda key, learner, replay: (learner, {}, ()),
    )


def episode(agent: Agent, env: Env) -> Callable[[Key], tuple[Array, Array]]:
    """(key) -> return and length of one episode; its initial state depends on the key alone, not on the agent."""

    def one(key: Key) -> tuple[Array, Array]:
        returns, lengths = evaluate(agent, env, key, (), 1)
        return returns[0], lengths[0]

    return one


def is_solved(task: Task, returns: np.ndarray, nothing: np.ndarray) -> bool:
    """Whether the mean return reaches the task's bar."""
    bar = nothing.mean() + task.above if task.bar is None else task.bar
    return bool(returns.mean() >= bar)


def mpc_figure(
    out: Path,
    seeds: int = 8,
    tasks: Sequence[str] = tuple(TASKS),
    kinds: Sequence[str] = KINDS,
    changes: Mapping[str, Any] | None = None,
) -> dict[tuple[str, str], np.ndarray]:
    """Returns of planners in the true dynamics.

    Args:
      out: folder.
      seeds: episodes of each planner on each task, from the same initial states.
      tasks: of `TASKS`.
      kinds: of `KINDS`.
      changes: to the presets, by dotted name.
    Returns:
      returns [seeds] by task and planner, the baseline included.
    Raises:
      ValueError: planners that take different numbers of model steps per plan on a task.
    """
    devices, start = share(seeds), time.perf_counter()
    budgets = {name: {k: model_steps(planning(name, k, changes).planner) for k in kinds} for name in tasks}
    for name, taken in budgets.items():
        if len(set(taken.values())) != 1:
            raise ValueError(f"planners must have equal budgets of model steps in {name}, got {taken}")
    found: dict[tuple[str, str], np.ndarray] = {}
    rows, table = [], []
    for name in tasks:
        env = presets.suited("mpc", make_env(name))
        for kind in (NOTHING, *kinds):
            agent = idle(env) if kind == NOTHING else mpc_true.make(planning(name, kind, changes), env)
            run, compiling = compiled(over_seeds(episode(agent, env), seeds, devices), keys(seeds))
            (returns, lengths), (wall, _) = timed(run, keys(seeds))
            found[name, kind] = returns
            steps = 0 if kind == NOTHING else budgets[name][kind]
            solved = is_solved(TASKS[name], returns, found[name, NOTHING])
            rows += [
                (name, kind, steps, seed, float(g), int(n))
                for seed, (g, n) in enumerate(zip(returns, lengths, strict=True))
            ]
            middle, error = mean_and_error(returns)
            table.append((
                name, kind, f"{steps:,}", f"{middle:.2f}", f"{returns.min():.2f}", f"{error:.2f}",
                f"{lengths.mean():.0f}", "yes" if solved else "no", f"{wall:.1f}", f"{compiling:.1f}",
            ))  # fmt: skip
    write_csv(out / "mpc.csv", ("task", "planner", "model_steps", "seed", "return", "length"), rows)
    draw(out / "mpc.png", found, tasks, (NOTHING, *kinds), seeds)
    bars = ", ".join(
        f"{name}: {'nothing + ' if TASKS[name].bar is None else ''}{TASKS[name].bar or TASKS[name].above:g}"
        for name in tasks
    )
    show(
        f"Planning with the true model, {seeds} episodes each; solved is a mean return of at least ({bars})",
        ("task", "planner", "steps a plan", "mean", "min", "error", "length", "solved", "run s", "compile s"),
        table,
    )
    print(f"took {time.perf_counter() - start:.1f} s on {devices} devices")
    return found


def draw(
    path: Path, found: Mapping[tuple[str, str], np.ndarray], tasks: Sequence[str], kinds: Sequence[str], seeds: int
) -> None:
    """A panel for each task: every episode a dot, the mean a line, the bar dashed."""
    figure, panels = canvas(len(tasks), width=max(4.0, 2.6 * len(tasks)), height=4.2)
    spread = np.linspace(-0.25, 0.25, seeds)
    for axes, name in zip(panels, tasks, strict=True):
        for at, kind in enumerate(kinds):
            returns, colour = found[name, kind], COLOURS[-1 if kind == NOTHING else at - 1]
            axes.scatter(at + spread, returns, s=14, color=colour, alpha=0.55, linewidths=0)
            axes.hlines(returns.mean(), at - 0.38, at + 0.38, color=colour, linewidth=2.2)
        bar = TASKS[name].bar
        if bar is not None:
            axes.axhline(bar, color="#555555", linestyle="--", linewidth=1.0)
        axes.set_xticks(range(len(kinds)), kinds, rotation=60)
        axes.set_title(TASKS[name].title, fontsize=10)
        if min(found[name, kind].min() for kind in kinds) >= 0.0:
            axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
    panels[0].set_ylabel(f"return: {seeds} episodes, their mean, and the bar")
    save(path, figure)
