"""What is timed of the library, each case as it runs in training: compiled, in a scan, on a filled buffer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from benchmark_timing import Case

from mbrl_jax import presets
from mbrl_jax.agents import sac
from mbrl_jax.analysis import flops
from mbrl_jax.buffers.uniform import Ring, append, empty, uniform
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.rollout import branch
from mbrl_jax.core.types import Agent, Array, Box, Buffer, Key, Spec, Transition
from mbrl_jax.models.ensemble import bind
from mbrl_jax.models.fit import FitConfig, trainer
from mbrl_jax.models.gaussian import GaussianConfig, gaussian
from mbrl_jax.train.loop import LoopState, make_loop
from mbrl_jax.train.sweep import over_seeds

SPEC = Spec(Box((3,)), Box((1,), -1.0, 1.0), time_limit=200, terminates=False, name="Pendulum-v1")
ROWS = 10_000


def filled(rows: int = ROWS) -> tuple[Buffer, Ring]:
    """A full buffer of made-up transitions of `SPEC`."""
    key_obs, key_action, key_next = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.normal(key_obs, (rows, 3))
    action = jax.random.uniform(key_action, (rows, 1), minval=-1.0)
    next_obs = obs + 0.1 * jax.random.normal(key_next, (rows, 3)) + 0.1 * action
    data = Transition(obs, action, -jnp.sum(obs**2, 1), jnp.ones(rows), next_obs, jnp.zeros(rows, bool))
    buffer = uniform(rows)
    ring = buffer.init(jax.tree.map(lambda leaf: leaf[0], data))
    return buffer, buffer.add(ring, jax.tree.map(lambda leaf: leaf[None], data))


def products(name: str, left: Sequence[int], right: Sequence[int]) -> Case:
    """Matrix products in a row, [..., m, k] x [..., k, k]."""
    x = jax.random.normal(jax.random.key(0), tuple(left))
    w = jnp.linalg.qr(jax.random.normal(jax.random.key(1), tuple(right)))[0]  # products neither grow nor vanish
    multiply = jax.jit(lambda x, w, n: jax.lax.fori_loop(0, n, lambda _, x: x @ w, x))
    members = left[0] if len(left) == 3 else 1
    count = members * flops.product(left[-2], left[-1], right[-1])
    return Case(name, "jax", lambda n: jax.block_until_ready(multiply(x, w, n)), "product", count)


def sac_updates(agent: Agent, buffer: Buffer) -> Callable[[Any, Ring, Key, Array | int], Any]:
    """(learner, ring, key, n) -> the learner after `n` updates."""

    def run(learner: Any, ring: Ring, key: Key, n: Array | int) -> Any:
        def one(i: Array, learner: Any) -> Any:
            return agent.update(jax.random.fold_in(key, i), learner, buffer.replay(ring))[0]

        return jax.lax.fori_loop(0, n, one, learner)

    return run


def sac_case(name: str, width: int, batch: int, matrix: str, versus: str) -> Case:
    """Updates of soft actor-critic."""
    agent = sac.make(sac.SACConfig(hidden=(width, width), batch=batch), SPEC)
    buffer, ring = filled()
    learner = tree.strip_weak_types(jax.jit(agent.init)(jax.random.key(1)))
    seconds, run = _compile(sac_updates(agent, buffer), learner, ring, jax.random.key(2), 1)
    count = flops.sac_update(3, 1, (width, width), batch)
    return Case(
        name,
        "jax",
        lambda n: jax.block_until_ready(run(learner, ring, jax.random.key(2), n)),
        "update",
        count,
        matrix,
        versus,
        compile_seconds=seconds,
    )


def fit_case(name: str, cfg: FitConfig, model: GaussianConfig, rows: int, matrix: str, versus: str) -> Case:
    """Gradient steps of an ensemble: whole epochs of `trainer.fit`, its scoring of a single held-out batch included."""
    cfg = replace(cfg, {"holdout": 0.0, "max_epochs": 1})
    buffer, ring = filled(rows)
    fitting = trainer(gaussian(model, SPEC), cfg)
    state = tree.strip_weak_types(jax.jit(fitting.init)(jax.random.key(1)))
    seconds, run = _compile(lambda key, state, ring: fitting.fit(key, state, buffer.replay(ring))[0], jax.random.key(2), state, ring)
    count = flops.ensemble_step((4, *model.hidden, 8), cfg.batch, cfg.members)
    return Case(
        name,
        "jax",
        lambda n: jax.block_until_ready(run(jax.random.key(2), state, ring)),
        "step",
        count,
        matrix,
        versus,
        units=-(-(rows - 1) // cfg.batch),
        compile_seconds=seconds,
    )


def rollout_case(name: str, lanes: int, elites: int, width: int, model: GaussianConfig, matrix: str) -> Case:
    """Steps of branched rollouts under a random policy's network, stored as MBPO stores them."""
    member = gaussian(model, SPEC)
    agent = sac.make(sac.SACConfig(hidden=(width, width)), SPEC)
    learner = jax.jit(agent.init)(jax.random.key(1))
    params = jax.vmap(member.init)(jax.random.split(jax.random.key(2), elites))
    buffer, ring = filled(lanes)
    row = jax.tree.map(lambda leaf: leaf[0], buffer.sample(jax.random.key(3), ring, 1))

    def roll(learner: Any, params: Any, starts: Array, imagined: Ring, n: Array | int) -> Ring:
        def store(ring: Ring, rows: Transition, alive: Array) -> Ring:
            return append(ring, rows, alive, lanes)

        def follow(key: Key, obs: Array) -> Array:
            return agent.act(key, learner, (), obs, True)[0]

        return branch(bind(member, params, elites), follow, jax.random.key(4), starts, n, store, imagined)

    args = learner, params, ring.rows.obs, empty(row, lanes)
    seconds, run = _compile(roll, *args, 1)
    count = flops.rollout_step((3, width, width, 2), (4, *model.hidden, 8), lanes)
    go = lambda n: jax.block_until_ready(run(*args, n))  # noqa: E731
    return Case(name, "jax", go, "step", count, matrix, compile_seconds=seconds)


def seeds_cases(width: int, batch: int, counts: Sequence[int], waves: Sequence[int]) -> list[Case]:
    """Updates of soft actor-critic with many seeds; a unit is one seed's update, and one seed alone comes first."""
    agent = sac.make(sac.SACConfig(hidden=(width, width), batch=batch), SPEC)
    buffer, ring = filled()
    count = flops.sac_update(3, 1, (width, width), batch)
    alone = f"seeds_{width}_1_wave_1"
    cases = []
    for seeds in counts:
        keys = jax.random.split(jax.random.key(1), seeds)
        learners = tree.strip_weak_types(jax.jit(jax.vmap(agent.init))(keys))
        rings = jax.tree.map(lambda leaf: jnp.tile(leaf[None], (seeds,) + (1,) * leaf.ndim), ring)  # noqa: B023
        for wave in (w for w in waves if w <= seeds):
            each = over_seeds(lambda seed: sac_updates(agent, buffer)(*seed), wave)
            args = learners, rings, keys
            seconds, run = _compile(
                lambda args, n, each=each, seeds=seeds: each((*args, jnp.broadcast_to(n, (seeds,)))), args, 1
            )
            go = lambda n, run=run, args=args, seeds=seeds: jax.block_until_ready(run(args, -(-n // seeds)))  # noqa: E731
            name = f"seeds_{width}_{seeds}_wave_{wave}"
            cases.append(Case(name, "jax", go, "update", count, versus=alone, compile_seconds=seconds))
    return cases
