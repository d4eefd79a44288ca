"""A chunk as a run calls it changes the replay buffer where it lies, by what XLA says of the compiled program."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from helpers import contract

from mbrl_jax import presets
from mbrl_jax.core.tree import num_bytes
from mbrl_jax.train.driver import CompiledDriver
from mbrl_jax.train.run import seed_keys

IN_PLACE = ("dqn", "muzero", "sac", "alphazero", "tdmpc2", "dreamer_v3")
"""Agents that read their replay by samples alone. A fit of an ensemble, as in PETS and MBPO, works on all its rows."""

SOON = ("dqn", "muzero")
"""One agent whose buffer is only added to, and one that writes searches back into it; the others are slow."""

ROWS = 200_000  # so that the buffer is by far the largest


def analysed(algo: str, seeds: int, wave: int) -> tuple[Any, int]:
    """What XLA says of a run's chunk, and the bytes of all replay buffers."""
    loop = contract.build(algo, presets.AGENTS[algo].actions[0], capacity=ROWS)
    made = CompiledDriver(loop, seed_keys(0, seeds), wave, 1)
    work = made.shapes()
    buffer = num_bytes(work.state.buffer)
    assert buffer > 10 * num_bytes(work.state.learner)
    return made.lowered(work).compile().memory_analysis(), buffer


@pytest.mark.parametrize(
    "algo", [pytest.param(algo, marks=() if algo in SOON else pytest.mark.slow) for algo in IN_PLACE]
)
def test_a_chunk_holds_no_copy_of_the_replay_buffer(algo):
    found, buffer = analysed(algo, 1, 1)
    assert found.alias_size_in_bytes >= buffer
    assert found.temp_size_in_bytes < 0.2 * buffer


@pytest.mark.parametrize(
    ("seeds", "wave", "most"),
    [(4, 1, 1.2), pytest.param(4, 4, 0.2, marks=pytest.mark.slow), pytest.param(5, 2, 2.4, marks=pytest.mark.slow)],
)
def test_waves_hold_a_copy_of_one_wave_at_a_time(seeds, wave, most):
    found, buffer = analysed("dqn", seeds, wave)
    assert found.alias_size_in_bytes >= buffer
    assert found.temp_size_in_bytes < most * buffer / seeds


def test_an_undonated_state_would_be_seen():
    loop = contract.build("dqn", presets.AGENTS["dqn"].actions[0], capacity=ROWS)
    state = jax.eval_shape(loop.init, jax.random.key(0))
    found = jax.jit(loop.chunk).lower(state).compile().memory_analysis()
    assert found.alias_size_in_bytes == 0
