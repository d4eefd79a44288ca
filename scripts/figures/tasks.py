"""Figure of TD-MPC2 with several tasks: one network for all of them against a network for each.

All networks make the same number of updates per real step, on as many windows and with the same settings. The network
for all tasks plays those that `envs.multitask` draws, in as many environments as there are tasks; a network for one
task plays it in one environment. Each is evaluated on whole episodes of every task by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import band, canvas, compiled, keys, mean_and_error, save, share, show, timed, write_csv
from mbrl_jax.agents import tdmpc2
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Key
from mbrl_jax.envs.multitask import multitask
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets.latent import FAR_TDMPC
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.loop import LoopConfig, make_loop
from mbrl_jax.train.sweep import over_seeds

TASKS = ("Pendulum-v1", "MountainCarContinuous-v0-x8")
SETTINGS: dict[str, Any] = FAR_TDMPC | {"entropy_weight": 1e-3, "net.task_dim": 16}


def learning(
    names: Sequence[str], key: Key, chunks: int, clocks: LoopConfig, episodes: int, changes: dict[str, Any]
) -> Array:
    """Mean returns [chunks, tasks] of one network for the tasks named.

    Args:
      names: of environments.
      key: of the seed.
      chunks: of the loop, each followed by evaluation episodes of every task.
      clocks: loop settings for one task; environments, updates and capacity are multiplied by the number of tasks.
      episodes: evaluation episodes of each task.
      changes: to the settings by name.
    """
    envs, count = [make_env(name) for name in names], len(names)
    env, tasks = multitask(envs)
    alone = [multitask(envs, only=k)[0] for k in range(count)]
    cfg = replace(tdmpc2.TDMPC2Config(), SETTINGS | {"net.tasks": count} | changes)
    agent = tdmpc2.make(cfg, env.spec, tasks)
    more = {"num_envs": count, "updates": count * clocks.updates, "capacity": count * clocks.capacity}
    loop = make_loop(agent, env, tdmpc2.buffer(cfg, more["capacity"], count), replace(clocks, more))
    key_run, key_eval = jax.random.split(key)

    def one(state: Any, i: Array) -> tuple[Any, Array]:
        state, _ = loop.chunk(state)
        keys_eval = jax.random.split(jax.random.fold_in(key_eval, i), count)
        returns = [evaluate(agent, alone[k], keys_eval[k], state.learner, episodes)[0] for k in range(count)]
        return state, jnp.stack([jnp.mean(own) for own in returns])

    return jax.lax.scan(one, loop.init(key_run), jnp.arange(chunks))[1]


def tasks_figure(
    out: Path,
    seeds: int = 4,
    names: Sequence[str] = TASKS,
    chunks: int = 7,
    inner: int = 500,
    warmup: int = 500,
    episodes: int = 8,
    changes: dict[str, Any] | None = None,
    first: int = 0,
) -> dict[str, np.ndarray]:
    """Returns by real steps of each task, with a network for all tasks and with one for each.

    Args:
      out: folder.
      seeds: networks of each kind.
      names: of the tasks.
      chunks: points of each curve.
      inner: environment steps between points.
      warmup: environment steps with random actions before.
      episodes: evaluation episodes of each task at each point.
      changes: to the settings by name.
      first: number of the first seed.
    Returns:
      {"all": [seeds, chunks, tasks], task: [seeds, chunks, 1] of its own network}.
    """
    begin = time.perf_counter()
    clocks = LoopConfig(
        updates=2, inner=inner, cycles=1, warmup=warmup, hold=4, capacity=warmup + chunks * inner, eval_episodes=0
    )
    found: dict[str, np.ndarray] = {}
    for label, members in (("all", tuple(names)), *((name, (name,)) for name in names)):
        fn = partial(learning, members, chunks=chunks, clocks=clocks, episodes=episodes, changes=changes or {})
        at = keys(seeds, first)
        run, _ = compiled(over_seeds(fn, 1, share(seeds)), at)
        found[label], _ = timed(run, at)
    steps = warmup + inner * (1 + np.arange(chunks))
    pairs = [(task, kind, column) for k, task in enumerate(names) for kind, column in (("all", k), (task, 0))]
    table = [
        (
            task,
            "one for all" if kind == "all" else "its own",
            first + seed,
            int(steps[i]),
            float(found[kind][seed, i, k]),
        )
        for task, kind, k in pairs
        for seed in range(seeds)
        for i in range(chunks)
    ]
    write_csv(out / "tasks.csv", ("task", "network", "seed", "steps", "return"), table)
    figure, panels = canvas(len(names), width=4.4 * len(names), height=3.8)
    for k, (axes, task) in enumerate(zip(panels, names, strict=True)):
        band(axes, steps, found["all"][..., k], 0, "one network for all tasks")
        band(axes, steps, found[task][..., 0], 1, "a network of its own")
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("real steps in each environment")
    panels[0].set_ylabel(f"return, mean and 95 % interval, {seeds} seeds")
    panels[0].legend(frameon=False, loc="lower right")
    save(out / "tasks.png", figure)

    def late(values: np.ndarray) -> str:
        middle, error = mean_and_error(values[:, -max(1, chunks // 3) :].mean(1))
        return f"{middle:.1f} +- {error:.1f}"

    show(
        f"Mean returns in the last third of {int(steps[-1]):,} steps, {seeds} seeds",
        ("task", "one network for all", "its own"),
        [(task, late(found["all"][..., k]), late(found[task][..., 0])) for k, task in enumerate(names)],
    )
    print(f"took {time.perf_counter() - begin:.1f} s")
    return found
