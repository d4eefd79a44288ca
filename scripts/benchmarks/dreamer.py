"""One gradient step of DreamerV3 as in training: compiled, in a loop, on a filled buffer whose stored latents it
refreshes; and one iteration ("turn") of the whole loop with acting and replay, at one gradient step per environment
step, a train ratio of batch times length. `rows(size)` gives the cases that `benchmarks.timing.measure` times.

    python scripts/benchmark.py dreamer [--size 1m] [--rounds 5]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import steps as cases
from benchmarks.timing import Case, by_size
from mbrl_jax.agents.dreamer import v3 as dreamer_v3
from mbrl_jax.analysis.flops import backward, forward, product
from mbrl_jax.core import tree
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Array, Box, Buffer, Discrete, Key, Spec, Transition
from mbrl_jax.envs.registry import make_env
from mbrl_jax.models.rssm.dreamer_v3 import DreamerV3NetConfig, Widths, widths
from mbrl_jax.train.loop import LoopConfig, make_loop

OBS, ACTIONS = 4, 2
SPEC = Spec(Box((OBS,)), Discrete(ACTIONS), name="CartPole-v1")


def cell(size: Widths, actions: int) -> list[tuple[int, int]]:
    """Matrix products of one row through the block GRU as (inputs, outputs); block-wise ones by their total size."""
    part = size.deter // size.blocks
    summaries = [(size.deter, size.units), (size.stoch * size.classes, size.units), (actions, size.units)]
    return [*summaries, (part + 3 * size.units, size.deter), (part, 3 * size.deter)]


def step_flops(cfg: dreamer_v3.DreamerV3Config, obs: int, actions: int) -> int:
    """Floating-point operations of one gradient step, matrix products only, as in `analysis.flops`.

        model         encoder, posterior, cell, prior, decoder, reward, continuation on every row, forward and backward
        imagination   actor, cell, prior on every imagined step; reward, continuation and both critics on every state
        actor-critic  actor and critic on every imagined step, and the critic on every row, forward and backward

    Args:
      cfg: settings.
      obs: entries of a vector observation.
      actions: number of discrete actions.
    """
    size = widths(cfg.net)
    units, latent = size.units, size.stoch * size.classes
    feature, batch = size.deter + latent, cfg.batch * cfg.length

    def nets(rows: int, *which: tuple[int, ...]) -> int:
        return sum(forward(net, rows) for net in which)

    def products(rows: int, pairs: list[tuple[int, int]]) -> int:
        return sum(product(rows, k, n) for k, n in pairs)

    three = (units,) * 3
    encoder, decoder = (obs, *three), (feature, *three, obs)
    prior, posterior = (size.deter, units, units, latent), (size.deter + units, units, latent)
    reward, cont = (feature, units, cfg.net.bins), (feature, units, 1)
    actor, critic = (feature, *three, actions), (feature, *three, cfg.net.bins)
    of_cell = cell(size, actions)

    model = 3 * nets(batch, prior, posterior, decoder, reward, cont) + 3 * products(batch, of_cell)
    model += forward(encoder, batch) + backward(encoder, batch)
    imagined = batch * cfg.imagined
    imagining = nets(imagined, actor, prior) + products(imagined, of_cell)
    predicting = nets(imagined + batch, reward, cont, critic, critic)
    learning = sum(forward(net, imagined) + backward(net, imagined) for net in (actor, critic))
    replayed = 3 * forward(critic, batch - cfg.batch)
    return model + imagining + predicting + learning + replayed


def filled(agent: Any, buffer: Buffer, rows: int, num_envs: int) -> Any:
    """A buffer of random episodes of about fifty steps."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (rows, num_envs)
    last = jax.random.uniform(keys[0], shape) < 0.02
    obs, then = jax.random.normal(keys[1], (2, *shape, OBS))
    extras = tree.tile(tree.tile(agent.carry().latent, num_envs), rows)
    action = jax.random.randint(keys[2], shape, 0, ACTIONS)
    data = Transition(obs, action, jnp.ones(shape), 1.0 - last, then, last, extras)
    return buffer.add(buffer.init(jax.tree.map(lambda leaf: leaf[0, 0], data)), data)


def updating(cfg: dreamer_v3.DreamerV3Config) -> tuple[Callable[..., Any], tuple]:
    """A function that makes `n` updates of DreamerV3 on a small vector task, and its arguments before `n`."""
    num_envs, steps = 4, 10 * dreamer_v3.window(cfg)
    agent = dreamer_v3.make(cfg, SPEC)
    buffer = dreamer_v3.buffer(cfg, 3 * num_envs * steps, num_envs)

    def updates(learner: Any, data: Any, key: Key, n: Array) -> Any:
        def one(i: Array, at: tuple[Any, Any]) -> tuple[Any, Any]:
            learner, _, feedback = agent.update(jax.random.fold_in(key, i), at[0], buffer.replay(at[1]))
            return learner, buffer.revise(at[1], feedback) if buffer.revise else at[1]

        return jax.lax.fori_loop(0, n, one, (learner, data))

    learner = jax.jit(lambda key: tree.strip_weak_types(agent.init(key)))(jax.random.key(1))
    data = jax.jit(lambda: filled(agent, buffer, steps, num_envs))()
    return updates, (learner, data, jax.random.key(2))


def update(name: str, cfg: dreamer_v3.DreamerV3Config, **rest: Any) -> Case:
    """The case of DreamerV3's updates."""
    return cases.case(name, "step", *updating(cfg), flops=step_flops(cfg, OBS, ACTIONS), **rest)


def turn(name: str, cfg: dreamer_v3.DreamerV3Config, **rest: Any) -> Case:
    """The case of the loop's iterations: acting, storing, a gradient step on a sample, its latents written back."""
    env = make_env("CartPole-v1")
    loop_cfg = LoopConfig(inner=1, cycles=1, warmup=4 * dreamer_v3.window(cfg), capacity=10_000, eval_episodes=0)
    buffer = dreamer_v3.buffer(cfg, loop_cfg.capacity, loop_cfg.num_envs)
    loop = make_loop(dreamer_v3.make(cfg, env.spec), env, buffer, loop_cfg)

    def turns(state: Any, n: Array) -> Any:
        return jax.lax.fori_loop(0, n, lambda _, state: loop.chunk(state)[0], state)

    state = jax.jit(lambda key: tree.strip_weak_types(loop.init(key)))(jax.random.key(1))
    return cases.case(name, "turn", turns, (state,), flops=step_flops(cfg, OBS, ACTIONS), **rest)


def settings(size: str, batch: int = 16, length: int = 64, imagined: int = 15) -> dreamer_v3.DreamerV3Config:
    """The authors' settings at one network size."""
    net = DreamerV3NetConfig(size=size)
    return replace(dreamer_v3.DreamerV3Config(net=net), {"batch": batch, "length": length, "imagined": imagined})


def rows(size: str = "1m", *shape: int) -> Iterator[Case]:
    """One gradient step and one loop iteration of DreamerV3, beside bare products at their most frequent shape."""
    cfg = settings(size, *shape)
    batch, deter = cfg.batch * cfg.length, widths(cfg.net).deter
    matrix = f"matmul_{batch}x{deter}"
    yield cases.products(matrix, (batch, deter), (deter, deter))
    step = f"dreamer_v3_{size}_step"
    yield update(step, cfg, matrix=matrix)
    yield turn(f"dreamer_v3_{size}_turn", cfg, matrix=matrix, versus=step)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this benchmark."""
    return by_size(__doc__, "models.rssm.dreamer_v3.SIZES", rows, argv)
