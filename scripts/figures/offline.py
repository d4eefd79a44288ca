"""Table and picture of the offline agents: normalised scores by data set, beside behaviour cloning, SAC and IQL.

    score = 100 (return - random) / (expert - random)

of the final policy, the mean over its evaluation episodes; an interval is a bootstrap over seeds. `random` and `expert`
are the mean returns of the complete episodes in the data sets of those names. An agent has one setting for all data
sets, and no checkpoint is chosen, as in unifloral (Jackson et al. 2025).

With a folder of data sets all agents are trained, the seeds of an agent on all of them in one program, and
`returns.csv` is written; without one the committed table is read.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, save, show, timed, write_csv
from mbrl_jax import presets
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.analysis.statistics import bootstrap_interval
from mbrl_jax.buffers import datasets
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Key, Transition
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets.offline import Data, rows_for

ENV = "Pendulum-v1"
DATA = ("random", "medium", "mixed", "expert")
AGENTS = ("bc", "sac", "iql", "mopo", "morel", "combo", "rambo")
LABELS = {"bc": "BC", "sac": "SAC", "iql": "IQL", "mopo": "MOPO", "morel": "MOReL", "combo": "COMBO", "rambo": "RAMBO"}
SETTINGS: dict[str, dict[str, Any]] = {"sac": {"hidden": (64, 64), "batch": 64, "lr": 1e-3}}
"""Settings of an agent that are not its presets: SAC has those that the others' SAC has."""
HEAD = ("env", "data", "agent", "seed", "updates", "return")


def learning(
    algo: str, env: str, updates: int, episodes: int, changes: dict[str, Any], key: Key, rows: Transition
) -> Array:
    """Returns [episodes] of the policy that one seed has learned from a data set at the end.

    Args:
      algo: an agent's name.
      env: of the data set.
      updates: to make.
      episodes: of the evaluation.
      changes: to the agent's settings by name.
      key: of the seed.
      rows: [N, ...].
    """
    known = presets.preset(algo, env, offline=True)
    agent = replace(known.agent, SETTINGS.get(algo, {}) | changes)
    inner = min(known.loop.inner, updates)
    loop_cfg = replace(known.loop, {"inner": inner, "cycles": updates // inner, "eval_episodes": episodes})
    loop = presets.build(algo, env, agent, loop_cfg, data=Data(rows, True))
    return loop.chunk(loop.init(key))[1].returns


def offline_figure(
    out: Path,
    seeds: int = 8,
    runs: Path | None = None,
    agents: Sequence[str] = AGENTS,
    updates: int = 5_000,
    episodes: int = 20,
    changes: dict[str, dict[str, Any]] | None = None,
    first: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """The table, read or made, printed and drawn.

    Args:
      out: folder of `returns.csv`, `references.csv` and the picture.
      seeds: of each agent and data set, at least 2.
      runs: folder of the data sets, `random.npz` and so on; None to read the tables in `out`.
      agents: which to train; the others' rows stay.
      updates: of each.
      episodes: of the evaluation of the final policy.
      changes: settings by agent and name, to choose them by.
      first: the first seed.
    Returns:
      scores by data set and agent, [seeds].
    Raises:
      ValueError: there is no table to read, or no data set.
    """
    if runs is not None:
        train(out, seeds, runs, agents, updates, episodes, changes or {}, first)
    table, reference = out / "returns.csv", out / "references.csv"
    if not table.exists() or not reference.exists():
        raise ValueError(f"--runs must name a folder of data sets: there is no {table}")
    low, high = ({row["data"]: float(row["return"]) for row in read(reference)}[name] for name in ("random", "expert"))
    scores: dict[str, dict[str, np.ndarray]] = {}
    for data in DATA:
        for algo in AGENTS:
            found = [float(row["return"]) for row in read(table) if (row["data"], row["agent"]) == (data, algo)]
            if found:
                scores.setdefault(data, {})[algo] = 100 * (np.array(found) - low) / (high - low)
    table_of(scores)
    draw(out / "offline.png", scores)
    return scores


def train(
    out: Path,
    seeds: int,
    runs: Path,
    agents: Sequence[str],
    updates: int,
    episodes: int,
    changes: dict[str, dict[str, Any]],
    first: int,
) -> None:
    """Trains agents on all data sets, and writes their rows into `returns.csv` as each has ended."""
    found = [datasets.load(runs / f"{name}.npz") for name in DATA]
    write_csv(
        out / "references.csv",
        ("env", "data", "rows", "episodes", "return"),
        [
            (ENV, name, data.rows, data.about["episodes"], data.about.get("mean_return", ""))
            for name, data in zip(DATA, found, strict=True)
        ],
    )
    env = make_env(ENV)
    sets = [rows_for(data, env.spec, env.spec, name) for name, data in zip(DATA, found, strict=True)]
    rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sets)
    for algo in agents:
        one = partial(learning, algo, ENV, updates, episodes, changes.get(algo, {}))

        def all_sets(key: Array, rows: Transition, one: Any = one) -> Array:
            return jax.lax.map(lambda each: jax.vmap(lambda key: one(key, each))(key), rows)

        program, seconds = compiled(all_sets, keys(seeds, first), rows)
        returns, (wall, _) = timed(program, keys(seeds, first), rows)
        print(
            f"{algo}: compiled in {seconds:.0f} s, {len(DATA)} data sets of {seeds} seeds in {wall:.0f} s", flush=True
        )
        old = [tuple(row.values()) for row in read(out / "returns.csv") if row["agent"] != algo]
        new = [
            (ENV, data, algo, first + i, updates, float(np.mean(returns[d, i])))
            for d, data in enumerate(DATA)
            for i in range(seeds)
        ]
        write_csv(out / "returns.csv", HEAD, [*old, *new])


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def interval(scores: np.ndarray) -> tuple[float, float, float]:
    """The mean over seeds and the ends of its 95 % bootstrap interval."""
    low, high = bootstrap_interval(scores, np.mean)
    return float(np.mean(scores)), float(low), float(high)


def table_of(scores: dict[str, dict[str, np.ndarray]]) -> None:
    """Prints the scores, a line for each data set and one for their mean."""
    algos = [algo for algo in AGENTS if any(algo in own for own in scores.values())]

    def cell(values: np.ndarray | None) -> str:
        return "-" if values is None else "{:.0f} [{:.0f}, {:.0f}]".format(*interval(values))

    rows = [[data, *(cell(scores[data].get(algo)) for algo in algos)] for data in scores]
    whole = {algo: [own[algo] for own in scores.values() if algo in own] for algo in algos}
    means = {algo: np.mean(own, 0) if len({len(each) for each in own}) == 1 else None for algo, own in whole.items()}
    rows.append(["mean", *(cell(means[algo]) for algo in algos)])
    show(
        f"Normalised scores on {ENV}, mean over seeds and its 95 % interval",
        ["data", *(LABELS[a] for a in algos)],
        rows,
    )


def draw(path: Path, scores: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws a panel for each data set, a point for each seed, the mean and its interval."""
    figure, panels = canvas(len(scores), 2.4 * len(scores) + 0.4, 3.4)
    for axes, (data, own) in zip(panels, scores.items(), strict=True):
        for x, values in enumerate(own.values()):
            middle, low, high = interval(values)
            jitter = np.linspace(-0.18, 0.18, len(values))
            axes.plot(x + jitter, values, "o", color=COLOURS[x], markersize=2.5, alpha=0.45)
            axes.errorbar(x, middle, [[middle - low], [high - middle]], fmt="o", color=COLOURS[x], capsize=3)
        axes.set_xticks(range(len(own)), [LABELS[algo] for algo in own], rotation=60)
        axes.set_title(data, fontsize=10)
        axes.axhline(0, color="grey", linewidth=0.8, linestyle=":")
        axes.axhline(100, color="grey", linewidth=0.8, linestyle=":")
        axes.set_ylim(-45, 120)
    panels[0].set_ylabel("normalised score")
    save(path, figure)
