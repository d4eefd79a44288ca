"""Trouble: a reward that nobody has seen. DeepSea of growing size, and the share of seeds that find its treasure.

One of 2^N paths leads to the treasure, and each of its steps costs a little, so that greed leads away from it. Dyna-Q
learns a table of what it saw and plans in it; Dyna-Q+ adds a bonus to what it has not tried for long, the untried
included, so that planning carries curiosity from afar. The model-free rivals have the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, save, share, show, timed, write_csv
from figures.tabular import lean, tabular_loop, whole
from figures.troubles import difference, interval
from mbrl_jax.agents import dyna_q
from mbrl_jax.agents.dyna_q import DynaQConfig
from mbrl_jax.agents.q_learning import QLearningConfig
from mbrl_jax.analysis.curves import COLOURS, DASHES
from mbrl_jax.core.types import Array, Key
from mbrl_jax.envs.discrete import deep_sea
from mbrl_jax.train.loop import LoopState
from mbrl_jax.train.sweep import over_seeds

SIZES, EPISODES, PLANNING = (5, 10, 15, 20, 30), 1_000, 20
POLICY = QLearningConfig(lr=1.0, gamma=0.99, epsilon=0.1)
AGENTS: dict[str, DynaQConfig] = {
    "Q-learning": DynaQConfig(policy=POLICY, planning=0, form="last"),
    "Q-learning, optimistic": DynaQConfig(
        policy=QLearningConfig(lr=1.0, gamma=0.99, epsilon=0.1, first_value=1.0), planning=0, form="last"
    ),
    "Dyna-Q": DynaQConfig(policy=POLICY, planning=PLANNING, form="last"),
    "Dyna-Q+": DynaQConfig(policy=POLICY, planning=PLANNING, form="last", bonus=1e-2, untried=True),
}


def first_found(cfg: DynaQConfig, size: int, episodes: int) -> Callable[[Key], Array]:
    """(key) -> the episode [] in which the treasure was first reached, from 1; 0 where never."""
    env = deep_sea(size)
    loop = tabular_loop(dyna_q.make(cfg, env.spec), env, size)  # a chunk is an episode of N steps

    def episode(state: LoopState, _: None) -> tuple[LoopState, Array]:
        state, done = loop.chunk(whole(state))
        return lean(state), done.metrics["return"]

    def one(key: Key) -> Array:
        returns = jax.lax.scan(episode, lean(loop.init(key)), None, length=episodes)[1]
        return jnp.where(jnp.any(returns > 0.5), jnp.argmax(returns > 0.5) + 1, 0)

    return one


def exploration(
    out: Path, seeds: int = 8, sizes: Sequence[int] = SIZES, episodes: int = EPISODES, first: int = 0
) -> dict[tuple[int, str], np.ndarray]:
    """Searches, and writes `exploration.csv` and `exploration.png`.

    Args:
      out: folder.
      seeds: of each agent and size, at least 2.
      sizes: N.
      episodes: budget.
      first: the first seed.
    Returns:
      by size and agent: the episode of the treasure [seeds], 0 for never.
    """
    found: dict[tuple[int, str], np.ndarray] = {}
    for size in sizes:
        for name, cfg in AGENTS.items():
            at = keys(seeds, first)
            program, _ = compiled(over_seeds(first_found(cfg, size, episodes), 1, share(seeds)), at)
            found[size, name], (wall, _) = timed(program, at)
            print(f"N = {size}, {name}: {(found[size, name] > 0).mean():.2f}, {wall:.1f} s", flush=True)
    table = [(size, name, first + i, int(x)) for (size, name), own in found.items() for i, x in enumerate(own)]
    write_csv(out / "exploration.csv", ("size", "agent", "seed", "episode_found"), table)
    report(found, episodes)
    draw(out / "exploration.png", found, episodes)
    return found


def report(found: dict[tuple[int, str], np.ndarray], episodes: int) -> None:
    """Prints shares of seeds, and the difference of Dyna-Q+ from the others."""
    sizes = sorted({size for size, _ in found})
    rows = [(name, *(f"{int((found[n, name] > 0).sum())}/{len(found[n, name])}" for n in sizes)) for name in AGENTS]
    show(f"Seeds that find the treasure within {episodes} episodes", ("agent", *(f"N = {n}" for n in sizes)), rows)
    plus = {n: (found[n, "Dyna-Q+"] > 0).astype(float) for n in sizes}
    rows = [
        (name, *(difference(plus[n], (found[n, name] > 0).astype(float)) for n in sizes))
        for name in AGENTS
        if name != "Dyna-Q+"
    ]
    show("Share of Dyna-Q+ less that of another, 95 % interval", ("agent", *(f"N = {n}" for n in sizes)), rows)
    always = [name for name in AGENTS if all((found[n, name] > 0).all() for n in sizes)]
    rows = [(name, *(interval(found[n, name]) for n in sizes)) for name in always]
    rows += [
        (f"Dyna-Q+ less {name}", *(difference(found[n, "Dyna-Q+"], found[n, name]) for n in sizes))
        for name in always
        if name != "Dyna-Q+" and "Dyna-Q+" in always
    ]
    if rows:
        head = ("agent", *(f"N = {n}" for n in sizes))
        show("Episode of the first treasure, where all seeds find it: mean over seeds, 95 % interval", head, rows)


def draw(path: Path, found: dict[tuple[int, str], np.ndarray], episodes: int) -> None:
    """Draws the share of seeds, and the median episode of the first treasure, by size."""
    figure, (left, right) = canvas(2, 9.6, 3.7)
    sizes = sorted({size for size, _ in found})
    for i, name in enumerate(AGENTS):
        share_of = [(found[n, name] > 0).mean() for n in sizes]
        beside = np.array(sizes) + 0.3 * (i - 1.5)  # equal shares lie side by side
        left.plot(beside, share_of, DASHES[i % 4], color=COLOURS[i], marker="o", markersize=4, label=name)
        when = [np.median(np.where(found[n, name] > 0, found[n, name], np.inf)) for n in sizes]
        right.plot(sizes, when, DASHES[i % 4], color=COLOURS[i], marker="o", markersize=4, label=name)
    right.plot(sizes, [2.0**n for n in sizes], ":", color="grey", label="2^N")
    left.set(xlabel="size N", ylabel=f"share of seeds, {episodes} episodes", ylim=(-0.04, 1.04))
    right.set(xlabel="size N", ylabel="episode of the first treasure, median", yscale="log", ylim=(0.8, 2 * episodes))
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    save(path, figure)
