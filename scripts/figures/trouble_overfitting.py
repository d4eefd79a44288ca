"""Trouble: a model that knows its rows by heart. Fits to 200, 1,000 and 5,000 rows, and what planning in them returns.

All models are Gaussian networks of two layers of 64 units, fitted to rows of random actions on the pendulum. Without a
hold-out a fit makes 2,000 gradient steps; with one it stops by the error on a fifth of the rows. Errors are on 2,000
further rows, in spreads; returns are of PETS planning with CEM in the model. One compiled program serves all numbers of
rows: a buffer for the most, of which so many are in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from figures.common import canvas, compiled, keys, save, show, timed
from figures.troubles import difference, interval, write_seeds
from mbrl_jax import presets
from mbrl_jax.agents import pets
from mbrl_jax.analysis import model_error
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Env, Key, Replay, Transition
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.dynamics import fit as fits
from mbrl_jax.models.dynamics.ensemble import bind, ensemble
from mbrl_jax.models.dynamics.fit import FitConfig, FitState
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.train.evaluate import evaluate

ENV, ROWS, STEPS, BATCH, HORIZON = "Pendulum-v1", (200, 1_000, 5_000), 2_000, 64, 20
VARIANTS: dict[str, dict[str, Any]] = {
    "one model": {"members": 1},
    "weight decay": {"members": 1, "decay": 1e-2},
    "hold-out": {"members": 1, "holdout": True},
    "ensemble": {"members": 5},
    "ensemble, hold-out": {"members": 5, "holdout": True},
}
HEAD = ("rows", "model", "seed", "error_trained", "error_new", "error_20_steps", "nll_new", "return")


def random_rows(key: Key, env: Env, count: int, length: int = 200) -> Transition:
    """Rows [count, ...] of random actions, one after the other in runs of `length`, whose episodes begin anew."""
    episodes = -(-count // length)

    def one(key: Key) -> Transition:
        key_reset, key_steps = jax.random.split(key)
        state, obs = env.reset(key_reset)

        def act(at: Any, key: Key) -> tuple[Any, Transition]:
            state, obs = at
            key_action, key_step, key_again = jax.random.split(key, 3)
            action = env.spec.action.sample(key_action)
            state, after, reward, discount, last = env.step(key_step, state, action)
            return tree.where(last, env.reset(key_again), (state, after)), Transition(
                obs, action, reward, discount, after, last
            )

        return jax.lax.scan(act, (state, obs), jax.random.split(key_steps, length))[1]

    rows = jax.vmap(one)(jax.random.split(key, episodes))
    return jax.tree.map(lambda leaf: leaf[:count], tree.flatten_dims(rows, 2))


def in_use(rows: Transition, count: Array | int) -> Replay:
    """A replay of the first rows alone."""
    buffer = uniform(len(rows.reward))
    ring = buffer.add(buffer.init(tree.take(rows, 0)), jax.tree.map(lambda leaf: leaf[None], rows))
    return buffer.replay(ring._replace(size=jnp.int32(count)))


def settings(members: int, decay: float = 5e-5) -> pets.PETSConfig:
    """PETS with a small ensemble and a small plan."""
    fit = FitConfig(members=members, elites=members, batch=BATCH, max_epochs=300)
    cfg = pets.PETSConfig(model=GaussianConfig(hidden=(64, 64), weight_decay=decay), fit=fit)
    plan = {"horizon": 15, "population": 40, "elites": 6, "iterations": 3, "particles": 5}
    return replace(cfg, {f"planner.cem.{name}": value for name, value in plan.items()})


def fitted(key: Key, cfg: pets.PETSConfig, env: Env, replay: Replay, holdout: bool, steps: int) -> FitState:
    """An ensemble fitted with early stopping, or by a fixed number of gradient steps on all rows but one."""
    member = gaussian(cfg.model, env.spec)
    key_init, key_fit = jax.random.split(key)
    state = fits.init_ensemble(key_init, model=member, cfg=cfg.fit)
    if holdout:
        return fits.fit_ensemble(key_fit, state, replay, model=member, cfg=cfg.fit)[0]
    key_split, key_drawn, key_train = jax.random.split(key_fit, 3)
    whole, optimizer = ensemble(member, cfg.fit.members), optax.adam(cfg.fit.lr)
    split = fits.holdout_split(key_split, replay, holdout=0.0, max_holdout=1)
    params = fits.calibrate(whole, state.params, replay, split, max_holdout=1)
    drawn = fits.bootstrap(key_drawn, split, members=cfg.fit.members, capacity=replay.capacity)
    if cfg.fit.members == 1:  # one model has all rows
        drawn = jnp.arange(replay.capacity, dtype=jnp.int32)[None] % split.trained
    epochs = jnp.maximum(1, steps // -(-replay.size // BATCH))

    def one(i: Array, at: tuple[Any, Any]) -> tuple[Any, Any]:
        params, opt, _ = fits.epoch(
            jax.random.fold_in(key_train, i), *at, replay, split, drawn, model=whole, optimizer=optimizer, batch=BATCH
        )
        return params, opt

    params, opt = jax.lax.fori_loop(0, epochs, one, (params, state.opt))
    return state._replace(params=params, opt=opt)


def measured(key: Key, rows: Array, variant: dict[str, Any], most: int, steps: int, episodes: int) -> dict[str, Array]:
    """One seed of one model: predictions on trained and new rows and 20 steps ahead, and returns of planning.

    Args:
      key: used once.
      rows: [] number of rows, at most `most`.
      variant: of `VARIANTS`.
      most: rows that are collected; the first `rows` of them count.
      steps: gradient steps of a fit without a hold-out.
      episodes: of planning.
    """
    env = presets.suited("pets", make_env(ENV))
    cfg = settings(variant["members"], variant.get("decay", 5e-5))
    key_rows, key_new, key_fit, key_roll, key_play = jax.random.split(key, 5)
    data, new = random_rows(key_rows, env, most), random_rows(key_new, env, 2_000)
    state = fitted(key_fit, cfg, env, in_use(data, rows), variant.get("holdout", False), steps)
    member = gaussian(cfg.model, env.spec)
    assert member.moments is not None
    moments = jax.vmap(jax.vmap(member.moments, (None, 0, 0)), (0, None, None))
    found: dict[str, Array] = {}
    for name, own in (("trained", data), ("new", new)):
        counts = jnp.arange(len(own.reward)) < (rows if name == "trained" else len(own.reward))
        over = lambda x, counts=counts: jnp.sum(jnp.where(counts, x, 0.0)) / jnp.sum(counts)  # noqa: E731
        mean, std = moments(state.params, own.obs, own.action)  # [E, N, 4]
        real = jnp.concatenate([own.next_obs, own.reward[:, None]], 1)
        scale = (real - jnp.concatenate([own.obs, jnp.zeros_like(own.reward)[:, None]], 1)).std(0)
        off = (mean - real) / scale
        found[f"error_{name}"] = jnp.sqrt(over(jnp.mean(jnp.square(off.mean(0)), 1)))
        log_density = -0.5 * jnp.square((mean - real) / std) - jnp.log(std / scale) - 0.5 * jnp.log(2 * jnp.pi)
        mixed = jax.nn.logsumexp(log_density.sum(-1), axis=0) - jnp.log(mean.shape[0])
        found[f"nll_{name}"] = -over(mixed) / real.shape[1]
    starts = new.obs.reshape(-1, 200, 3)[:, ::40][:, :4].reshape(-1, 3)
    index = jnp.arange(10)[:, None] * 200 + jnp.arange(4)[None] * 40
    along = index.reshape(-1, 1) + jnp.arange(HORIZON)
    model = bind(member, state.params, members=cfg.fit.members)
    assert model.at is not None
    at = model.at

    def roll(i: Array, key: Key, start: Array, actions: Array) -> Array:
        def step(obs: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
            out = at(i).step(jax.random.fold_in(key, x[0]), obs, x[1])
            return out.state, out.state

        return jax.lax.scan(step, start, (jnp.arange(HORIZON), actions))[1]

    each = lambda i: jax.vmap(lambda s, a: roll(i, key_roll, s, a))(starts, new.action[along])  # noqa: E731
    found["rolled"] = jnp.moveaxis(jax.vmap(each)(jnp.arange(cfg.fit.members)), 0, 1)  # [N, E, H, 3]
    found["real"] = new.next_obs[along]
    agent = pets.make(cfg, env.spec)
    found["return"] = jnp.mean(evaluate(agent, env, key_play, state, episodes)[0])
    return found


def overfitting(
    out: Path, seeds: int = 8, rows: Sequence[int] = ROWS, steps: int = STEPS, episodes: int = 2, first: int = 0
) -> dict[tuple[int, str], dict[str, np.ndarray]]:
    """Fits, measures, and writes `overfitting.csv` and `overfitting.png`.

    Args:
      out: folder.
      seeds: of each model, at least 2.
      rows: numbers of rows.
      steps: gradient steps of a fit at most.
      episodes: of planning, for each seed.
      first: the first seed.
    Returns:
      by rows and model: columns of the table [seeds].
    """
    found: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    at, most = keys(seeds, first), max(rows)
    for name, variant in VARIANTS.items():
        run = lambda key, count, variant=variant: measured(key, count, variant, most, steps, episodes)  # noqa: E731
        program, _ = compiled(jax.vmap(run, (0, None)), at, jnp.int32(1))
        for count in rows:
            got, (wall, _) = timed(program, at, jnp.int32(count))
            far = [
                model_error.horizon_errors(rolled, real, np.ones(real.shape[:2], bool)).mean[-1]
                for rolled, real in zip(got.pop("rolled"), got.pop("real"), strict=True)
            ]
            found[count, name] = got | {"error_20_steps": np.array(far)}
            print(f"{count} rows, {name}: {wall:.0f} s, return {got['return'].mean():.0f}", flush=True)
    write_seeds(out / "overfitting.csv", HEAD, dict(sorted(found.items(), key=lambda item: item[0][0])), first)
    report(found)
    draw(out / "overfitting.png", found)
    return found


def report(found: dict[tuple[int, str], dict[str, np.ndarray]]) -> None:
    """Prints means with intervals, and differences from one model of as many rows."""
    columns = ("error_trained", "error_new", "error_20_steps", "nll_new", "return")
    found = dict(sorted(found.items(), key=lambda item: item[0][0]))
    rows = [(str(n), name, *(interval(own[c]) for c in columns)) for (n, name), own in found.items()]
    show("Errors in spreads; mean over seeds and 95 % interval", ("rows", "model", *columns), rows)
    rows = [
        (str(n), name, *(difference(own[c], found[n, "one model"][c]) for c in columns[1:]))
        for (n, name), own in found.items()
        if name != "one model"
    ]
    show("Less that of one model, seed by seed", ("rows", "model", *columns[1:]), rows)


def draw(path: Path, found: dict[tuple[int, str], dict[str, np.ndarray]]) -> None:
    """Draws errors on trained and new rows, 20 steps ahead, and returns, by rows."""
    panels_of = {
        "error_new": "one-step error, new rows (dotted: trained)", "error_20_steps": "error 20 steps ahead",
        "return": "return of planning",
    }  # fmt: skip
    figure, panels = canvas(3, 12.5, 3.7)
    sizes = sorted({count for count, _ in found})
    for axes, (column, title) in zip(panels, panels_of.items(), strict=True):
        for i, name in enumerate(VARIANTS):
            means = np.array([found[n, name][column].mean() for n in sizes])
            errors = np.array([1.96 * found[n, name][column].std(ddof=1) / len(found[n, name][column]) ** 0.5
                               for n in sizes])  # fmt: skip
            x = np.array(sizes) * 1.04 ** (i - 2)
            axes.errorbar(x, means, errors, color=COLOURS[i], marker="o", markersize=4, capsize=2, label=name)
            if column == "error_new":
                axes.plot(x, [found[n, name]["error_trained"].mean() for n in sizes], ":", color=COLOURS[i])
        axes.set(xscale="log", xlabel="rows", title=title)
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        if column != "return":
            axes.set_yscale("log")
    panels[0].legend(frameon=False, fontsize=8)
    save(path, figure)
