"""Losses of the dynamics models, on batches of four rows.

The scales are constants to the gradient, so they are bound to each loss and not among its parameters.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from helpers.loss_cases import LossCase
from helpers.loss_cases.model_free import SPECS, batch
from mbrl_jax.core import Metrics, Spec
from mbrl_jax.core.types import Array
from mbrl_jax.models.dynamics import common
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic, mse_loss
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian, nll_loss
from mbrl_jax.models.dynamics.inverse import InverseConfig, inverse, inverse_loss, networks

WEIGHTS: dict[str, Any] = {"weight_decay": 1e-3, "bound_weight": 0.01}


def case(agent: str, loss: Any, params: Any, constants: tuple[str, ...], spec: Spec, **kwargs: Any) -> LossCase:
    """A loss of parameters without some of their fields."""
    fixed = {name: getattr(params, name) for name in constants}

    @functools.wraps(loss)
    def of_trained(trained: Any, *args: Any, **kwargs: Any) -> tuple[Array, Metrics]:
        return loss(trained._replace(**fixed), *args, **kwargs)

    trained = params._replace(**dict.fromkeys(constants, ()))
    return LossCase(agent, of_trained, trained, (batch(spec),), kwargs)


def of_gaussian(agent: str, spec: Spec) -> LossCase:
    params = jax.jit(gaussian(GaussianConfig(hidden=(8,)), spec).init)(jax.random.key(0))
    nets = common.networks(spec, (8,), "silu", 2)
    return case(agent, nll_loss, params, ("scales",), spec, nets=nets, termination_weight=1.0, **WEIGHTS)


def of_deterministic(agent: str, spec: Spec) -> LossCase:
    params = jax.jit(deterministic(DeterministicConfig(hidden=(8,)), spec).init)(jax.random.key(0))
    nets = common.networks(spec, (8,), "silu", 1)
    return case(agent, mse_loss, params, ("scales",), spec, nets=nets, weight_decay=1e-3, termination_weight=1.0)


def of_inverse(spec: Spec) -> LossCase:
    cfg = InverseConfig(hidden=(8,))
    params = jax.jit(inverse(cfg, spec).init)(jax.random.key(0))
    return case("", inverse_loss, params, ("inputs", "actions"), spec, nets=networks(cfg, spec), **WEIGHTS)


def cases() -> list[LossCase]:
    """The loss of each agent's model, and of the inverse model."""
    return [
        of_gaussian("mbpo", SPECS["continuous"]),
        of_gaussian("pets", SPECS["discrete"]),
        of_deterministic("dyna_dqn", SPECS["discrete"]),
        *(of_inverse(spec) for spec in SPECS.values()),
    ]
