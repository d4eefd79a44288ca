"""One plan and one update of TD-MPC2, as they run in training: compiled, in a loop, on a filled buffer. `rows(size)`
gives the cases that `benchmarks.timing` measures.

    python scripts/benchmark.py tdmpc2 [--size 1m] [--rounds 5]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import steps as cases
from benchmarks.timing import Case, by_size
from mbrl_jax.agents import tdmpc2
from mbrl_jax.analysis.flops import backward, forward, product
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Box, Buffer, Key, Spec, Transition
from mbrl_jax.models.tdmpc2.sizes import TDMPCNetConfig, Widths, widths

OBS, ACTIONS = 5, 1
SPEC = Spec(Box((OBS,)), Box((ACTIONS,), -1.0, 1.0), time_limit=500, terminates=False, name="swing-up")


def networks(size: Widths, bins: int, obs: int, actions: int) -> dict[str, tuple[int, ...]]:
    """Widths of every network, inputs and outputs included."""
    inputs, two = size.latent + actions, (size.units,) * 2
    return {
        "encoder": (obs, *(size.encoder,) * (size.layers - 1), size.latent),
        "dynamics": (inputs, *two, size.latent),
        "reward": (inputs, *two, bins),
        "value": (inputs, *two, bins),
        "policy": (size.latent, *two, 2 * actions),
    }


def plan_flops(cfg: tdmpc2.TDMPC2Config, obs: int, actions: int) -> int:
    """Operations of one plan, without terminations: matrix products alone, as in `analysis.flops`.

        candidates   dynamics and reward in every step of every iteration; policy and two values at the horizon
        proposals    policy, dynamics and reward in every step, once

    Args:
      cfg: settings.
      obs: entries of an observation.
      actions: entries of an action.
    """
    nets, plan = networks(widths(cfg.net), cfg.net.bins, obs, actions), cfg.planner
    count = plan.iterations * plan.population
    candidates = sum(forward(nets[name], count * plan.horizon) for name in ("dynamics", "reward"))
    ends = forward(nets["policy"], count) + 2 * forward(nets["value"], count)
    proposed = sum(forward(nets[name], plan.proposals * plan.horizon) for name in ("policy", "dynamics", "reward"))
    return forward(nets["encoder"], 1) + candidates + ends + proposed


def update_flops(cfg: tdmpc2.TDMPC2Config, obs: int, actions: int) -> int:
    """Operations of one update, without terminations: matrix products alone.

        targets   encoder, policy and two target values on every later row
        world     encoder on the first rows; dynamics, reward and all values on every step; forward and backward
        policy    policy forward and backward, two values forward and backward to the action, on every latent

    Args:
      cfg: settings.
      obs: entries of an observation.
      actions: entries of an action.
    """
    size = widths(cfg.net)
    nets, steps = networks(size, cfg.net.bins, obs, actions), cfg.batch * cfg.planner.horizon
    states = steps + cfg.batch
    targets = forward(nets["encoder"], steps) + forward(nets["policy"], steps) + 2 * forward(nets["value"], steps)
    world = forward(nets["encoder"], cfg.batch) + backward(nets["encoder"], cfg.batch)
    for name, count in (("dynamics", 1), ("reward", 1), ("value", size.values)):
        world += count * (forward(nets[name], steps) + backward(nets[name], steps))
        world += count * product(steps, size.units, size.latent)  # to the latents, not to the actions
    to_action = backward((actions, *nets["value"][1:]), states, weights=False, inputs=True)
    of_policy = forward(nets["policy"], states) + backward(nets["policy"], states)
    return targets + world + of_policy + 2 * (forward(nets["value"], states) + to_action)


def filled(buffer: Buffer, rows: int) -> Any:
    """A buffer with random episodes of some fifty steps."""
    keys = jax.random.split(jax.random.key(0), 3)
    last = jax.random.uniform(keys[0], (rows, 1)) < 0.02
    obs, then = jax.random.normal(keys[1], (2, rows, 1, OBS))
    action = jax.random.uniform(keys[2], (rows, 1, ACTIONS), minval=-1.0)
    ones = jnp.ones((rows, 1))
    data = Transition(obs, action, ones, ones, then, last)
    return buffer.add(buffer.init(jax.tree.map(lambda leaf: leaf[0, 0], data)), data)


def update(name: str, cfg: tdmpc2.TDMPC2Config, **rest: Any) -> Case:
    """Updates of TD-MPC2."""
    agent, buffer = tdmpc2.make(cfg, SPEC), tdmpc2.buffer(cfg, 6_000, 1)

    def updates(learner: Any, data: Any, key: Key, n: Array) -> Any:
        def one(i: Array, learner: Any) -> Any:
            return agent.update(jax.random.fold_in(key, i), learner, buffer.replay(data))[0]

        return jax.lax.fori_loop(0, n, one, learner)

    learner = jax.jit(lambda key: tree.strip_weak_types(agent.init(key)))(jax.random.key(1))
    data = jax.jit(lambda: filled(buffer, 2_000))()
    args = (learner, data, jax.random.key(2))
    return cases.case(name, "update", updates, args, flops=update_flops(cfg, OBS, ACTIONS), **rest)


def plan(name: str, cfg: tdmpc2.TDMPC2Config, **rest: Any) -> Case:
    """Plans of TD-MPC2, each in a state that depends on the action before."""
    agent = tdmpc2.make(cfg, SPEC)

    def plans(learner: Any, key: Key, n: Array) -> Any:
        def one(i: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            obs, carry = at
            action, carry, _ = agent.act(jax.random.fold_in(key, i), learner, carry, obs, True)
            return jnp.roll(obs, 1).at[0].set(action[0]), carry

        return jax.lax.fori_loop(0, n, one, (jnp.ones(OBS), agent.carry()))

    learner = jax.jit(agent.init)(jax.random.key(1))
    return cases.case(name, "plan", plans, (learner, jax.random.key(2)), flops=plan_flops(cfg, OBS, ACTIONS), **rest)


def rows(size: str = "1m", batch: int = 256) -> Iterator[Case]:
    """One plan and one update of TD-MPC2, beside bare products at the most frequent shape of a plan."""
    cfg = replace(tdmpc2.TDMPC2Config(net=TDMPCNetConfig(size=size)), {"batch": batch})
    count, units = cfg.planner.population, widths(cfg.net).units
    shape = f"matmul_{count}x{units}"
    yield cases.products(shape, (count, units), (units, units))
    yield plan(f"tdmpc2_{size}_plan", cfg, matrix=shape)
    yield update(f"tdmpc2_{size}_update", cfg, matrix=shape)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    return by_size(__doc__, "models.tdmpc2.sizes.SIZES", rows, argv)
