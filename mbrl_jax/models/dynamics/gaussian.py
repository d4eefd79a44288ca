"""A probabilistic model over vector observations (Chua et al. 2018; Janner et al. 2019).

    x = [o, a],  y = [o' - o, r],  both scaled
    (m, u) = f(x),   v = soft_bound(u, low, high)
    o', r  from  y ~ N(m, exp v),   z = g(o, a, o'),   discount = 1 - σ(z)
    L = mean_batch [ 1/D Σ_d ( (m_d - y_d)² exp(-v_d) + v_d ) + c CE(z, terminated) ]
        + b (Σ high - Σ low) + w 1/2 Σ ‖W‖²

Differs from the papers in:
  * targets are scaled too, not the inputs alone, so that hold-out errors, and with them early stopping and the choice
    of elites, do not depend on the units of observations and rewards;
  * each member of an ensemble owns its bounds of the log-variance; the papers share one pair among all members. Plain
    `vmap` then makes an ensemble of it;
  * one weight decay for all layers;
  * termination is learned by a classifier of its own (see `models.dynamics.common`) where the environment terminates;
    the papers take the condition as known.
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
from mbrl_jax.ops.model_losses import gaussian_nll, soft_bound


@config
class GaussianConfig:
    """Settings of the probabilistic model."""

    hidden: tuple[int, ...] = setting(default=(200, 200, 200, 200), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", choices=tuple(ACTIVATIONS), help="activation of the hidden layers")
    weight_decay: float = setting(
        default=5e-5, low=0.0, help="weight of half the sum of squares of all weight matrices, biases left out"
    )
    bound_weight: float = setting(
        default=0.01, low=0.0, help="weight of the distance between the learned bounds of the log-variances"
    )
    termination_weight: float = setting(default=1.0, low=0.0, help="weight of the cross-entropy of termination")


class Bounds(NamedTuple):
    """Learned soft bounds of the log-variances."""

    low: Array  # [D_y]
    high: Array  # [D_y]


class GaussianParams(NamedTuple):
    """The parameters of one model."""

    net: Params  # of the dynamics network
    termination: Params  # of the termination network; () where no state ends an episode
    bounds: Bounds
    scales: common.Scales  # constants to the gradient, set by `calibrate`


class Prediction(NamedTuple):
    """The predicted distribution of y, a diagonal Gaussian."""

    mean: Array  # [D_y] scaled
    log_var: Array  # [D_y] scaled


def predict(params: GaussianParams, obs: Obs, action: Action, *, nets: Networks) -> Prediction:
    """The predicted distribution of y of one step.

    Args:
      params: of one model.
      obs, action: the step, unbatched.
      nets: the model's networks.
    """
    out = common.forward(nets, params.net, params.scales, obs, action)
    outputs = out.shape[0] // 2
    return Prediction(out[:outputs], soft_bound(out[outputs:], params.bounds.low, params.bounds.high))


def nll_loss(
    params: GaussianParams,
    batch: Transition,
    *,
    nets: Networks,
    weight_decay: Array | float,
    bound_weight: Array | float,
    termination_weight: Array | float,
) -> tuple[Array, Metrics]:
    """Negative log-likelihood of a batch (Chua et al. 2018, eq. 1 and appendix A.1), termination and weight decay.

        L = mean_batch [ 1/D Σ_d ( (m_d - y_d)² exp(-v_d) + v_d ) + c CE(z, terminated) ]
            + b (Σ high - Σ low) + w 1/2 Σ ‖W‖²

    Args:
      params: of one model, which the loss is differentiated by; no gradient flows into the scales.
      batch: [B, ...] transitions.
      nets: the model's networks.
      weight_decay: w, at least 0.
      bound_weight: b, at least 0.
      termination_weight: c, at least 0.
    Returns:
      loss [] and the metrics `nll`, `termination`, `bound_width` (Σ high - Σ low) and `decay`, each [].
    """

    def terms(row: Transition) -> tuple[Array, Array]:
        out = predict(params, row.obs, row.action, nets=nets)
        nll = gaussian_nll(out.mean, out.log_var, common.scaled_target(params.scales, row))
        logit = common.termination_logit(nets, params.termination, params.scales, row.obs, row.action, row.next_obs)
        return nll, common.termination_cross_entropy(logit, row)

    nll, termination = jax.tree.map(jnp.mean, jax.vmap(terms)(batch))
    width = jnp.sum(params.bounds.high) - jnp.sum(params.bounds.low)
    decay = weight_decay * common.half_square((params.net, params.termination))
    loss = nll + termination_weight * termination + bound_weight * width + decay
    return loss, {"nll": nll, "termination": termination, "bound_width": width, "decay": decay}


def gaussian(cfg: GaussianConfig, spec: Spec) -> WorldModel:
    """The probabilistic model. Its state is the observation.

    Args:
      cfg: its settings; floats may be traced.
      spec: observations a vector, actions a vector or discrete.
    Returns:
      the model. `step` samples change of observation and reward together and gives the probability of going on as the
      discount; `errors` are squared errors of the mean in scaled units (see `common.prediction_error`).
    Raises:
      ValueError: a setting out of its range, or observations or actions that are not vectors.
    """
    check(cfg)
    nets = common.networks(spec, cfg.hidden, cfg.activation, 2)
    outputs = common.sizes(spec)[1]

    def init(key: Key) -> GaussianParams:
        bounds = Bounds(jnp.full(outputs, -10.0, jnp.float32), jnp.full(outputs, 0.5, jnp.float32))
        key_net, key_end = jax.random.split(key)
        termination = () if nets.termination is None else nets.termination.init(key_end)
        return GaussianParams(nets.dynamics.init(key_net), termination, bounds, common.identity_scales(spec))

    def loss(params: GaussianParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key
        return nll_loss(
            params,
            batch,
            nets=nets,
            weight_decay=cfg.weight_decay,
            bound_weight=cfg.bound_weight,
            termination_weight=cfg.termination_weight,
        )

    def mean(params: GaussianParams, obs: Obs, action: Action) -> Array:
        return predict(params, obs, action, nets=nets).mean

    def std(params: GaussianParams, obs: Obs, action: Action) -> Array:
        return jnp.exp(0.5 * predict(params, obs, action, nets=nets).log_var)

    def step(params: GaussianParams, key: Key, state: Obs, action: Action) -> StepOut:
        out = predict(params, state, action, nets=nets)
        y = out.mean + jnp.exp(0.5 * out.log_var) * jax.random.normal(key, (outputs,), jnp.float32)
        return common.step_out(nets, params, state, action, y)

    return common.observation_model(nets, init, loss, mean, step, std)
