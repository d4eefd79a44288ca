"""The figure of slippery FrozenLake: what a model must store of a stochastic environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import band, canvas, compiled, keys, mean_and_error, save, share, show, timed, write_csv
from figures.tabular import tabular_loop
from mbrl_jax.agents import dyna_q, q_learning
from mbrl_jax.agents.dyna_q import DynaQConfig
from mbrl_jax.agents.q_learning import QLearningConfig
from mbrl_jax.core.types import Agent, Array, Env, Key, Spec
from mbrl_jax.envs.discrete import frozen_lake, frozen_lake_mdp
from mbrl_jax.envs.mdp import MDP
from mbrl_jax.planners.value_iteration import greedy, value_iteration
from mbrl_jax.train.loop import LoopState
from mbrl_jax.train.sweep import over_seeds

GAMMA = 0.99
POLICY = QLearningConfig(lr=0.1, gamma=GAMMA, epsilon=0.5)


def agents(policy: QLearningConfig = POLICY, planning: int = 10) -> dict[str, Callable[[Spec], Agent]]:
    """The agents that are compared, by name."""

    def dyna(form: str) -> Callable[[Spec], Agent]:
        return lambda spec: dyna_q.make(DynaQConfig(policy=policy, planning=planning, form=form), spec)

    return {
        "Dyna-Q, expected": dyna("expected"),
        "Dyna-Q, sample": dyna("sample"),
        "Dyna-Q, last outcome": dyna("last"),
        "Q-learning": lambda spec: q_learning.make(policy, spec),
    }


def value_of(mdp: MDP, policy: Array, gamma: float, doublings: int = 12) -> Array:
    """The exact value [] of a policy [S, A] at the start, by matrix products alone.

        V_2k = V_k + (γ P)^k V_k,   V_1 = r

    After 12 doublings the remainder is below γ^4096 of the total. A linear solve would do as well, but batches of them
    on several CPU devices at once can block each other.
    """
    weights = jnp.where(mdp.terminal[:, None], 0.0, policy)
    values = jnp.einsum("sa,sat,sat->s", weights, mdp.transitions, mdp.rewards)
    onward = gamma * jnp.einsum("sa,sat->st", weights, mdp.transitions)
    for _ in range(doublings):
        values, onward = values + onward @ values, onward @ onward
    return values @ mdp.start


def value_curve(make: Callable[[Spec], Agent], env: Env, mdp: MDP, chunks: int, steps: int) -> Callable[[Key], Array]:
    """(key) -> the exact value of the greedy policy at the start, before learning and after each chunk [1 + C]."""
    loop = tabular_loop(make(env.spec), env, steps)

    def value(state: LoopState) -> Array:
        return value_of(mdp, greedy(state.learner.q, 0.0), GAMMA)

    def one(key: Key) -> Array:
        first = loop.init(key)

        def chunk(state: LoopState, _: None) -> tuple[LoopState, Array]:
            state = loop.chunk(state)[0]
            return state, value(state)

        return jnp.concatenate([value(first)[None], jax.lax.scan(chunk, first, None, length=chunks)[1]])

    return one


def frozen_lake_figure(
    out: Path, seeds: int = 100, chunks: int = 40, steps: int = 500, planning: int = 10,
    names: Sequence[str] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The value of the greedy policy against real steps, by form of the model.

    Args:
      out: folder.
      seeds: of each agent.
      chunks: points of a curve.
      steps: real steps between two points.
      planning: n, planned backups per real step.
      names: of `agents`; None for all.
    Returns:
      the mean value over seeds and the second half of the run, by agent; and the optimum.
    """
    devices, start = share(seeds), time.perf_counter()
    env, mdp = frozen_lake(), frozen_lake_mdp()
    optimum = float(value_iteration(mdp, GAMMA)[0] @ mdp.start)
    figure, (axes,) = canvas(1)
    at, rows, table, means = steps * np.arange(chunks + 1), [], [], {"optimum": optimum}
    for i, (name, make) in enumerate(agents(planning=planning).items()):
        if names is not None and name not in names:
            continue
        curve = value_curve(make, env, mdp, chunks, steps)
        run, compiling = compiled(over_seeds(curve, seeds, devices), keys(seeds))
        values, (wall, _) = timed(run, keys(seeds))
        band(axes, at, values, i, name)
        middle, error = mean_and_error(values)
        rows += [(name, int(t), float(m), float(e)) for t, m, e in zip(at, middle, error, strict=True)]
        last, last_error = mean_and_error(values[:, -(chunks // 2) :].mean(1))
        means[name] = float(last)
        over = np.flatnonzero(middle >= 0.9 * optimum)
        table.append((
            name, f"{last:.3f} ± {last_error:.3f}", f"{last / optimum:.1%}", f"{middle[-1]:.3f}",
            f"{np.mean(values[:, -1] >= 0.99 * optimum):.0%}", f"{at[over[0]]:,}" if len(over) else "never",
            f"{wall:.1f}", f"{compiling:.1f}",
        ))  # fmt: skip
    rows.append(("optimum", "", optimum, 0.0))
    write_csv(out / "frozen-lake.csv", ("agent", "steps", "value", "error"), rows)
    axes.axhline(optimum, color="#555555", linestyle="--", linewidth=1.2, label="optimum (value iteration)")
    axes.set(xlabel="real steps", ylabel=f"exact value of the greedy policy at the start (γ = {GAMMA})")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlim=(0, at[-1]), ylim=(0, 1.06 * optimum))
    axes.set_title(f"Slippery FrozenLake, n = {planning}: mean of {seeds} seeds and 95 % interval")
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.48))
    save(out / "frozen-lake.png", figure)
    show(
        f"Slippery FrozenLake: exact value of the greedy policy at the start, optimum {optimum:.4f}, {seeds} seeds, "
        f"n = {planning}, {at[-1]:,} steps; the share of seeds within 1 % of the optimum at the end; the real steps "
        "until the mean is at 90 % of it",
        ("agent", "mean, second half", "of optimum", "end", "within 1 %", "steps to 90 %", "run s", "compile s"),
        table,
    )
    print(f"took {time.perf_counter() - start:.1f} s on {devices} devices")
    return means
