"""The golden tests of DreamerV3 fail when a fault is planted in the update."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from agents.dreamer import test_v3 as golden
from helpers import dreamer_reference as reference

from mbrl_jax.agents.dreamer import actor_critic_v3
from mbrl_jax.agents.dreamer import v3 as dreamer_v3
from mbrl_jax.agents.dreamer.common import batch_model_inputs
from mbrl_jax.ops.returns import lambda_returns


def actions_late(*args, **kwargs):
    """Every row gets the action of the row before its own."""
    start, rows = batch_model_inputs(*args, **kwargs)
    return start, rows._replace(action=jnp.roll(rows.action, 1, 0))


def no_reset(*args, **kwargs):
    """The model state is not reset at the start of an episode."""
    start, rows = batch_model_inputs(*args, **kwargs)
    return start, rows._replace(first=jnp.zeros_like(rows.first))


def returns_late(*args):
    """The target of a state is the return of the next one."""
    returns = lambda_returns(*args)
    return jnp.concatenate([returns[1:], returns[-1:]])


TRACKED = golden.test_states_are_tracked_from_the_stored_latent_and_handed_back
FAULTS = {
    "actions_late": (dreamer_v3, "batch_model_inputs", actions_late, TRACKED),
    "no_reset": (dreamer_v3, "batch_model_inputs", no_reset, golden.test_every_term_of_the_loss_is_that_of_numpy),
    "returns_late": (
        actor_critic_v3, "lambda_returns", returns_late, golden.test_every_term_of_the_loss_is_that_of_numpy,
    ),
}  # fmt: skip
"""Where each fault is planted, and the test that must fail."""


@pytest.fixture
def recompute():
    """Recomputes the cached update with the fault, and once more without it."""
    reference.updated.cache_clear()
    yield
    reference.updated.cache_clear()


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow if i else ()) for i, name in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(fault, monkeypatch, recompute):
    module, name, wrong, check = FAULTS[fault]
    assert getattr(module, name) in (batch_model_inputs, lambda_returns)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):  # without the fault it passes
        check()
