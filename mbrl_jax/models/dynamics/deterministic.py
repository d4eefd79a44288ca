"""A deterministic model over vector observations (Nagabandi et al. 2018), with reward and termination.

    x = [o, a],  y = [o' - o, r],  both scaled
    m = f(x),   o' = o + m_o,  r = m_r,  z = g(o, a, o'),  discount = 1 - σ(z)
    L = mean_batch [ 1/D Σ_d (m_d - y_d)² + c CE(z, terminated) ] + w 1/2 Σ ‖W‖²

Differs from the paper in: reward and termination are learned (termination as `models.dynamics.common` says), no noise
is added to the inputs, and there is weight decay.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Key, Metrics, Obs, Params, Spec, StepOut, Transition, WorldModel
from mbrl_jax.models.dynamics import common
from mbrl_jax.models.dynamics.common import Networks
from mbrl_jax.nets.mlp import ACTIVATIONS
from mbrl_jax.ops.model_losses import squared_error


@config
class DeterministicConfig:
    """Settings of the deterministic model."""

    hidden: tuple[int, ...] = setting(default=(200, 200, 200, 200), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", choices=tuple(ACTIVATIONS), help="activation of the hidden layers")
    weight_decay: float = setting(
        default=5e-5, low=0.0, help="weight of half the sum of squares of all weight matrices, biases left out"
    )
    termination_weight: float = setting(default=1.0, low=0.0, help="weight of the cross-entropy of termination")


class DeterministicParams(NamedTuple):
    """The parameters of one model."""

    net: Params  # of the dynamics network
    termination: Params  # of the termination network; () where no state ends an episode
    scales: common.Scales  # constants to the gradient, set by `calibrate`


def predict(params: DeterministicParams, obs: Obs, action: Action, *, nets: Networks) -> Array:
    """The predicted y of one step.

    Args:
      params: of one model.
      obs, action: the step, unbatched.
      nets: the model's networks.
    Returns:
      [D_y] scaled.
    """
    return common.forward(nets, params.net, params.scales, obs, action)


def mse_loss(
    params: DeterministicParams,
    batch: Transition,
    *,
    nets: Networks,
    weight_decay: Array | float,
    termination_weight: Array | float,
) -> tuple[Array, Metrics]:
    """Squared error of a batch, cross-entropy of termination and weight decay.

        L = mean_batch [ 1/D Σ_d (m_d - y_d)² + c CE(z, terminated) ] + w 1/2 Σ ‖W‖²

    Args:
      params: of one model, which the loss is differentiated by; no gradient flows into the scales.
      batch: [B, ...] transitions.
      nets: the model's networks.
      weight_decay: w, at least 0.
      termination_weight: c, at least 0.
    Returns:
      loss [] and the metrics `squared_error`, `termination` and `decay`, each [].
    """

    def terms(row: Transition) -> tuple[Array, Array]:
        mean = predict(params, row.obs, row.action, nets=nets)
        logit = common.termination_logit(nets, params.termination, params.scales, row.obs, row.action, row.next_obs)
        error = squared_error(mean, common.scaled_target(params.scales, row))
        return error, common.termination_cross_entropy(logit, row)

    error, termination = jax.tree.map(jnp.mean, jax.vmap(terms)(batch))
    decay = weight_decay * common.half_square((params.net, params.termination))
    loss = error + termination_weight * termination + decay
    return loss, {"squared_error": error, "termination": termination, "decay": decay}


def deterministic(cfg: DeterministicConfig, spec: Spec) -> WorldModel:
    """The deterministic model. Its state is the observation.

    Args:
      cfg: its settings; floats may be traced.
      spec: observations a vector, actions a vector or discrete.
    Returns:
      the model. `step` ignores its key and gives the probability of going on as the discount; `errors` are squared
      errors in scaled units (see `common.prediction_error`).
    Raises:
      ValueError: a setting out of its range, or observations or actions that are not vectors.
    """
    check(cfg)
    nets = common.networks(spec, cfg.hidden, cfg.activation, 1)

    def init(key: Key) -> DeterministicParams:
        key_net, key_end = jax.random.split(key)
        termination = () if nets.termination is None else nets.termination.init(key_end)
        return DeterministicParams(nets.dynamics.init(key_net), termination, common.identity_scales(spec))

    def loss(params: DeterministicParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key
        weights = {"weight_decay": cfg.weight_decay, "termination_weight": cfg.termination_weight}
        return mse_loss(params, batch, nets=nets, **weights)

    def mean(params: DeterministicParams, obs: Obs, action: Action) -> Array:
        return predict(params, obs, action, nets=nets)

    def step(params: DeterministicParams, key: Key, state: Obs, action: Action) -> StepOut:
        del key
        return common.step_out(nets, params, state, action, mean(params, state, action))

    return common.observation_model(nets, init, loss, mean, step)
