"""Trouble: what is seen is not the state. Models without memory, with stacked observations, and with a recurrent state.

    hidden    the pendulum without its angular velocity
    delayed   the pendulum seen three steps late
    chain     bsuite's MemoryChain: a cue at the start decides ten steps later which action is rewarded

Each model predicts the next observation and the reward from a memory m, the observation and the action, by squared
error on windows of episodes of random actions, and CEM plans in it. What differs is the memory: none, the last three
observations and actions, or the state of a GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from figures.common import canvas, compiled, keys, save, show, timed
from figures.troubles import difference, interval, write_seeds
from mbrl_jax.analysis.curves import COLOURS
from mbrl_jax.core import tree
from mbrl_jax.core.types import Agent, Array, Box, Discrete, Env, Key, Model, StepOut, Transition, no_update
from mbrl_jax.envs import hidden, wrappers
from mbrl_jax.envs.adapters import gymnax
from mbrl_jax.envs.registry import make_env
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.recurrent import gru
from mbrl_jax.planners.mpc import CEM, cem
from mbrl_jax.train.evaluate import evaluate

WORLDS, MODELS = ("hidden", "delayed", "chain"), ("memoryless", "stacked", "recurrent")
STEPS, BATCH, WINDOW, BURN, STACK, DELAY, AHEAD, ROWS = 2_000, 16, 20, 4, 3, 3, 10, 4_000
CHAIN = 10
HEAD = ("world", "model", "seed", "error_1_step", "error_10_steps", "return")


class Memory(NamedTuple):
    """What a model remembers, as functions of parameters."""

    init: Callable[[Key], Any]  # -> params
    empty: Callable[[], Any]  # the memory before the first observation
    update: Callable[[Any, Any, Array, Array], Any]  # (params, memory, observation, action taken there) -> memory
    read: Callable[[Any], Array]  # (memory) -> [M]
    size: int  # M


def delayed(env: Env, steps: int) -> Env:
    """The same environment seen `steps` steps late; before that, its first observation."""

    def reset(key: Key) -> tuple[Any, Array]:
        state, obs = env.reset(key)
        return (state, jnp.tile(obs, (steps, 1))), obs

    def step(key: Key, state: Any, action: Array) -> tuple[Any, Array, Array, Array, Array]:
        inner, obs, reward, discount, last = env.step(key, state[0], action)
        queue = jnp.concatenate([state[1], obs[None]])
        return (inner, queue[1:]), queue[0], reward, discount, last

    return Env(env.spec._replace(name=f"{env.spec.name}-delayed"), reset, step)


def world(name: str) -> Env:
    """An environment by its name in `WORLDS`."""
    if name == "chain":
        return gymnax.make("MemoryChain-bsuite", memory_length=CHAIN)
    pendulum = wrappers.scale_action(make_env("Pendulum-v1"))
    return hidden.hide(pendulum, (2,)) if name == "hidden" else delayed(pendulum, DELAY)


def code(env: Env, action: Array) -> Array:
    """An action as a vector."""
    return jax.nn.one_hot(action, env.spec.action.n) if isinstance(env.spec.action, Discrete) else action


def memory(kind: str, obs: int, action: int) -> Memory:
    """A memory by its name in `MODELS`, for observations and actions of these sizes."""
    if kind == "memoryless":
        return Memory(lambda key: (), lambda: (), lambda p, m, o, a: (), lambda m: jnp.zeros(0), 0)
    if kind == "stacked":
        width = obs + action
        push = lambda p, m, o, a: jnp.concatenate([m[1:], jnp.concatenate([o, a])[None]])  # noqa: E731
        return Memory(lambda key: (), lambda: jnp.zeros((STACK, width)), push, lambda m: m.reshape(-1), STACK * width)
    cell = gru(64, obs, action, 64)
    return Memory(
        cell.init, lambda: jnp.zeros(64), lambda p, m, o, a: cell.apply(p, m, o, cell.ahead(p, a)), lambda m: m, 64
    )


class Fit(NamedTuple):
    """A model and its scales."""

    step: Callable[[Any, Any, Array, Array], tuple[Any, Array, Array]]
    """(params, memory, observation, action as a vector) -> memory, observation, reward"""
    memory: Memory
    init: Callable[[Key], Any]
    change: Array  # [D + 1] spreads of the change of an observation and of the reward


def model_of(kind: str, env: Env, data: Transition) -> Fit:
    """A model of an environment with the scales of the data, episodes [N, T, ...]."""
    assert isinstance(env.spec.obs, Box)
    size = env.spec.obs.size
    action = jax.vmap(jax.vmap(lambda a: code(env, a)))(data.action)
    own = memory(kind, size, action.shape[-1])
    net = mlp(size + action.shape[-1] + own.size, (64, 64), size + 1, "silu")
    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    spread = flat(data.obs).std(0) + 1e-3
    change = jnp.append((flat(data.next_obs) - flat(data.obs)).std(0), data.reward.std()) + 1e-3

    def step(params: Any, m: Any, obs: Array, act: Array) -> tuple[Any, Array, Array]:
        scaled = obs / spread
        out = net.apply(params["net"], jnp.concatenate([scaled, act, own.read(m)])) * change
        return own.update(params["memory"], m, scaled, act), obs + out[:-1], out[-1]

    def init(key: Key) -> Any:
        key_net, key_memory = jax.random.split(key)
        return {"net": net.init(key_net), "memory": own.init(key_memory)}

    return Fit(step, own, init, change)


def along(fit: Fit, params: Any, env: Env, rows: Transition) -> tuple[Any, Array]:
    """Memories before each row of one episode [T, ...], and squared errors [T, D + 1] in spreads of a change."""

    def one(m: Any, row: Transition) -> tuple[Any, tuple[Any, Array]]:
        after, obs, reward = fit.step(params, m, row.obs, code(env, row.action))
        off = jnp.append(obs - row.next_obs, reward - row.reward) / fit.change
        return after, (m, jnp.square(off))

    return jax.lax.scan(one, fit.memory.empty(), rows)[1]


def trained(key: Key, fit: Fit, env: Env, data: Transition, steps: int, window: int, burn: int) -> Any:
    """Parameters after gradient steps on windows of the data; the first `burn` steps of a window do not count."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    lanes, length = data.reward.shape
    key_init, key_train = jax.random.split(key)

    def loss(params: Any, key: Key) -> Array:
        key_lane, key_start = jax.random.split(key)
        lane = jax.random.randint(key_lane, (BATCH,), 0, lanes)
        start = jax.random.randint(key_start, (BATCH,), 0, length - window + 1)
        index = start[:, None] + jnp.arange(window)
        rows = jax.tree.map(lambda leaf: leaf[lane[:, None], index], data)
        return jnp.mean(jax.vmap(lambda row: along(fit, params, env, row)[1])(rows)[:, burn:])

    def step(at: tuple[Any, Any], key: Key) -> tuple[tuple[Any, Any], None]:
        updates, opt = optimizer.update(jax.grad(loss)(at[0], key), at[1])
        return (optax.apply_updates(at[0], updates), opt), None

    params = fit.init(key_init)
    return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key_train, steps))[0][0]


def player(fit: Fit, env: Env, horizon: int) -> Agent:
    """CEM in the model; the carry is the plan, the memory, and the observation and action of before."""
    cfg = CEM(horizon=horizon, population=50, elites=6, iterations=3, particles=1)
    planner = cem(cfg, env.spec)

    def act(key: Key, learner: Any, carry: Any, obs: Array, explore: bool) -> tuple[Array, Any, Any]:
        del explore

        def step(key: Key, state: Any, action: Array) -> StepOut:
            del key
            m, obs, reward = fit.step(learner, state[0], state[1], code(env, action))
            return StepOut((m, obs), reward, jnp.ones(()))

        action, plan, _ = planner.plan(key, Model(step), (carry[1], obs), carry[0])
        return action, (plan, fit.step(learner, carry[1], obs, code(env, action))[0]), ()

    return Agent(fit.init, lambda: (planner.init(), fit.memory.empty()), act, no_update)


def episodes(key: Key, env: Env, count: int, length: int) -> Transition:
    """Episodes [count, length, ...] of random actions, of just that length."""

    def one(key: Key) -> Transition:
        key_reset, key_steps = jax.random.split(key)

        def act(at: Any, key: Key) -> tuple[Any, Transition]:
            key_action, key_step = jax.random.split(key)
            action = env.spec.action.sample(key_action)
            state, after, reward, discount, last = env.step(key_step, at[0], action)
            return (state, after), Transition(at[1], action, reward, discount, after, last)

        return jax.lax.scan(act, env.reset(key_reset), jax.random.split(key_steps, length))[1]

    return jax.vmap(one)(jax.random.split(key, count))


def measured(key: Key, name: str, kind: str, rows: int, steps: int) -> dict[str, Array]:
    """One seed of one model: errors one and ten steps ahead in new episodes, and the return of planning.

    Errors are root mean squares in spreads; in the chain, of the last reward alone.
    """
    env, chain = world(name), name == "chain"
    length = CHAIN + 1 if chain else 200
    key_rows, key_new, key_train, key_play = jax.random.split(key, 4)
    data, new = (episodes(k, env, n, length) for k, n in ((key_rows, rows // length), (key_new, 80 if chain else 10)))
    fit = model_of(kind, env, data)
    window, burn = (length, 0) if chain else (WINDOW, BURN)
    params = trained(key_train, fit, env, data, steps, window, burn)
    memories, squares = jax.vmap(lambda row: along(fit, params, env, row))(new)
    played = jnp.mean(evaluate(player(fit, env, 1 if chain else 15), env, key_play, params, 40 if chain else 2)[0])
    if chain:
        return {"error_1_step": jnp.sqrt(jnp.mean(squares[:, -1, -1])) * fit.change[-1], "return": played}
    starts = jnp.arange(20, length - AHEAD, 20)
    spread = new.obs.reshape(-1, new.obs.shape[-1]).std(0)

    def far(m: Any, row: Transition, at: Array) -> Array:
        ahead = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, at, AHEAD), row)
        go = lambda s, a: (fit.step(params, s[0], s[1], code(env, a))[:2], None)  # noqa: E731
        end = jax.lax.scan(go, (tree.take(m, at), row.obs[at]), ahead.action)[0][1]
        return jnp.square((end - ahead.next_obs[-1]) / spread)

    off = jax.vmap(lambda m, row: jax.vmap(lambda at: far(m, row, at))(starts))(memories, new)
    return {
        "error_1_step": jnp.sqrt(jnp.mean(squares[:, BURN:])),
        "error_10_steps": jnp.sqrt(jnp.mean(off)),
        "return": played,
    }


def partial(
    out: Path, seeds: int = 8, rows: int = ROWS, steps: int = STEPS, first: int = 0
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Learns, measures, and writes `memory.csv` and `memory.png`.

    Args:
      out: folder.
      seeds: of each model and world, at least 2.
      rows: of data.
      steps: gradient steps.
      first: the first seed.
    Returns:
      by world and model: columns of the table [seeds].
    """
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    at = keys(seeds, first)
    for name in WORLDS:
        for kind in MODELS:
            run = lambda key, name=name, kind=kind: measured(key, name, kind, rows, steps)  # noqa: E731
            program, _ = compiled(jax.vmap(run), at)
            found[name, kind], (wall, _) = timed(program, at)
            shown = ", ".join(f"{c} {x.mean():.3g}" for c, x in found[name, kind].items())
            print(f"{name}, {kind}: {shown}, {wall:.0f} s", flush=True)
    write_seeds(out / "memory.csv", HEAD, found, first)
    report(found)
    draw(out / "memory.png", found)
    return found


def report(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """Prints means with intervals, and differences between the memories."""
    head, columns = ("world", "model", *HEAD[3:]), HEAD[3:]
    show("Mean over seeds and 95 % interval; errors in spreads", head,
         [(*pair, *(interval(own[c]) if c in own else "-" for c in columns))
          for pair, own in found.items()])  # fmt: skip
    pairs = (("stacked", "memoryless"), ("recurrent", "memoryless"), ("recurrent", "stacked"))
    show("Differences, seed by seed", ("world", "difference", *columns),
         [(w, f"{a} less {b}",
           *(difference(found[w, a][c], found[w, b][c]) if c in found[w, a] else "-" for c in columns))
          for w in dict.fromkeys(w for w, _ in found) for a, b in pairs])  # fmt: skip


def draw(path: Path, found: dict[tuple[str, str], dict[str, np.ndarray]]) -> None:
    """Draws one-step errors and returns of all seeds, for each world."""
    names = list(dict.fromkeys(name for name, _ in found))
    figure, panels = canvas(len(names), 3.4 * len(names), 5.6, 2)
    titles = {"hidden": "velocity hidden", "delayed": f"seen {DELAY} steps late", "chain": f"a cue {CHAIN} steps ago"}
    for row, column in enumerate(("error_1_step", "return")):
        for place, name in enumerate(names):
            axes = panels[row * len(names) + place]
            for i, kind in enumerate(MODELS):
                own = found[name, kind][column]
                x = i + np.linspace(-0.2, 0.2, len(own))
                axes.scatter(x, own, s=16, color=COLOURS[i], alpha=0.6, linewidths=0)
                axes.hlines(own.mean(), i - 0.35, i + 0.35, color=COLOURS[i], linewidth=2.2)
            axes.set_xticks(range(len(MODELS)), MODELS)
            if row == 0:
                axes.set_title(titles[name])
                axes.set_ylim(bottom=0)
    panels[0].set_ylabel("error one step ahead")
    panels[len(names)].set_ylabel("return of planning")
    save(path, figure)
