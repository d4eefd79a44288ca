"""Trouble: a reward that nobody has seen, with networks. Sparse tasks, and the share of seeds that find their reward.

DeepSea with DQN, alone and with random network distillation; a pendulum and a pole on a cart that are rewarded upright
alone, and the mountain car, with PETS, MBPO and PPO, alone and with a bonus (the disagreement of the model's members,
or random network distillation), and with DreamerV3 and the explorer of Plan2Explore. A seed finds the reward if an
episode of its training holds any, within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.patches import Patch

from figures.common import canvas, compiled, keys, save, show, timed
from figures.troubles import difference, interval, read_seeds, share_difference, share_of_seeds, wilson, write_seeds
from mbrl_jax import presets
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Env, Key
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.loop import LoopConfig

HEAD = ("task", "agent", "seed", "episode_found", "return")
PLAYED = 2  # evaluation episodes of a seed

DQN: dict[str, Any] = {"hidden": (64, 64), "lr": 1e-3, "tau": 0.02, "batch": 32, "epsilon": 0.05, "decay_updates": 500}
ENSEMBLE: dict[str, Any] = {
    "model.hidden": (32, 32), "fit.members": 3, "fit.elites": 3, "fit.batch": 64, "fit.max_epochs": 20,
    "fit.patience": 2,
}  # fmt: skip
PETS: dict[str, Any] = ENSEMBLE | {
    "planner.cem.horizon": 15, "planner.cem.population": 30, "planner.cem.elites": 5, "planner.cem.iterations": 2,
    "planner.cem.particles": 3,
}  # fmt: skip
MBPO: dict[str, Any] = ENSEMBLE | {
    "policy.hidden": (32, 32), "policy.lr": 1e-3, "policy.batch": 64, "policy.alpha": 0.1, "real_ratio": 0.25,
    "rollouts": 201, "first_horizon": 4, "last_horizon": 4, "retain": 4,
}  # fmt: skip
PPO: dict[str, Any] = {"hidden": (32, 32), "lr": 1e-3, "epochs": 10, "entropy_weight": 0.0, "normalize_obs": True}
DREAMER: dict[str, Any] = {
    "net.deter": 32, "net.units": 32, "net.stoch": 4, "net.classes": 4, "net.blocks": 2, "net.bins": 41, "batch": 8,
    "length": 16, "imagined": 10, "lr": 1e-3, "lr_warmup": 100, "gamma": 0.98, "free": 0.1, "normalize_obs": True,
    "plan2explore.hidden": (32, 32), "plan2explore.members": 5,
}  # fmt: skip
CURIOUS: dict[str, Any] = {"explorer": "disagreement"}
DISTILLED: dict[str, Any] = {"explorer": "rnd", "rnd.lr": 1e-3, "rnd.hidden": (32, 32), "rnd.features": 16}

SETTINGS: dict[str, dict[str, Any]] = {
    "dqn": DQN | DISTILLED,
    "pets": PETS | CURIOUS,
    "mbpo": MBPO | CURIOUS,
    "ppo": PPO | DISTILLED,
    "dreamer_v3": DREAMER | {"explorer": "plan2explore"},
}
"""Of each algorithm, with its bonus."""

AGENTS: dict[str, tuple[str, dict[str, float]]] = {
    "DQN": ("dqn", {"rnd.weight": 0.0}),
    "DQN, RND": ("dqn", {"rnd.weight": 1.0}),
    "PETS": ("pets", {"bonus": 0.0}),
    "PETS, disagreement": ("pets", {"bonus": 1.0}),
    "MBPO": ("mbpo", {"bonus": 0.0}),
    "MBPO, disagreement": ("mbpo", {"bonus": 10.0}),
    "PPO": ("ppo", {"rnd.weight": 0.0}),
    "PPO, RND": ("ppo", {"rnd.weight": 1.0}),
    "DreamerV3": ("dreamer_v3", {"plan2explore.curiosity": 0.0, "plan2explore.task": 1.0}),
    "DreamerV3, Plan2Explore": ("dreamer_v3", {"plan2explore.curiosity": 1.0, "plan2explore.task": 0.0}),
}
"""By name: the algorithm, and the weights of its bonus. An agent alone is the same program with a weight of 0, so that
one compilation serves both; DreamerV3 alone acts by the explorer's actor, which then learns from the task's rewards."""

PAIRS = (
    ("DQN, RND", "DQN"),
    ("PETS, disagreement", "PETS"),
    ("MBPO, disagreement", "MBPO"),
    ("PPO, RND", "PPO"),
    ("DreamerV3, Plan2Explore", "DreamerV3"),
)


class Task(NamedTuple):
    """An environment with a reward that is hard to find, and a budget."""

    env: str
    episode: int  # decisions of an episode that is not ended before
    episodes: int  # of training
    agents: tuple[str, ...]
    arguments: dict[str, Any] = {}  # noqa: RUF012, never written to


CONTINUOUS = (
    "PETS", "PETS, disagreement", "MBPO", "MBPO, disagreement", "PPO", "PPO, RND", "DreamerV3",
    "DreamerV3, Plan2Explore",
)  # fmt: skip
TASKS: dict[str, Task] = {
    "DeepSea 10": Task("DeepSea", 10, 400, ("DQN", "DQN, RND"), {"size": 10}),
    "pendulum": Task("Pendulum-sparse-x2", 100, 12, CONTINUOUS),
    "mountain car": Task("MountainCarContinuous-v0-x2", 500, 6, CONTINUOUS),
    "swing-up": Task("CartPoleSwingUp-sparse-x2", 100, 30, CONTINUOUS),
}


def world(task: Task) -> Env:
    """The environment of a task."""
    return make_env(task.env, **task.arguments)


def loop_of(algo: str, task: Task) -> LoopConfig:
    """A loop whose chunk is as many decisions as an episode has; random actions fill half of the first one.

    PPO learns from whole episodes, and DreamerV3 after every second decision.
    """
    n, every = task.episode, {"ppo": task.episode, "dreamer_v3": 2}.get(algo, 1)
    return LoopConfig(
        inner=n // every, unroll=every, cycles=1, warmup=0 if algo == "ppo" else n // 2 // every, eval_episodes=0,
        capacity=n * (task.episodes + 1),
    )  # fmt: skip


def searched(task: Task, algo: str) -> Callable[[Key, dict[str, Array]], dict[str, Array]]:
    """(key, weights) -> `episode_found` [], the episode that first held a reward above 0, from 1, 0 for none; `return`
    [], of the evaluation at the end.
    """
    env, cfg = world(task), replace(presets.AGENTS[algo].config(), SETTINGS[algo])

    def one(key: Key, weights: dict[str, Array]) -> dict[str, Array]:
        own = replace(cfg, weights)
        loop = presets.build(algo, env, own, loop_of(algo, task))
        agent, suited = presets.learner(algo, env, own)
        key_run, key_play = jax.random.split(key)

        def episode(state: Any, _: None) -> tuple[Any, Array]:
            state, report = loop.chunk(state)
            return state, report.metrics["return"]

        state, returns = jax.lax.scan(episode, loop.init(key_run), length=task.episodes)
        found = jnp.where(jnp.any(returns > 0), jnp.argmax(returns > 0) + 1, 0)
        played = evaluate(agent, suited, key_play, state.learner, PLAYED)[0]
        return {"episode_found": found, "return": jnp.mean(played)}

    return one


def deep_exploration(
    out: Path,
    seeds: int = 8,
    tasks: Sequence[str] = tuple(TASKS),
    agents: Sequence[str] = tuple(AGENTS),
    first: int = 0,
    changes: dict[str, Any] | None = None,
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Searches, and writes `exploration_deep.csv` and `exploration_deep.png`.

    What the table holds of the same seeds is not run again.

    Args:
      out: folder.
      seeds: of each agent and task, at least 2.
      tasks: names in `TASKS`.
      agents: names in `AGENTS`; those that a task does not have are left out.
      first: the first seed.
      changes: fields of every task by name, a smaller budget for example.
    Returns:
      by task and agent: columns of the table [seeds].
    """
    table = out / "exploration_deep.csv"
    found: dict[tuple[str, ...], dict[str, np.ndarray]] = read_seeds(table, HEAD, range(first, first + seeds))
    at = keys(seeds, first)
    cases = [(where, name) for where in tasks for name in TASKS[where].agents if name in agents]
    for where in tasks:
        task = TASKS[where]._replace(**(changes or {}))
        missing = [name for name in task.agents if (where, name) in cases and (where, name) not in found]
        for algo in dict.fromkeys(AGENTS[name][0] for name in missing):
            own = [name for name in missing if AGENTS[name][0] == algo]
            run = jax.vmap(searched(task, algo), (0, None))
            program, _ = compiled(run, at, jax.tree.map(jnp.float32, AGENTS[own[0]][1]))
            for name in own:
                weights = jax.tree.map(jnp.float32, AGENTS[name][1])
                found[where, name], (wall, _) = timed(program, at, weights)
                episodes, returns = found[where, name]["episode_found"], found[where, name]["return"]
                print(f"{where}, {name}: {share_of_seeds(episodes > 0)}, return {returns.mean():.3g}, {wall:.0f} s",
                      flush=True)  # fmt: skip
                write_seeds(table, HEAD, found, first)
    got = {case: found[case] for case in cases}
    write_seeds(table, HEAD, got, first)
    report(got)
    draw(out / "exploration_deep.png", got)
    return got


def report(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """Prints shares with Wilson intervals, returns, and what each bonus adds."""
    show("Seeds that find the reward, 95 % interval of the share", ("task", "agent", "found", "return at the end"),
         [(*case, share_of_seeds(own["episode_found"] > 0), interval(own["return"]))
          for case, own in found.items()])  # fmt: skip
    pairs = [(w, a, b) for w in dict.fromkeys(w for w, _ in found) for a, b in PAIRS if {(w, a), (w, b)} <= set(found)]
    rows = [(w, f"{a} less {b}",
             share_difference(found[w, a]["episode_found"] > 0, found[w, b]["episode_found"] > 0),
             difference(found[w, a]["return"], found[w, b]["return"])) for w, a, b in pairs]  # fmt: skip
    if rows:
        show("What the bonus adds, 95 % interval", ("task", "difference", "share of seeds", "return at the end"), rows)


def draw(path: Path, found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """Draws the share of seeds that find the reward, with its interval, by task and agent."""
    tasks = list(dict.fromkeys(task for task, _ in found))
    names = [name for name in AGENTS if any(agent == name for _, agent in found)]
    figure, (axes,) = canvas(1, 10.5, 4.2)
    place = 0.0
    ticks: list[float] = []
    for task in tasks:
        own = [name for name in names if (task, name) in found]
        for i, name in enumerate(own):
            hit = found[task, name]["episode_found"] > 0
            low, high = wilson(int(hit.sum()), len(hit))
            colour, curious = COLOURS[(names.index(name) // 2) % len(COLOURS)], "," in name
            axes.bar(place + i, hit.mean(), 0.8, color=colour if curious else "none", edgecolor=colour, linewidth=1.4)
            axes.vlines(place + i, low, high, color="#444444", linewidth=1.2)
        ticks.append(place + (len(own) - 1) / 2)
        place += len(own) + 1.2
    handles = []
    for i, name in enumerate(names):
        colour = COLOURS[(i // 2) % len(COLOURS)]
        handles.append(Patch(facecolor=colour if "," in name else "none", edgecolor=colour, label=name))
    axes.set_axisbelow(True)
    axes.set_xticks(ticks, tasks)
    axes.set(ylabel="share of seeds that find the reward", ylim=(0, 1.04))
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(path, figure)
