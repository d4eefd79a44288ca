"""Trouble: a new task. A model learned without a reward, planned in under three; and a model of another pole.

rewards   an ensemble of the pendulum is fitted to rows of random actions. PETS plans in it under each reward without
          one more real step, beside the same planner in the true dynamics and random actions.
pole      an ensemble of the continuous cart-pole is fitted to 1,000 rows. The pole grows to four times its length:
          planning with the old ensemble, with one that is fitted further to rows of the long pole, and with a new
          one of these rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from figures.common import canvas, compiled, keys, save, show, timed
from figures.trouble_overfitting import in_use, random_rows
from figures.trouble_termination import PLAN, fell, settings
from figures.troubles import difference, interval, write_seeds
from mbrl_jax import presets
from mbrl_jax.agents import mpc, pets
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Agent, Array, Env, Key, Transition, no_update
from mbrl_jax.envs.cartpole import BALANCE, continuous_cartpole
from mbrl_jax.envs.registry import make_env
from mbrl_jax.envs.sparse import rewarded
from mbrl_jax.models.dynamics.fit import FitState, fit_ensemble, init_ensemble
from mbrl_jax.models.dynamics.gaussian import gaussian
from mbrl_jax.models.dynamics.known import RewardFn
from mbrl_jax.train.evaluate import evaluate

ROWS, NEW_ROWS, OLD_ROWS, LONGER = (200, 1_000, 5_000), (50, 200, 1_000), 1_000, 4.0
WAYS = ("old", "fitted further", "anew")
EPISODES = 2  # of a seed
HEAD = ("change", "case", "rows", "seed", "return", "error", "true_dynamics", "random")
SWING: dict[str, Any] = {"horizon": 15, "population": 40, "elites": 6, "iterations": 3, "particles": 5}


def angle_of(obs: Array) -> Array:
    """θ [] of the pendulum, 0 upright."""
    return jnp.arctan2(obs[1], obs[0])


REWARDS: dict[str, RewardFn] = {
    "upright": lambda obs, action: -jnp.square(angle_of(obs)) - 0.1 * jnp.square(obs[2]),
    "sideways": lambda obs, action: -jnp.square(angle_of(obs) - 0.5 * jnp.pi) - 0.1 * jnp.square(obs[2]),
    "spin": lambda obs, action: obs[2] / 8.0,
}
"""Of the next observation (cos θ, sin θ, θ̇): stand, lie to the left, turn as fast as can be."""


def change_error(cfg: pets.PETSConfig, env: Env, fitted: FitState, rows: Transition) -> Array:
    """Root mean square error [] of the members' mean one step ahead, in spreads of the change."""
    moments = gaussian(cfg.model, env.spec).moments
    assert moments is not None
    mean = jax.vmap(jax.vmap(moments, (None, 0, 0)), (0, None, None))(fitted.params, rows.obs, rows.action)[0].mean(0)
    off = (mean[:, :-1] - rows.next_obs) / (rows.next_obs - rows.obs).std(0)
    return jnp.sqrt(jnp.mean(jnp.square(off)))


def aimless(env: Env) -> Agent:
    """Random actions."""
    return Agent(
        lambda key: (),
        lambda: (),
        lambda key, learner, carry, obs, explore: (env.spec.action.sample(key), carry, ()),
        no_update,
    )


def one_of(index: Array) -> RewardFn:
    """The reward of an index in `REWARDS`, which may be traced."""
    return lambda obs, action: jnp.stack([reward(obs, action) for reward in REWARDS.values()])[index]


def by_reward(key: Key, rows: Array, index: Array, most: int) -> dict[str, Array]:
    """One seed of the pendulum's ensemble under one reward: `return` [] of planning in it, `true_dynamics` [] and
    `random` [], the returns of the same planner in those and of random actions, and `error` [] on new rows.
    """
    env = presets.suited("pets", make_env("Pendulum-v1"))
    cfg, reward = settings(SWING), one_of(index)
    key_rows, key_new, key_init, key_fit, key_play = jax.random.split(key, 5)
    data, new = (random_rows(k, env, n) for k, n in ((key_rows, most), (key_new, 2_000)))
    member = gaussian(cfg.model, env.spec)
    start = init_ensemble(key_init, model=member, cfg=cfg.fit)
    fitted, _ = fit_ensemble(key_fit, start, in_use(data, rows), model=member, cfg=cfg.fit)
    task = rewarded(env, reward)
    truly = mpc.make(mpc.MPCConfig(planner=replace(cfg.planner, {"cem.particles": 1})), task)
    model, best, least = (
        jnp.mean(evaluate(agent, where, key_play, learner, EPISODES)[0])
        for agent, where, learner in (
            (pets.make(cfg, env.spec, reward=reward), task, fitted),
            (truly, presets.suited("mpc", task), ()),
            (aimless(env), task, ()),
        )
    )
    error = change_error(cfg, env, fitted, new)
    return {"return": model, "error": error, "true_dynamics": best, "random": least}


def by_pole(key: Key, rows: Array, way: Array, most: int) -> dict[str, Array]:
    """One seed of the long pole with so many rows of it: `return` [] and `error` [] of a way in `WAYS`."""
    old, new = (
        presets.suited("pets", continuous_cartpole(physics=physics))
        for physics in (BALANCE, BALANCE._replace(half_length=LONGER * BALANCE.half_length))
    )
    cfg = settings(PLAN)
    key_old, key_new, key_test, key_init, key_fit, key_again, key_play = jax.random.split(key, 7)
    before, data, test = (
        random_rows(k, env, n) for k, env, n in ((key_old, old, OLD_ROWS), (key_new, new, most), (key_test, new, 500))
    )
    member = gaussian(cfg.model, old.spec)
    start = init_ensemble(key_init, model=member, cfg=cfg.fit)
    fit = lambda key, state, replay: fit_ensemble(key, state, replay, model=member, cfg=cfg.fit)[0]  # noqa: E731
    first = fit(key_fit, start, in_use(before, OLD_ROWS))
    again = fit(key_again, tree.where(way == WAYS.index("anew"), start, first), in_use(data, rows))
    own = tree.where(way == WAYS.index("old"), first, again)
    agent = pets.make(cfg, new.spec, termination=fell)
    returns = evaluate(agent, new, key_play, own, EPISODES)[0]
    return {"return": jnp.mean(returns), "error": change_error(cfg, new, own, test)}


def transfer(
    out: Path, seeds: int = 8, rows: Sequence[int] = ROWS, new_rows: Sequence[int] = NEW_ROWS, first: int = 0
) -> dict[tuple[str, str, int], dict[str, np.ndarray]]:
    """Fits and plans, and writes `transfer.csv` and `transfer.png`.

    Args:
      out: folder.
      seeds: of each, at least 2.
      rows: of the pendulum.
      new_rows: of the long pole.
      first: the first seed.
    Returns:
      by change ("reward" or "pole"), case and rows: columns of the table [seeds]; "old" has 0 rows of the long pole.
    """
    found: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}
    at = keys(seeds, first)
    number = jnp.int32(1)
    run = jax.vmap(lambda key, n, i: by_reward(key, n, i, max(rows)), (0, None, None))
    program, _ = compiled(run, at, number, number)
    for i, name in enumerate(REWARDS):
        for n in rows:
            found["reward", name, n], (wall, _) = timed(program, at, jnp.int32(n), jnp.int32(i))
            print(f"{name}, {n} rows: {found['reward', name, n]['return'].mean():.2f}, {wall:.0f} s", flush=True)
    run = jax.vmap(lambda key, n, i: by_pole(key, n, i, max(new_rows)), (0, None, None))
    program, _ = compiled(run, at, number, number)
    for i, way in enumerate(WAYS):
        for n in new_rows[:1] if way == "old" else new_rows:
            case = "pole", way, 0 if way == "old" else n
            found[case], (wall, _) = timed(program, at, jnp.int32(n), jnp.int32(i))
            print(f"pole, {way}, {n} rows: {found[case]['return'].mean():.0f}, {wall:.0f} s", flush=True)
    write_seeds(out / "transfer.csv", HEAD, found, first)
    report(found)
    draw(out / "transfer.png", found)
    return found


def report(found: dict[tuple[str, str, int], dict[str, np.ndarray]]) -> None:
    """Prints returns with intervals, what the true dynamics would add, and what old rows are worth on the long pole."""
    rewards = [(case, n, own) for (change, case, n), own in found.items() if change == "reward"]
    show("One model, three rewards", ("reward", "rows", "return", "true dynamics", "random", "true less it", "error"),
         [(case, str(n), *(interval(own[name]) for name in ("return", "true_dynamics", "random")),
           difference(own["true_dynamics"], own["return"]), interval(own["error"]))
          for case, n, own in rewards])  # fmt: skip
    poles = [(case, n, own) for (change, case, n), own in found.items() if change == "pole"]
    show("The long pole, of at most 200", ("model", "rows", "return", "error"),
         [(case, str(n), interval(own["return"]), interval(own["error"])) for case, n, own in poles])  # fmt: skip
    new = [n for change, case, n in found if (change, case) == ("pole", "anew")]
    pairs = (("fitted further", "anew"), ("old", "anew"), ("fitted further", "old"))
    own = lambda way, n, c: found["pole", way, 0 if way == "old" else n][c]  # noqa: E731
    show("Seed by seed", ("difference", "rows", "return", "error"),
         [(f"{a} less {b}", str(n), *(difference(own(a, n, c), own(b, n, c)) for c in ("return", "error")))
          for n in new for a, b in pairs])  # fmt: skip


def share(own: dict[str, np.ndarray]) -> np.ndarray:
    """Returns of planning in a model [seeds], 0 the mean of random actions and 1 that of the true dynamics."""
    least, best = own["random"].mean(), own["true_dynamics"].mean()
    return (own["return"] - least) / (best - least)


def draw(path: Path, found: dict[tuple[str, str, int], dict[str, np.ndarray]]) -> None:
    """Draws shares by rows for each reward, and returns and errors on the long pole by rows of it."""
    figure, panels = canvas(3, 12.5, 3.7)

    def line(axes: Any, change: str, case: str, column: str, colour: int) -> None:
        sizes = sorted(n for a, b, n in found if (a, b) == (change, case))
        own = [share(found[change, case, n]) if column == "share" else found[change, case, n][column] for n in sizes]
        means, errors = [x.mean() for x in own], [1.96 * x.std(ddof=1) / len(x) ** 0.5 for x in own]
        if sizes == [0]:
            axes.axhline(means[0], color=COLOURS[colour], label=case)
            axes.axhspan(means[0] - errors[0], means[0] + errors[0], color=COLOURS[colour], alpha=0.15, linewidth=0)
            return
        x = np.array(sizes) * 1.03 ** (colour - 1)
        axes.errorbar(x, means, errors, color=COLOURS[colour], marker="o", markersize=4, capsize=2, label=case)
        axes.set(xscale="log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()

    for i, name in enumerate(REWARDS):
        line(panels[0], "reward", name, "share", i)
    panels[0].axhline(1.0, color="#555555", linestyle=":")
    panels[0].set(xlabel="rows of random actions", ylabel="share of the true dynamics' return",
                  title="one model, three rewards")  # fmt: skip
    for axes, column in ((panels[1], "return"), (panels[2], "error")):
        for i, way in enumerate(WAYS):
            line(axes, "pole", way, column, i)
        axes.set(xlabel="rows of the long pole")
    panels[1].set(ylabel="return of planning", title="a longer pole", ylim=(0, 208))
    panels[2].set(ylabel="error one step ahead, spreads", yscale="log", title="its model")
    for axes in panels[:2]:
        axes.legend(frameon=False, fontsize=8)
    save(path, figure)
