"""The golden tests of DreamerV3 are worth something: with a fault planted in the update they fail."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
import test_dreamer_v3 as golden
from helpers import dreamer_reference as reference

from mbrl_jax.agents.dreamer import actor_critic_v3 as dreamer_behaviour
from mbrl_jax.agents.dreamer import v3 as dreamer_v3
from mbrl_jax.agents.dreamer.common import driven_windows
from mbrl_jax.ops.returns import lambda_returns


def actions_late(*args):
    """Every row is driven by the action of the row before its own."""
    start, rows = driven_windows(*args)
    return start, rows._replace(action=jnp.roll(rows.action, 1, 0))


def no_reset(*args):
    """The model goes on over the start of an episode."""
    start, rows = driven_windows(*args)
    return start, rows._replace(first=jnp.zeros_like(rows.first))


def returns_late(*args):
    """The target of a state is the return of the next one."""
    returns = lambda_returns(*args)
    return jnp.concatenate([returns[1:], returns[-1:]])


TRACKED = golden.test_states_are_tracked_from_the_stored_latent_and_handed_back
FAULTS = {
    "actions_late": (dreamer_v3, "driven_windows", actions_late, TRACKED),
    "no_reset": (dreamer_v3, "driven_windows", no_reset, golden.test_every_term_of_the_loss_is_that_of_numpy),
    "returns_late": (
        dreamer_behaviour, "lambda_returns", returns_late, golden.test_every_term_of_the_loss_is_that_of_numpy,
    ),
}  # fmt: skip
"""Where each is planted, and the test that it must not pass."""


@pytest.fixture
def anew():
    """Updates are made anew, with the fault, and again without it."""
    reference.updated.cache_clear()
    yield
    reference.updated.cache_clear()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, monkeypatch, anew):
    module, name, wrong, held = FAULTS[fault]
    assert getattr(module, name) in (driven_windows, lambda_returns)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):  # without a fault it passes, beside this one
        held()
