"""Counts of products, against counts by hand, and that counting changes no result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import sac
from mbrl_jax.analysis import flops
from mbrl_jax.analysis.operations import counting, operations
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core.types import Box, Spec, Transition

X, W = jnp.ones((4, 8)), jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)
ONE = 2 * 4 * 8 * 8


def repeated(x, n):
    return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x @ W), x)


def counts(fn, *args):
    """Operations that a run counts, and whether results are those of the function itself."""
    out, count = jax.jit(counting(fn))(*args)
    jax.tree.map(np.testing.assert_array_equal, out, jax.jit(fn)(*args))
    return float(count) * 1e6


@pytest.mark.parametrize(
    ("fn", "known"),
    [
        (lambda x: x @ W, ONE),
        (lambda x: jnp.einsum("ij,ik->jk", x, x), 2 * 8 * 4 * 8),
        (lambda x: jax.vmap(lambda row: W @ row)(x), ONE),
        (lambda x: jax.lax.scan(lambda x, _: (x @ W, x), x, None, length=7), 7 * ONE),
        (lambda x: repeated(x, 5), 5 * ONE),
        (lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(x @ W)))(x), 2 * ONE),
        (lambda x: jax.checkpoint(jax.jit(lambda x: x @ W))(x), ONE),
        (lambda x: jax.nn.relu(jax.nn.silu(x @ W)), ONE),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ W, lambda: 2 * (x @ W)), ONE),
        (lambda x: jax.lax.while_loop(lambda i: i < x[0, 0], lambda i: i + 1, 0.0), 0),
    ],
)
def test_products_are_counted_from_shapes(fn, known):
    assert operations(fn, X) == known
    assert counts(fn, X) == pytest.approx(known)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_a_product_for_each_place_of_its_window(groups):
    """Of 5 x 5 places, 6 features each: a sum over 3 x 3 pixels of 4 channels, or of half of them."""
    image, kernel = jnp.ones((2, 5, 5, 4)), jnp.ones((3, 3, 4 // groups, 6))
    dims = ("NHWC", "HWIO", "NHWC")
    fn = lambda x: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups
    )
    assert operations(fn, image) == 2 * (2 * 5 * 5 * 6) * (3 * 3 * 4 // groups)


def test_what_depends_on_numbers_is_counted_by_a_run_alone():
    for n in (0, 3):
        assert counts(repeated, X, n) == pytest.approx(n * ONE)
    with pytest.raises(ValueError, match="only a run can count them: see counting"):
        operations(repeated, X, jnp.int32(3))


def test_loops_within_loops_and_branches_are_counted():
    def fn(x, n):
        x = jax.lax.cond(n > 3, lambda x: x @ W @ W, lambda x: x, x)
        x, _ = jax.lax.scan(lambda x, i: (repeated(x, i), x.sum()), x, jnp.arange(4), reverse=True)  # 0 + 1 + 2 + 3
        until = lambda at: jnp.sum(at[0] @ W) * 0 + at[1] < n  # noqa: E731, a product in each test, the last one too
        return jax.jit(lambda x: jax.lax.while_loop(until, lambda at: (repeated(at[0], 2), at[1] + 1), (x, 0)))(x)

    assert counts(fn, X, 2) == pytest.approx((6 + 3 + 2 * 2) * ONE)
    assert counts(fn, X, 5) == pytest.approx((2 + 6 + 6 + 5 * 2) * ONE)


def test_rows_of_a_batch_that_run_on_for_the_longest_are_counted():
    """Under `vmap` a loop ends with its last row, and each round is one product for all rows."""
    found = counts(jax.vmap(repeated), jnp.ones((3, 4, 8)), jnp.array([1, 5, 2]))
    assert found == pytest.approx(5 * 3 * ONE)


def test_an_update_has_the_operations_that_are_counted_by_hand():
    """But for the gradient to the observation, which is taken with that to the action and is thrown away."""
    spec = Spec(Box((3,)), Box((1,), -1.0, 1.0), time_limit=200, terminates=False, name="")
    agent, buffer = sac.make(sac.SACConfig(hidden=(16, 32), batch=8), spec), uniform(20)
    row = Transition(jnp.zeros(3), jnp.zeros(1), jnp.zeros(()), jnp.ones(()), jnp.zeros(3), jnp.zeros((), bool))
    key = jax.random.key(0)
    learner = jax.eval_shape(agent.init, key)
    found = operations(lambda key, it, ring: agent.update(key, it, buffer.replay(ring)), key, learner, buffer.init(row))
    assert found == flops.sac_update(3, 1, (16, 32), 8) + 2 * flops.product(8, 16, 3)
