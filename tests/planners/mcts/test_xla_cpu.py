"""Loops as small calls equal ordinary loops, alone and in batches, and are small calls where they touch few numbers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core.types import Array
from mbrl_jax.planners.mcts.vmap_rules import any_in_batch
from mbrl_jax.planners.mcts.xla_cpu import FEW, put, while_loop

ROWS, COLUMNS = 6, 4


class At(NamedTuple):
    level: Array
    left: Array
    table: Array


def climb(weight: Array, iterations: Array, table: Array, numbers: int = COLUMNS) -> At:
    """Adds weight · level to an entry of a later row in each iteration; `weight` is closed over."""

    def step(at: At) -> At:
        going = at.left > 0
        row = jnp.where(going, at.level % ROWS, ROWS)
        column = (at.level + iterations) % COLUMNS
        now = at.table[jnp.minimum(row, ROWS - 1), column]
        table = put(at.table, row[None], column[None], (now + weight * at.level)[None])
        return At(at.level + 1, at.left - going, table)

    start = At(jnp.int32(0), iterations, table)
    return while_loop(lambda at: any_in_batch(at.left > 0), step, start, "level", numbers)


def expected(weight: float, iterations: int, table: np.ndarray) -> np.ndarray:
    out = table.copy()
    for level in range(iterations):
        out[level % ROWS, (level + iterations) % COLUMNS] += weight * level
    return out


def problem(batch: int) -> tuple[Array, Array, Array]:
    key = jax.random.key(batch)
    table = jax.random.normal(key, (batch, ROWS, COLUMNS))
    return jnp.linspace(0.5, 2.0, batch), jnp.arange(batch, dtype=jnp.int32) % 9, table


def ask_for_small_calls(batch: int) -> int:
    """How many calls of the compiled program are small calls."""
    text = jax.jit(jax.vmap(climb)).lower(*problem(batch)).compile().as_text()
    assert text is not None
    asked = 'inlineable="false",xla_cpu_small_call="true"'  # XLA finds further ones by itself
    return sum(" call(" in line and asked in line for line in text.splitlines())


def check(found: At, weight: Array, iterations: Array, table: Array) -> None:
    for i in range(len(iterations)):
        want = expected(float(weight[i]), int(iterations[i]), np.asarray(table[i]))
        np.testing.assert_allclose(found.table[i], want, rtol=1e-6)
    np.testing.assert_array_equal(found.left, 0)


@pytest.mark.parametrize("batch", [1, 5, FEW // COLUMNS + 1, FEW + 1])
def test_a_batched_loop_equals_the_loop_of_each_element(batch: int) -> None:
    arguments = problem(batch)
    found = jax.jit(jax.vmap(climb))(*arguments)
    check(found, *arguments)
    np.testing.assert_array_equal(found.level, int(jnp.max(arguments[1])))  # of the longest loop, in every element


def test_a_loop_without_a_batch() -> None:
    weight, iterations, table = (x[4] for x in problem(5))
    found = jax.jit(climb)(weight, iterations, table)
    np.testing.assert_allclose(found.table, expected(float(weight), 4, np.asarray(table)), rtol=1e-6)
    assert int(found.level) == 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, FEW), (FEW // 4, 8)])
def test_nested_batches(shape: tuple[int, int]) -> None:
    arguments = problem(shape[0] * shape[1])
    split = [x.reshape(*shape, *x.shape[1:]) for x in arguments]
    found = jax.jit(jax.vmap(jax.vmap(climb)))(*split)
    flat: At = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    check(flat, *arguments)


def test_what_is_closed_over_may_be_unbatched() -> None:
    _, iterations, table = problem(5)
    found = jax.jit(jax.vmap(climb, (None, 0, 0)))(jnp.float32(2.0), iterations, table)
    check(found, jnp.full(5, 2.0), iterations, table)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="small calls are for CPUs alone")
def test_only_loops_over_few_numbers_are_small_calls() -> None:
    few, many = FEW // COLUMNS, FEW // COLUMNS + 1
    assert ask_for_small_calls(1) > 0
    assert ask_for_small_calls(few) > 0
    assert ask_for_small_calls(many) == 0


@pytest.mark.parametrize("batch", [1, 3, FEW])
def test_put_drops_rows_outside_the_table(batch: int) -> None:
    rng = np.random.default_rng(batch)
    tables = rng.normal(size=(batch, ROWS, COLUMNS)).astype(np.float32)
    # Distinct places in each i, some in the row that does not exist.
    places = np.stack([rng.permutation((ROWS + 1) * COLUMNS)[:8].reshape(4, 2) for _ in range(batch)])
    rows, columns = places // COLUMNS, places % COLUMNS
    numbers = rng.normal(size=places.shape).astype(np.float32)
    found = jax.jit(jax.vmap(put))(tables, rows, columns, numbers)
    want = np.concatenate([tables, np.zeros((batch, 1, COLUMNS), np.float32)], 1)
    want[np.arange(batch)[:, None, None], rows, columns] = numbers
    np.testing.assert_array_equal(found, want[:, :ROWS])
