"""Loops in one piece give what loops give, in one lane and in many, and are one function where they are small."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core.types import Array
from mbrl_jax.planners.mcts.vmap_rules import in_any_lane
from mbrl_jax.planners.mcts.xla_cpu import FEW, put, while_loop

ROWS, COLUMNS = 6, 4


class At(NamedTuple):
    level: Array
    left: Array
    table: Array


def climb(weight: Array, turns: Array, table: Array, numbers: int = COLUMNS) -> At:
    """Adds weight · level to an entry of a row further on at each turn; `weight` is closed over."""

    def step(at: At) -> At:
        going = at.left > 0
        row = jnp.where(going, at.level % ROWS, ROWS)
        column = (at.level + turns) % COLUMNS
        now = at.table[jnp.minimum(row, ROWS - 1), column]
        table = put(at.table, row[None], column[None], (now + weight * at.level)[None])
        return At(at.level + 1, at.left - going, table)

    start = At(jnp.int32(0), turns, table)
    return while_loop(lambda at: in_any_lane(at.left > 0), step, start, "level", numbers)


def expected(weight: float, turns: int, table: np.ndarray) -> np.ndarray:
    out = table.copy()
    for level in range(turns):
        out[level % ROWS, (level + turns) % COLUMNS] += weight * level
    return out


def problem(lanes: int) -> tuple[Array, Array, Array]:
    key = jax.random.key(lanes)
    table = jax.random.normal(key, (lanes, ROWS, COLUMNS))
    return jnp.linspace(0.5, 2.0, lanes), jnp.arange(lanes, dtype=jnp.int32) % 9, table


def ask_for_small_calls(lanes: int) -> int:
    """How many calls of the compiled program are to be one function."""
    text = jax.jit(jax.vmap(climb)).lower(*problem(lanes)).compile().as_text()
    assert text is not None
    asked = 'inlineable="false",xla_cpu_small_call="true"'  # XLA finds further ones by itself
    return sum(" call(" in line and asked in line for line in text.splitlines())


def check(found: At, weight: Array, turns: Array, table: Array) -> None:
    for lane in range(len(turns)):
        want = expected(float(weight[lane]), int(turns[lane]), np.asarray(table[lane]))
        np.testing.assert_allclose(found.table[lane], want, rtol=1e-6)
    np.testing.assert_array_equal(found.left, 0)


@pytest.mark.parametrize("lanes", [1, 5, FEW // COLUMNS + 1, FEW + 1])
def test_a_loop_over_lanes_gives_what_each_lane_asks_for(lanes: int) -> None:
    arguments = problem(lanes)
    found = jax.jit(jax.vmap(climb))(*arguments)
    check(found, *arguments)
    np.testing.assert_array_equal(found.level, int(jnp.max(arguments[1])))  # of the longest, in every lane


def test_a_loop_without_lanes() -> None:
    weight, turns, table = (x[4] for x in problem(5))
    found = jax.jit(climb)(weight, turns, table)
    np.testing.assert_allclose(found.table, expected(float(weight), 4, np.asarray(table)), rtol=1e-6)
    assert int(found.level) == 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, FEW), (FEW // 4, 8)])
def test_lanes_of_lanes(shape: tuple[int, int]) -> None:
    arguments = problem(shape[0] * shape[1])
    split = [x.reshape(*shape, *x.shape[1:]) for x in arguments]
    found = jax.jit(jax.vmap(jax.vmap(climb)))(*split)
    flat: At = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    check(flat, *arguments)


def test_what_is_closed_over_may_be_without_lanes() -> None:
    _, turns, table = problem(5)
    found = jax.jit(jax.vmap(climb, (None, 0, 0)))(jnp.float32(2.0), turns, table)
    check(found, jnp.full(5, 2.0), turns, table)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="one function is made on CPUs alone")
def test_only_few_numbers_are_one_function() -> None:
    few, many = FEW // COLUMNS, FEW // COLUMNS + 1
    assert ask_for_small_calls(1) > 0
    assert ask_for_small_calls(few) > 0
    assert ask_for_small_calls(many) == 0


@pytest.mark.parametrize("lanes", [1, 3, FEW])
def test_put_leaves_out_what_lies_outside(lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    tables = rng.normal(size=(lanes, ROWS, COLUMNS)).astype(np.float32)
    # Distinct places in each lane, some in the row that does not exist.
    places = np.stack([rng.permutation((ROWS + 1) * COLUMNS)[:8].reshape(4, 2) for _ in range(lanes)])
    rows, columns = places // COLUMNS, places % COLUMNS
    numbers = rng.normal(size=places.shape).astype(np.float32)
    found = jax.jit(jax.vmap(put))(tables, rows, columns, numbers)
    want = np.concatenate([tables, np.zeros((lanes, 1, COLUMNS), np.float32)], 1)
    want[np.arange(lanes)[:, None, None], rows, columns] = numbers
    np.testing.assert_array_equal(found, want[:, :ROWS])
