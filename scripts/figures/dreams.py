"""Figures of World Models: what a controller scores in dreams of each temperature, and in the real world.

For each seed one world model learns from random actions alone. Every controller then evolves from 0 in dreams of its
own temperature, and is evaluated in new dreams of that temperature and in whole real episodes.

ledge          rewards walking near an edge, while a gust of wind may come in any step: a cold dream has no gusts
cartpole       CartPole-v1 without its velocities: the controller sees the latent and the memory
cartpole-z     the same with controllers that see the latent alone
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, mean_and_error, save, show, write_csv
from mbrl_jax.agents.world_models import agent as wm
from mbrl_jax.agents.world_models.controller import controller_size
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Box, Env, Key, Replay, Spec
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.hidden import hide
from mbrl_jax.envs.registry import make_env
from mbrl_jax.ops.evolution import evolve
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.loop import LoopConfig, make_loop

TEMPERATURES = (0.1, 0.5, 1.0, 1.15, 1.3)
COMMON: dict[str, Any] = {
    "vision.latent": 0, "memory.hidden": 32, "length": 32, "memory_updates": 1_000, "lr": 3e-3, "dreams": 16,
    "population": 32, "generations": 25, "sigma": 0.5, "horizon": 200,
}  # fmt: skip
GUST, CHANCE, STEP = (
    0.4,
    0.1,
    0.1,
)  # of the ledge: a gust's size, its probability per step, and the longest stride


def hidden_cartpole() -> Env:
    """CartPole-v1 without its velocities."""
    return hide(make_env("CartPole-v1"), (1, 3))


def ledge(steps: int = 100) -> Env:
    """A walk on a line that ends at 1, with the position as reward where it is above 0, and gusts towards the edge.

    Without gusts it would be best to stand right at the edge; with them, at a distance from it.
    """

    def reset(key: Key) -> tuple[Any, Array]:
        place = jax.random.uniform(key, (1,), minval=-1.0, maxval=0.0)
        return (place, jnp.int32(0)), place

    def step(key: Key, state: Any, action: Array) -> tuple[Any, Array, Array, Array, Array]:
        place, time = state
        gust = GUST * jax.random.bernoulli(key, CHANCE)
        place = jnp.maximum(place + STEP * jnp.clip(action, -1.0, 1.0) + gust, -1.0)
        fell = place[0] > 1.0
        reward = jnp.where(fell, 0.0, jnp.maximum(place[0], 0.0))
        return (place, time + 1), place, reward, 1.0 - fell, fell | (time + 1 >= steps)

    return Env(Spec(Box((1,), -1.0, 2.0), Box((1,), -1.0, 1.0), steps, name="ledge"), reset, step)


class Case(NamedTuple):
    """One panel."""

    env: Callable[[], Env]
    rows: int  # real steps that a world model learns from, all of random actions
    changes: dict[str, Any]  # of the settings `COMMON`
    title: str


CASES: dict[str, Case] = {
    "ledge": Case(ledge, 8_000, {"horizon": 100, "memory.hidden": 16}, "a ledge in gusts of wind"),
    "cartpole": Case(hidden_cartpole, 600, {}, "CartPole, velocities hidden"),
    "cartpole-z": Case(hidden_cartpole, 600, {"sees": "z"}, "the same, without the memory"),
}


def world(cfg: wm.WorldModelsConfig, env: Env, key: Key, rows: int) -> tuple[wm.Learner, Replay]:
    """A learner fitted to random actions, and that experience."""
    clocks = LoopConfig(num_envs=4, warmup=rows // 4, capacity=rows * 2, eval_episodes=0)
    agent, buffer = wm.make(replace(cfg, {"generations": 1}), env.spec), wm.buffer(cfg, clocks.capacity, 4)
    key_init, key_fit = jax.random.split(key)
    state = make_loop(agent, env, buffer, clocks).init(key_init)
    replay = buffer.replay(state.buffer)
    return agent.refresh(key_fit, state.learner, replay)[0], replay


def scores(
    cfg: wm.WorldModelsConfig,
    env: Env,
    key: Key,
    learner: wm.Learner,
    replay: Replay,
    temperature: Array,
    episodes: int,
) -> tuple[Array, Array]:
    """The mean scores [] of a new controller: in dreams of the temperature it evolved at, and in real episodes."""
    cfg = replace(cfg, {"temperature": temperature})
    key_evolve, key_dream, key_real = jax.random.split(key, 3)
    score = wm.controller_score(cfg, env.spec, learner.memory, learner.vision, replay)
    latent, hidden = env.spec.obs.shape[0], cfg.memory.hidden
    start = jnp.zeros(controller_size(env.spec.action, latent=latent, hidden=hidden, sees=cfg.sees))
    found = evolve(key_evolve, start, score, cfg.sigma, cfg.population, cfg.generations, cfg.strategy)
    agent = wm.make(cfg, env.spec)
    real = evaluate(agent, env, key_real, learner._replace(controller=found.mean), episodes)[0]
    return score(key_dream, found.mean[None])[0], jnp.mean(real)


def temperature_figure(
    out: Path,
    seeds: int = 4,
    temperatures: Sequence[float] = TEMPERATURES,
    cases: Sequence[str] = tuple(CASES),
    episodes: int = 32,
    changes: dict[str, Any] | None = None,
    first: int = 0,
) -> Any:
    """Scores in dreams and in real episodes, by temperature.

    Args:
      out: folder.
      seeds: number of world models, each fitted to its own random actions.
      temperatures: of the dreams; in every world model a controller evolves at each.
      cases: names in `CASES`, one panel each.
      episodes: real episodes per controller, cut off after as many steps as a dream.
      changes: to the settings by name, in all cases.
      first: number of the first seed.
    Returns:
      {case: (dream, real), each [seeds, temperatures]}.
    """
    begin, grid = time.perf_counter(), jnp.asarray(temperatures, jnp.float32)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def one(case: Case, key: Key) -> tuple[Array, Array]:
        cfg = replace(wm.WorldModelsConfig(), COMMON | case.changes | (changes or {}))
        env = wrappers.time_limit(case.env(), cfg.horizon)
        key_world, key_scores = jax.random.split(key)
        learner, replay = world(cfg, env, key_world, case.rows)
        keys = jax.random.split(key_scores, len(temperatures))
        return jax.vmap(lambda key, t: scores(cfg, env, key, learner, replay, t, episodes))(keys, grid)

    for name in cases:
        run = jax.jit(lambda key: one(CASES[name], key))  # noqa: B023
        pairs = [jax.tree.map(np.asarray, run(jax.random.key(seed))) for seed in range(first, first + seeds)]
        found[name] = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    table = [
        (name, t, first + seed, float(dream[seed, i]), float(real[seed, i]))
        for name, (dream, real) in found.items()
        for i, t in enumerate(temperatures)
        for seed in range(seeds)
    ]
    write_csv(out / "temperature.csv", ("case", "temperature", "seed", "dream", "real"), table)
    figure, panels = canvas(len(cases), width=3.6 * len(cases) + 0.8, height=3.6)
    for axes, (name, both) in zip(panels, found.items(), strict=True):
        for values, label, colour in zip(both, ("in the dream", "in the real world"), COLOURS, strict=False):
            middle, error = mean_and_error(values)
            axes.plot(temperatures, middle, marker="o", color=colour, label=label)
            axes.fill_between(temperatures, middle - error, middle + error, color=colour, alpha=0.2, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("temperature of the dreams")
        axes.set_title(CASES[name].title, fontsize=10)
    panels[0].set_ylabel(f"score, mean and standard error, {seeds} seeds")
    panels[0].legend(frameon=False)
    save(out / "temperature.png", figure)
    show(
        f"Controllers evolved in dreams of each temperature, {seeds} seeds: score in the dream -> in the real world",
        ("case", *(str(t) for t in temperatures)),
        [
            (name, *(f"{d:.0f} -> {r:.0f}" for d, r in zip(dream.mean(0), real.mean(0), strict=True)))
            for name, (dream, real) in found.items()
        ],
    )
    print(f"took {time.perf_counter() - begin:.1f} s")
    return found
