"""`ops.running` against NumPy's moments of all rows at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops.running import include, no_rows, root_mean_square, standardize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("cuts", [[], [1], [10, 300, 301]])
def test_batches_give_the_moments_of_all_rows(cuts: list[int]) -> None:
    rows = RNG.normal([5.0, -2.0, 0.0], [3.0, 0.1, 0.0], (1_000, 3)).astype(np.float32)
    running = no_rows((3,))
    for part in np.split(rows, cuts):
        running = jax.jit(include)(running, part)
    np.testing.assert_allclose(running.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running.var, rows.var(0), rtol=1e-3, atol=1e-6)
    assert float(running.rows) == 1_000.0


def test_the_memory_bounds_the_weight_of_old_rows() -> None:
    running = include(no_rows(()), jnp.zeros(90), memory=10.0)
    assert float(running.rows) == 10.0
    running = include(running, jnp.full(30, 4.0), memory=10.0)  # 30 of 40 rows count
    np.testing.assert_allclose([running.mean, running.var], [3.0, 3.0])


def test_an_entry_that_is_not_finite_counts_as_the_mean() -> None:
    running = include(include(no_rows(()), jnp.array([1.0, 3.0])), jnp.array([jnp.nan, jnp.inf, -jnp.inf, 2.0]))
    np.testing.assert_allclose([running.mean, running.var], [2.0, 2.0 / 6.0], rtol=1e-6)


def test_integers_are_rows_too() -> None:
    running = include(no_rows((2,)), jnp.array([[0, 255], [2, 253]], jnp.uint8))
    np.testing.assert_allclose(running.mean, [1.0, 254.0])
    np.testing.assert_allclose(running.var, [1.0, 1.0])


def test_standardize_scales_clips_and_leaves_constants() -> None:
    running = include(no_rows((3,)), jnp.array([[1.0, 7.0, -4.0], [3.0, 7.0, -4.0]]))
    np.testing.assert_allclose(standardize(running, jnp.array([4.0, 7.5, -4.0])), [2.0, 0.5, 0.0])
    np.testing.assert_allclose(standardize(running, jnp.array([-90.0, 7.0, 90.0])), [-10.0, 0.0, 10.0])
    assert bool(jnp.isnan(standardize(running, jnp.full(3, jnp.nan))).all())


@pytest.mark.parametrize(("rows", "size"), [([3.0, -4.0], np.sqrt(12.5)), ([0.0, 0.0], 1.0), ([1e3, 1e3], 1e3)])
def test_root_mean_square(rows: list[float], size: float) -> None:
    np.testing.assert_allclose(root_mean_square(include(no_rows(()), jnp.array(rows))), size, rtol=1e-6)


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(AssertionError):
        include(no_rows((3,)), jnp.zeros((4, 2)))
