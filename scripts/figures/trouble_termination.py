"""Trouble: a model that does not know when an episode ends. Continuous CartPole with no, a learned, and the true end.

PETS: an ensemble is fitted to rows of random actions, and CEM plans in it. All rewards are 1, so that without a
termination all plans are worth the same. MBPO: 800 real steps, with the same three in its imagined rollouts. One
compiled program serves all three terminations of an agent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, save, show, timed
from figures.trouble_overfitting import in_use, random_rows
from figures.troubles import difference, interval, write_seeds
from mbrl_jax import presets
from mbrl_jax.agents import mbpo, pets
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Key, Obs, Replay, StepOut, Transition, WorldModel
from mbrl_jax.envs.cartpole import THETA_LIMIT, X_LIMIT
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.dynamics.fit import FitConfig, FitState, fit_ensemble, init_ensemble
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.models.dynamics.known import TerminationFn
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.loop import LoopConfig, LoopState, make_loop

ENV, ROWS, CHUNKS, LAST = "ContinuousCartPole", (200, 1_000), 6, 2
KINDS = ("none", "learned", "true")
HEAD = ("agent", "rows", "termination", "seed", "return", "missed", "false")
PLAN: dict[str, Any] = {"horizon": 30, "population": 40, "elites": 6, "iterations": 2, "particles": 5}
SMALL: dict[str, Any] = {
    "policy.hidden": (64, 64), "policy.batch": 64, "policy.lr": 1e-3, "model.hidden": (64, 64), "fit.members": 5,
    "fit.elites": 4, "fit.batch": 32, "fit.max_epochs": 30, "rollouts": 256, "first_horizon": 8, "last_horizon": 8,
    "retain": 4, "real_ratio": 0.25,
}  # fmt: skip


def fell(next_obs: Obs, action: Array) -> Array:
    """Whether the pole has fallen or the cart left the rail: the true termination."""
    del action
    return (jnp.abs(next_obs[0]) > X_LIMIT) | (jnp.abs(next_obs[2]) > THETA_LIMIT)


def ending(member: WorldModel, kind: Array, ends: TerminationFn = fell) -> WorldModel:
    """A member of an ensemble that ends its episodes by `KINDS[kind]`, which may be traced; `ends` is the true one."""

    def step(params: Any, key: Key, state: Obs, action: Array) -> StepOut:
        out = member.step(params, key, state, action)
        true = 1.0 - ends(out.state, action).astype(jnp.float32)
        return out._replace(discount=jnp.stack([jnp.ones(()), out.discount, true])[kind])

    return member._replace(step=step)


def settings(plan: dict[str, Any]) -> pets.PETSConfig:
    """PETS with a small ensemble and plan."""
    fit = FitConfig(members=5, elites=5, batch=64, max_epochs=60)
    cfg = pets.PETSConfig(model=GaussianConfig(hidden=(64, 64)), fit=fit)
    return replace(cfg, {f"planner.cem.{name}": value for name, value in plan.items()})


def fitted(
    keys: Key, replay: Replay, new: Transition, member: WorldModel, cfg: FitConfig
) -> tuple[FitState, dict[str, Array]]:
    """The ensemble of one seed, and how well it tells terminal rows from others.

    Args:
      keys: [3] of the initial members, the fit and the question.
      replay: the rows to fit to.
      new: [M, ...] rows that it is asked of.
      member: one member, with a learned termination.
      cfg: of the fit.
    Returns:
      the fitted ensemble; `missed` and `false`, shares [] of new terminal rows that the learned head takes for others,
      and of others that it takes for terminal.
    """
    key_init, key_fit, key_step = keys
    state, _ = fit_ensemble(key_fit, init_ensemble(key_init, model=member, cfg=cfg), replay, model=member, cfg=cfg)
    step, draws = jax.vmap(member.step, (None, 0, 0, 0)), jax.random.split(key_step, len(new.reward))
    going = jax.vmap(lambda params: step(params, draws, new.obs, new.action).discount)(state.params)
    says, ended = jnp.mean(going, axis=0) < 0.5, new.discount == 0
    share = lambda a, b: jnp.sum(a & b) / jnp.maximum(jnp.sum(b), 1)  # noqa: E731
    return state, {"missed": share(~says, ended), "false": share(says, ~ended)}


def planned(key: Key, rows: Array, kind: Array, most: int) -> dict[str, Array]:
    """One seed of PETS with one termination.

    Args:
      key: used once.
      rows: [] number of rows, at most `most`.
      kind: [] index in `KINDS`; the ensemble is the same for all.
      most: rows that are collected; the first `rows` of them count.
    Returns:
      `return` [] of an episode; `missed` and `false`, shares [] of new terminal rows that the learned head takes for
      others, and of others that it takes for terminal.
    """
    env = presets.suited("pets", make_env(ENV))
    cfg = settings(PLAN)
    key_rows, key_new, key_init, key_fit, key_step, key_play = jax.random.split(key, 6)
    data, new = (random_rows(k, env, n) for k, n in ((key_rows, most), (key_new, 2_000)))
    member = gaussian(cfg.model, env.spec)
    state, told = fitted(jnp.stack([key_init, key_fit, key_step]), in_use(data, rows), new, member, cfg.fit)
    agent = pets.make(cfg, env.spec, member=ending(member, kind))
    return {"return": evaluate(agent, env, key_play, state, 1)[0][0], **told}


def learned(chunks: int) -> Callable[[Key, Array], Array]:
    """(key, index in `KINDS`) -> the mean return [] of the last evaluations of MBPO with that termination."""
    env = presets.suited("mbpo", make_env(ENV))
    cfg = replace(presets.preset("mbpo", ENV).agent, SMALL)
    loop_cfg = LoopConfig(updates=20, inner=50, cycles=2, warmup=200, eval_episodes=4, capacity=200 + 100 * chunks)

    def one(key: Key, kind: Array) -> Array:
        agent = mbpo.make(cfg, env.spec, member=ending(gaussian(cfg.model, env.spec), kind))
        loop = make_loop(agent, env, uniform(loop_cfg.capacity), loop_cfg)

        def chunk(state: LoopState, _: None) -> tuple[LoopState, Array]:
            state, done = loop.chunk(state)
            return state, jnp.mean(done.returns)

        return jnp.mean(jax.lax.scan(chunk, loop.init(key), length=chunks)[1][-LAST:])

    return one


def termination(
    out: Path, seeds: int = 8, rows: Sequence[int] = ROWS, chunks: int = CHUNKS, first: int = 0
) -> dict[tuple[str, int, str], dict[str, np.ndarray]]:
    """Plans and learns, and writes `termination.csv` and `termination.png`.

    Args:
      out: folder.
      seeds: of each setting, at least 2.
      rows: that PETS plans from.
      chunks: of 100 real steps of MBPO, after 200 random ones; 0 to leave MBPO out.
      first: the first seed.
    Returns:
      by agent, rows and termination: columns of the table [seeds].
    """
    found: dict[tuple[str, int, str], dict[str, np.ndarray]] = {}
    at, most = keys(seeds, first), max(rows)
    number = jnp.int32(1)
    plan = jax.vmap(lambda key, n, kind: planned(key, n, kind, most), (0, None, None))
    program, _ = compiled(plan, at, number, number)
    for n in rows:
        for i, kind in enumerate(KINDS):
            got, (wall, _) = timed(program, at, jnp.int32(n), jnp.int32(i))
            found["PETS", n, kind] = got if kind == "learned" else {"return": got["return"]}
            print(f"PETS, {n} rows, {kind}: {got['return'].mean():.0f}, {wall:.0f} s", flush=True)
    if chunks:
        program, _ = compiled(jax.vmap(learned(chunks), (0, None)), at, number)
        for i, kind in enumerate(KINDS):
            returns, (wall, _) = timed(program, at, jnp.int32(i))
            found["MBPO", 200 + 100 * chunks, kind] = {"return": returns}
            print(f"MBPO, {kind}: {returns.mean():.0f}, {wall:.0f} s", flush=True)
    write_seeds(out / "termination.csv", HEAD, found, first)
    report(found)
    draw(out / "termination.png", found)
    return found


def report(found: dict[tuple[str, int, str], dict[str, np.ndarray]]) -> None:
    """Prints returns with intervals, and differences from no termination and from the true one."""
    show("Mean over seeds and 95 % interval", ("agent", "rows", "termination", *HEAD[4:]),
         [(a, str(n), k, *(interval(own[c]) if c in own else "-" for c in HEAD[4:]))
          for (a, n, k), own in found.items()])  # fmt: skip
    pairs = (("learned", "none"), ("true", "none"), ("true", "learned"))
    show("Differences of returns, seed by seed", ("agent", "rows", *(f"{a} less {b}" for a, b in pairs)),
         [(agent, str(n), *(difference(found[agent, n, a]["return"], found[agent, n, b]["return"]) for a, b in pairs))
          for agent, n in dict.fromkeys((a, n) for a, n, _ in found)])  # fmt: skip


def draw(path: Path, found: dict[tuple[str, int, str], dict[str, np.ndarray]], top: float | None = 208) -> None:
    """Draws the return of every seed by agent, rows and termination, up to `top`, or to the best if None."""
    groups = list(dict.fromkeys((agent, n) for agent, n, _ in found))
    figure, panels = canvas(len(groups), 3.1 * len(groups), 3.6)
    for axes, (agent, n) in zip(panels, groups, strict=True):
        for i, kind in enumerate(KINDS):
            own = found[agent, n, kind]["return"]
            axes.scatter(i + np.linspace(-0.2, 0.2, len(own)), own, s=16, color=COLOURS[i], alpha=0.6, linewidths=0)
            axes.hlines(own.mean(), i - 0.35, i + 0.35, color=COLOURS[i], linewidth=2.2)
        axes.set_xticks(range(len(KINDS)), KINDS)
        axes.set(title=f"{agent}, {n:,} real steps", ylim=(0, top), xlabel="termination")
    panels[0].set_ylabel("return: seeds, and their mean")
    save(path, figure)
