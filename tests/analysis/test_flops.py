"""Counts of operations against hand counts and XLA's counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from mbrl_jax.analysis import flops
from mbrl_jax.nets.mlp import mlp


def xla(fn, *args) -> float:
    """Operations XLA counts in the program of `fn`, elementwise ones included."""
    cost = jax.jit(fn).lower(*args).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


def test_a_product_is_a_multiplication_and_an_addition_per_term():
    assert flops.product(256, 256, 256) == 33_554_432
    assert flops.product(2, 3, 5) == 60


def test_forward_and_backward_by_hand():
    # 4 -> 6 -> 2 on 10 rows: 2 * 10 * (24 + 12) forward; the weights take as much again, the inputs 12 or 24 + 12.
    assert flops.forward((4, 6, 2), 10) == 720
    assert flops.backward((4, 6, 2), 10) == 720 + 240
    assert flops.backward((4, 6, 2), 10, inputs=True) == 720 + 720
    assert flops.backward((4, 6, 2), 10, weights=False) == 240
    assert flops.backward((4, 6, 2), 10, weights=False, inputs=True) == 720


def test_sac_update_by_hand():
    # Per row, in multiplications: 256 x 256 sixteen times; the layers of 3, 4, 1 and 2 entries beside them.
    hidden = 16 * 256 * 256
    policy_in, policy_out = 3 * 3 * 256, 4 * 2 * 256  # two forward, weights; two forward, weights, inputs
    critic_in, critic_out = 2 * (4 * 4 + 1) * 256, 2 * 6 * 256  # three forward, weights, action; 3 + 2 + 1
    expected = 2 * 256 * (hidden + policy_in + policy_out + critic_in + critic_out)
    assert flops.sac_update(3, 1, (256, 256), 256) == expected == 545_128_448


def test_ensemble_step_by_hand():
    forward = 4 * 200 + 3 * 200 * 200 + 200 * 8
    inputs = 3 * 200 * 200 + 200 * 8
    expected = 7 * 2 * 256 * (2 * forward + inputs)
    assert flops.ensemble_step((4, 200, 200, 200, 200, 8), 256, 7) == expected == 1_313_177_600


def test_rollout_step_by_hand():
    expected = 2 * 10_000 * ((3 * 256 + 256 * 256 + 256 * 2) + (4 * 200 + 3 * 200 * 200 + 200 * 8))
    assert flops.rollout_step((3, 256, 256, 2), (4, 200, 200, 200, 200, 8), 10_000) == expected == 3_784_320_000


@pytest.mark.parametrize("inputs", [False, True])
def test_an_mlps_passes_agree_with_xla(inputs):
    widths, rows = (8, 64, 64, 4), 32
    net = mlp(widths[0], widths[1:-1], widths[-1], "relu")
    params, x = net.init(jax.random.key(0)), jnp.ones((rows, widths[0]))

    def loss(params, x):
        return jnp.sum(jax.vmap(net.apply, (None, 0))(params, x) ** 2)

    counted = flops.forward(widths, rows)
    assert xla(jax.vmap(net.apply, (None, 0)), params, x) == pytest.approx(counted, rel=0.05)
    both = counted + flops.backward(widths, rows, inputs=inputs)
    assert xla(jax.grad(loss, (0, 1) if inputs else 0), params, x) == pytest.approx(both, rel=0.05)
