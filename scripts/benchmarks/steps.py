"""The library's timed cases, each as it runs in training: compiled, in a loop, on a full buffer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import Case
from mbrl_jax import presets
from mbrl_jax.agents import sac
from mbrl_jax.analysis import flops
from mbrl_jax.buffers.uniform import Ring, append, empty, uniform
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.rollout import branch
from mbrl_jax.core.types import Array, Box, Buffer, Key, Spec, Transition
from mbrl_jax.models.dynamics.ensemble import bind
from mbrl_jax.models.dynamics.fit import FitConfig, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.planners.mpc.cem import CEM, cem
from mbrl_jax.train import loop as loops
from mbrl_jax.train.sweep import over_seeds, place

SPEC = Spec(Box((3,)), Box((1,), -1.0, 1.0), time_limit=200, terminates=False, name="Pendulum-v1")


def filled(rows: int) -> tuple[Buffer, Ring]:
    """A full buffer of random transitions of `SPEC`."""
    key_obs, key_action, key_next = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.normal(key_obs, (rows, 3))
    action = jax.random.uniform(key_action, (rows, 1), minval=-1.0)
    next_obs = obs + 0.1 * jax.random.normal(key_next, (rows, 3)) + 0.1 * action
    data = Transition(obs, action, -jnp.sum(obs**2, 1), jnp.ones(rows), next_obs, jnp.zeros(rows, bool))
    buffer = uniform(rows)
    ring = buffer.init(jax.tree.map(lambda leaf: leaf[0], data))
    return buffer, buffer.add(ring, jax.tree.map(lambda leaf: leaf[None], data))


def case(name: str, unit: str, fn: Callable[..., Any], args: tuple, **rest: Any) -> Case:
    """A case of `fn(*args, n)`, which does its work `n` times; it is compiled here."""
    start = time.perf_counter()
    compiled = jax.jit(fn).lower(*args, jnp.int32(1)).compile()
    seconds = time.perf_counter() - start

    def run(n: int) -> None:
        jax.block_until_ready(compiled(*args, jnp.int32(n)))

    return Case(name, "jax", run, unit, compile_seconds=seconds, **rest)


def products(name: str, left: Sequence[int], right: Sequence[int]) -> Case:
    """Successive matrix products, [..., m, k] x [..., k, k]."""
    x = jax.random.normal(jax.random.key(0), tuple(left))
    w = jnp.linalg.qr(jax.random.normal(jax.random.key(1), tuple(right)))[0]  # so that x neither grows nor vanishes
    count = (left[0] if len(left) == 3 else 1) * flops.product(left[-2], left[-1], right[-1])
    return case(name, "product", lambda x, w, n: jax.lax.fori_loop(0, n, lambda _, x: x @ w, x), (x, w), flops=count)


def _sac(width: int, batch: int, rows: int) -> tuple[Callable[..., Any], Callable[[Key], Any], Ring]:
    """A function of `n` updates of a learner, the learner's `init`, and a full buffer."""
    agent = sac.make(sac.SACConfig(hidden=(width, width), batch=batch), SPEC)
    buffer, ring = filled(rows)

    def updates(learner: Any, ring: Ring, key: Key, n: Array) -> Any:
        def one(i: Array, learner: Any) -> Any:
            return agent.update(jax.random.fold_in(key, i), learner, buffer.replay(ring))[0]

        return jax.lax.fori_loop(0, n, one, learner)

    return updates, lambda key: tree.strip_weak_types(agent.init(key)), ring


def sac_update(name: str, width: int, batch: int, rows: int, **rest: Any) -> Case:
    """Updates of soft actor-critic."""
    updates, init, ring = _sac(width, batch, rows)
    args = jax.jit(init)(jax.random.key(1)), ring, jax.random.key(2)
    return case(name, "update", updates, args, flops=flops.sac_update(3, 1, (width, width), batch), **rest)


def seeds(width: int, batch: int, rows: int, counts: Sequence[int], waves: Sequence[int], matrix: str) -> list[Case]:
    """Updates of soft actor-critic for many seeds; the unit is one seed's update, and one seed alone comes first.

    Each wave size is timed on one device, and with the seeds divided among all devices.
    """
    updates, init, ring = _sac(width, batch, rows)
    cases = []
    for count in counts:
        keys = jax.random.split(jax.random.key(1), count)
        args = jax.jit(jax.vmap(init))(keys), jax.tree.map(jnp.array, tree.tile(ring, count)), keys
        shares = sorted({1, jax.device_count()})
        for wave, share in ((w, d) for d in shares for w in waves if count % (w * d) == 0):

            def every(learners: Any, rings: Ring, keys: Key, n: Array, wave: int = wave, share: int = share) -> Any:
                def one(seed: tuple[Any, Ring, Key]) -> Any:
                    return updates(*seed, n)

                return over_seeds(one, wave, share)((learners, rings, keys))

            name = f"seeds_{width}_{count}_wave_{wave}" + (f"_on_{share}" if share > 1 else "")
            each = flops.sac_update(3, 1, (width, width), batch)
            made = case(
                name, "update", every, place(args, share), flops=each, units=count, matrix=matrix,
                versus=f"seeds_{width}_1_wave_1",
            )  # fmt: skip
            cases.append(made)
    return cases


def ensemble_step(name: str, cfg: FitConfig, model: GaussianConfig, rows: int, **rest: Any) -> Case:
    """Gradient steps of an ensemble: an epoch of `trainer.fit`, with the scales and one batch of held-out rows."""
    buffer, ring = filled(rows)
    fitting = trainer(gaussian(model, SPEC), replace(cfg, {"holdout": 0.0, "max_epochs": 1}))
    state = jax.jit(fitting.init)(jax.random.key(1))

    def epochs(state: Any, ring: Ring, key: Key, n: Array) -> Any:
        def one(i: Array, state: Any) -> Any:
            return fitting.fit(jax.random.fold_in(key, i), state, buffer.replay(ring))[0]

        return jax.lax.fori_loop(0, n, one, state)

    count = flops.ensemble_step((4, *model.hidden, 8), cfg.batch, cfg.members)
    steps = -(-(rows - 1) // cfg.batch)
    return case(name, "step", epochs, (state, ring, jax.random.key(2)), flops=count, units=steps, **rest)


def rollout_step(name: str, batch: int, elites: int, width: int, model: GaussianConfig, **rest: Any) -> Case:
    """Steps of branched rollouts of a policy, stored as MBPO stores them."""
    member = gaussian(model, SPEC)
    agent = sac.make(sac.SACConfig(hidden=(width, width)), SPEC)
    learner = jax.jit(agent.init)(jax.random.key(1))
    params = jax.vmap(member.init)(jax.random.split(jax.random.key(2), elites))
    ring = filled(batch)[1]
    imagined = empty(jax.tree.map(lambda leaf: leaf[0], ring.rows), batch)

    def roll(learner: Any, params: Any, starts: Array, imagined: Ring, key: Key, n: Array) -> Ring:
        def follow(key: Key, state: Array) -> Array:
            return agent.act(key, learner, (), state, True)[0]

        def store(ring: Ring, rows: Transition, alive: Array) -> Ring:
            return append(ring, rows, alive, batch)

        return branch(bind(member, params, elites), follow, key, starts, n, store, imagined)

    count = flops.rollout_step((3, width, width, 2), (4, *model.hidden, 8), batch)
    args = learner, params, ring.rows.obs, imagined, jax.random.key(3)
    return case(name, "step", roll, args, flops=count, **rest)


def cem_plan(name: str, cfg: CEM, members: int, model: GaussianConfig, **rest: Any) -> Case:
    """Successive plans of the cross-entropy method, as in an episode, with an ensemble as the model."""
    member, planner = gaussian(model, SPEC), cem(cfg, SPEC)
    params = jax.vmap(member.init)(jax.random.split(jax.random.key(1), members))

    def plans(params: Any, obs: Array, warm: Array, key: Key, n: Array) -> Array:
        def one(i: Array, warm: Array) -> Array:
            return planner.plan(jax.random.fold_in(key, i), bind(member, params, members), obs, warm)[1]

        return jax.lax.fori_loop(0, n, one, warm)

    batch, steps = cfg.population * cfg.particles, cfg.horizon * cfg.iterations
    count = steps * flops.forward((4, *model.hidden, 8), batch)
    args = params, jnp.array([1.0, 0.0, 0.0]), planner.init(), jax.random.key(2)
    return case(name, "plan", plans, args, flops=count, **rest)


def env_step(name: str, algo: str, changes: dict[str, Any], loop_changes: dict[str, Any], **rest: Any) -> Case:
    """Environment steps of a preset's training loop on Pendulum: acting, storing, refreshing, updating, evaluating."""
    preset = presets.preset(algo, "Pendulum-v1")
    agent, cfg = replace(preset.agent, changes), replace(preset.loop, loop_changes)
    loop = presets.build(algo, "Pendulum-v1", agent, cfg)
    state = jax.jit(loop.init)(jax.random.key(0))
    start = time.perf_counter()
    chunk = jax.jit(loop.chunk, donate_argnums=0).lower(state).compile()
    seconds = time.perf_counter() - start
    chunks = 0

    def run(n: int) -> float:
        nonlocal state, chunks
        total = 0.0
        for _ in range(n):
            state, report = chunk(state)
            rows = (loops.env_steps(cfg, chunks) + loops.env_steps(cfg, chunks + 1)) // 2
            total += _chunk_flops(agent, cfg, {k: float(v) for k, v in report.metrics.items()}, rows)
            chunks += 1
        return total

    units = loops.env_steps(cfg, 1) - loops.env_steps(cfg, 0)
    return Case(name, "jax", run, "env step", units=units, times=1, compile_seconds=seconds, **rest)


def _chunk_flops(agent: Any, cfg: loops.LoopConfig, metrics: dict[str, float], rows: int) -> float:
    """Operations of one chunk's updates, fits and rollouts; `rows` are those in the buffer half way through it."""
    policy = getattr(agent, "policy", agent)
    total = loops.updates(cfg, 1) * flops.sac_update(3, 1, policy.hidden, policy.batch)
    if hasattr(agent, "model"):
        fit, widths = agent.fit, (4, *agent.model.hidden, 8)
        held_out = min(int(fit.holdout * rows), fit.max_holdout)
        epoch = -(-(rows - held_out) // fit.batch) * flops.ensemble_step(widths, fit.batch, fit.members)
        score = -(-held_out // fit.batch) * fit.members * flops.forward(widths, fit.batch)
        roll = flops.rollout_step((3, *policy.hidden, 2), widths, agent.rollouts)
        total += cfg.cycles * (metrics["model/epochs"] * (epoch + score) + metrics["model/horizon"] * roll)
    return total
