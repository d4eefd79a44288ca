"""Trouble: a tree that keeps the first outcome it drew. Slippery FrozenLake, planned with UCT, PUCT and chance nodes.

All three search in the true tables, with the value of the uniformly random policy at their leaves. A plan from each
state gives a policy, whose value at the start is computed exactly. UCT and PUCT step a sampled model: a node keeps
the one successor that was drawn for it, and the search plans as if the ice would always slip that way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, save, show, timed, write_csv
from figures.troubles import difference, interval
from mbrl_jax.analysis.curves import COLOURS, DASHES
from mbrl_jax.core.types import Array, Discrete, Key, Model, Spec, StepOut
from mbrl_jax.envs.discrete import frozen_lake_mdp
from mbrl_jax.envs.mdp import MDP, policy_evaluation
from mbrl_jax.planners.mcts import PUCT, UCT, puct, uct
from mbrl_jax.planners.mcts.stochastic import ChanceModel, chance
from mbrl_jax.planners.value_iteration import greedy, value_iteration

GAMMA, SIMULATIONS, OUTCOMES = 0.99, (16, 64, 256), 3
PLANNERS = ("UCT", "PUCT", "PUCT, chance nodes")
WORLDS = {"slippery": frozen_lake_mdp, "not slippery": lambda: frozen_lake_mdp(False)}


def random_values(mdp: MDP) -> Array:
    """The values [S] of the uniformly random policy."""
    states, actions, _ = mdp.transitions.shape
    return policy_evaluation(mdp, jnp.full((states, actions), 1.0 / actions), GAMMA)[0]


def sampled_model(mdp: MDP) -> Model:
    """The tables as a model whose steps are drawn."""
    logs, values = jnp.log(mdp.transitions), random_values(mdp)

    def step(key: Key, state: Array, action: Array) -> StepOut:
        after = jax.random.categorical(key, logs[state, action]).astype(jnp.int32)
        return StepOut(after, mdp.rewards[state, action, after], 1.0 - mdp.terminal[after].astype(jnp.float32))

    return Model(step, value=lambda key, state: values[state])


def chance_model(mdp: MDP) -> ChanceModel:
    """The tables in two halves: the afterstate is the pair of state and action, an outcome one of its successors."""
    values = random_values(mdp)
    order = jnp.argsort(-mdp.transitions, axis=-1)[..., :OUTCOMES].astype(jnp.int32)  # [S, A, C] the likeliest ones
    weight = jnp.take_along_axis(mdp.transitions, order, -1)
    reward = jnp.take_along_axis(mdp.rewards, order, -1)
    onward = 1.0 - mdp.terminal.astype(jnp.float32)
    after_value = jnp.sum(weight * (reward + GAMMA * onward[order] * values[order]), -1)  # [S, A]

    def happen(afterstate: Array, outcome: Array) -> StepOut:
        state, action = afterstate
        after = order[state, action, outcome]
        return StepOut(after, reward[state, action, outcome], onward[after])

    def decide(state: Array, action: Array) -> tuple[Array, Array, Array]:
        logits = jnp.log(jnp.maximum(weight[state, action], 1e-12))
        return jnp.stack([state, action]), after_value[state, action], logits

    uniform = jnp.zeros(mdp.transitions.shape[1])
    return ChanceModel(decide, happen, lambda state: values[state], lambda state: uniform)


def planned(mdp: MDP, kind: str, simulations: int) -> Callable[[Key], Array]:
    """(key) -> the exact value [] at the start of the policy that plans anew in each state."""
    states, actions, _ = mdp.transitions.shape
    spec = Spec(Discrete(states), Discrete(actions))
    cfg = PUCT(simulations=simulations, gamma=GAMMA, dirichlet_fraction=0.0, temperature=0.0)
    if kind == "UCT":
        planner, model = uct(UCT(simulations=simulations, gamma=GAMMA), spec), sampled_model(mdp)
    elif kind == "PUCT":
        planner, model = puct(cfg, spec), sampled_model(mdp)
    else:
        planner, model = chance(cfg, spec, OUTCOMES), chance_model(mdp)

    def one(key: Key) -> Array:
        at = jnp.arange(states, dtype=jnp.int32)
        plan = jax.vmap(lambda key, state: planner.plan(key, model, state, planner.init())[0])  # pyright: ignore
        policy = jax.nn.one_hot(plan(jax.random.split(key, states), at), actions)
        return policy_evaluation(mdp, policy, GAMMA)[0] @ mdp.start

    return one


def optimum(mdp: MDP) -> float:
    """The value at the start of the best policy."""
    return float(policy_evaluation(mdp, greedy(value_iteration(mdp, GAMMA)[1]), GAMMA)[0] @ mdp.start)


def chance_nodes(
    out: Path, seeds: int = 8, simulations: Sequence[int] = SIMULATIONS, first: int = 0
) -> dict[tuple[str, str, int], np.ndarray]:
    """Plans, and writes `chance.csv` and `chance.png`.

    Args:
      out: folder.
      seeds: of each planner and budget, at least 2.
      simulations: per plan.
      first: the first seed.
    Returns:
      by lake, planner and simulations: the value at the start [seeds].
    """
    found: dict[tuple[str, str, int], np.ndarray] = {}
    at, best = keys(seeds, first), {}
    for world, tables in WORLDS.items():
        mdp = tables()
        best[world] = optimum(mdp)
        for kind in PLANNERS:
            for n in simulations:
                program, _ = compiled(jax.vmap(planned(mdp, kind, n)), at)
                found[world, kind, n], (wall, _) = timed(program, at)
                value = found[world, kind, n].mean()
                print(f"{world}, {kind}, {n}: {value:.3f} of {best[world]:.3f}, {wall:.1f} s", flush=True)
    table = [(*name, first + i, float(x)) for name, own in found.items() for i, x in enumerate(own)]
    write_csv(out / "chance.csv", ("lake", "planner", "simulations", "seed", "value"), table)
    report(found, best)
    draw(out / "chance.png", found, best)
    return found


def report(found: dict[tuple[str, str, int], np.ndarray], best: dict[str, float]) -> None:
    """Prints values with intervals, and what chance nodes change."""
    sizes = sorted({n for *_, n in found})
    head = ("lake", "planner", *map(str, sizes))
    names = list(dict.fromkeys((world, kind) for world, kind, _ in found))
    show("Exact value at the start: mean over seeds and 95 % interval", head,
         [(*name, *(interval(found[(*name, n)]) for n in sizes)) for name in names])  # fmt: skip
    nodes = PLANNERS[-1]
    show("Chance nodes less another", head,
         [(world, kind, *(difference(found[world, nodes, n], found[world, kind, n]) for n in sizes))
          for world, kind in names if kind != nodes])  # fmt: skip
    print("\nThe best policy: " + ", ".join(f"{world} {value:.4f}" for world, value in best.items()))


def draw(path: Path, found: dict[tuple[str, str, int], np.ndarray], best: dict[str, float]) -> None:
    """Draws the value by simulations, for each lake."""
    figure, panels = canvas(len(best), 4.6 * len(best), 3.7)
    sizes = sorted({n for *_, n in found})
    for axes, (world, value) in zip(panels, best.items(), strict=True):
        for i, kind in enumerate(PLANNERS):
            own = [found[world, kind, n] for n in sizes]
            means, errors = [x.mean() for x in own], [1.96 * x.std(ddof=1) / len(x) ** 0.5 for x in own]
            beside = np.array(sizes) * 1.05 ** (i - 1)
            axes.errorbar(beside, means, errors, fmt=DASHES[i], color=COLOURS[i], marker="o", markersize=4, capsize=2,
                          label=kind)  # fmt: skip
        axes.axhline(value, color="#555555", linestyle=":", label="best policy")
        axes.set(xscale="log", xlabel="simulations per plan", ylabel="exact value at the start", title=world,
                 ylim=(0, 1.08 * value))  # fmt: skip
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
    panels[0].legend(frameon=False, fontsize=8, loc="center right")
    save(path, figure)
