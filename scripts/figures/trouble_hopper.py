"""Trouble: a model that does not know when an episode ends. PETS on Hopper with no, a learned, and the true end.

As `trouble_termination` on ContinuousCartPole: an ensemble is fitted to rows of random actions, and CEM plans in it;
the same members serve all three terminations. Unlike there a reward differs from step to step, and is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import timed
from figures.trouble_overfitting import in_use
from figures.trouble_termination import HEAD, KINDS, PLAN, draw, ending, fitted, report, settings
from figures.troubles import write_seeds
from mbrl_jax import presets
from mbrl_jax.agents import pets
from mbrl_jax.core.types import Array, HostEnv, Key, Obs, Transition
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.dynamics.fit import FitState
from mbrl_jax.models.dynamics.gaussian import gaussian
from mbrl_jax.train.host_evaluate import actors, play

ENV, ROWS, NEW, EPISODES = "gymnasium:Hopper-v5", (1_000, 5_000), 2_000, 4
HEIGHT, ANGLE, BOUND = 0.7, 0.2, 100.0  # what Hopper-v5 calls healthy by default


def unhealthy(next_obs: Obs, action: Array) -> Array:
    """Whether the hopper lies, leans too far, or has left all bounds: the true termination of Hopper-v5."""
    del action
    out_of_bounds = jnp.any(jnp.abs(next_obs[1:]) >= BOUND)
    return (next_obs[0] <= HEIGHT) | (jnp.abs(next_obs[1]) >= ANGLE) | out_of_bounds


def random_rows(env: HostEnv, seeds: Sequence[int], count: int) -> Transition:
    """Rows [S, count, ...] of random actions, one environment for each seed; episodes that end begin anew."""
    draws = [np.random.default_rng(seed) for seed in seeds]

    def episodes() -> np.ndarray:
        return np.stack([draw.integers(0, 2**32, 2, np.uint32) for draw in draws])

    envs = env.make(len(seeds))
    obs, rows = envs.reset(episodes()), []
    for _ in range(count):
        action = np.stack([draw.uniform(-1, 1, env.spec.action.shape).astype(np.float32) for draw in draws])
        step = envs.step(action, episodes(), None)
        rows.append(Transition(obs, action, step.reward, step.discount, step.next_obs, step.last))
        obs = step.obs
    envs.close()
    return jax.tree.map(lambda *leaves: np.stack(leaves, 1), *rows)


def hopper(
    out: Path, seeds: int = 8, rows: Sequence[int] = ROWS, episodes: int = EPISODES, first: int = 0
) -> dict[tuple[str, int, str], dict[str, np.ndarray]]:
    """Plans, and writes `termination_hopper.csv` and `termination_hopper.png`.

    Args:
      out: folder.
      seeds: of each setting, at least 2.
      rows: that PETS plans from.
      episodes: of each seed.
      first: the first seed.
    Returns:
      by agent, rows and termination: columns of the table [seeds].
    Raises:
      ImportError: Gymnasium with MuJoCo is not installed.
    """
    env = presets.suited("pets", make_env(ENV))
    assert isinstance(env, HostEnv)
    cfg = settings(PLAN)
    member = gaussian(cfg.model, env.spec)
    numbers = range(first, first + seeds)
    data, new = random_rows(env, numbers, max(rows)), random_rows(env, [10**6 + n for n in numbers], NEW)

    def fit_one(key: Key, rows: Transition, new: Transition) -> tuple[FitState, dict[str, Array]]:
        return fitted(jax.random.split(key, 3), in_use(rows, len(rows.reward)), new, member, cfg.fit)

    def act(kind: Array, *args: Any) -> tuple:
        agent = pets.make(cfg, env.spec, member=ending(member, kind, unhealthy))
        return actors(agent, episodes)[1](*args)

    fit = jax.jit(jax.vmap(fit_one))
    begin = jax.jit(jax.vmap(actors(pets.make(cfg, env.spec), episodes)[0]))
    acting = jax.jit(jax.vmap(act, (None, 0, 0, 0, 0, None)))
    fit_keys, play_keys = jax.vmap(lambda n: jax.random.split(jax.random.key(n)))(jnp.array(numbers)).T
    envs = env.make(seeds * episodes)
    found: dict[tuple[str, int, str], dict[str, np.ndarray]] = {}
    for n in rows:
        first_rows = jax.tree.map(lambda leaf, n=n: leaf[:, :n], data)
        (learner, told), (wall, _) = timed(fit, fit_keys, first_rows, new)
        print(f"fitted to {n} rows in {wall:.0f} s", flush=True)
        for i, kind in enumerate(KINDS):
            chosen = lambda *args, i=i: acting(jnp.int32(i), *args)  # noqa: E731
            (returns, _), (wall, _) = timed(play, chosen, learner, begin(play_keys), envs, env.spec.time_limit)
            found["PETS", n, kind] = {"return": returns.mean(1), **(told if kind == "learned" else {})}
            print(f"PETS, {n} rows, {kind}: {returns.mean():.0f}, {wall:.0f} s", flush=True)
    envs.close()
    write_seeds(out / "termination_hopper.csv", HEAD, found, first)
    report(found)
    draw(out / "termination_hopper.png", found, None)
    return found
