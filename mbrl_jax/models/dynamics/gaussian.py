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
  * termination is learned by a classifier of its own (see `dynamics`) where the environment terminates; the papers are
    told the condition.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Key, Metrics, Obs, Params, Spec, StepOut, Transition, WorldModel
from mbrl_jax.models.dynamics import common as dynamics
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.ops.model_losses import binary_cross_entropy, gaussian_nll, soft_bound
from mbrl_jax.ops.normalize import normalize


@config
class GaussianConfig:
    """Settings of the probabilistic model."""

    hidden: tuple[int, ...] = setting(default=(200, 200, 200, 200), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", help="activation of the hidden layers")
    weight_decay: float = setting(default=5e-5, low=0.0, help="of every weight matrix; biases have none")
    bound_weight: float = setting(default=0.01, low=0.0, help="pull of the log-variance bounds towards each other")
    termination_weight: float = setting(default=1.0, low=0.0, help="weight of the cross-entropy of termination")


class Bounds(NamedTuple):
    """Learned soft bounds of the log-variances."""

    low: Array  # [D_y]
    high: Array  # [D_y]


class GaussianParams(NamedTuple):
    net: Params
    end: Params  # of the termination network; () where no state ends an episode
    bounds: Bounds
    scales: dynamics.Scales  # constants to the gradient, set by `calibrate`


class Prediction(NamedTuple):
    mean: Array  # [D_y] scaled
    log_var: Array  # [D_y] scaled


def gaussian(cfg: GaussianConfig, spec: Spec) -> WorldModel:
    """The probabilistic model. Its state is the observation.

    Args:
      cfg: its settings.
      spec: the environment's; observations a vector, actions a vector or discrete.
    Returns:
      the model. `step` samples change of observation and reward together and gives the probability to go on as the
      discount; `errors` are squared errors of the mean in scaled units (see `dynamics.prediction_error`).
    Raises:
      ValueError: a setting out of its range, or observations or actions that are not vectors.
    """
    check(cfg)
    inputs, outputs = dynamics.sizes(spec)
    net = mlp(inputs, cfg.hidden, 2 * outputs, cfg.activation, "narrow")
    end_net = dynamics.termination(spec)

    def init(key: Key) -> GaussianParams:
        bounds = Bounds(jnp.full(outputs, -10.0), jnp.full(outputs, 0.5))
        key_net, key_end = jax.random.split(key)
        end = () if end_net is None else end_net.init(key_end)
        return GaussianParams(net.init(key_net), end, bounds, dynamics.unit_scales(spec))

    def predict(params: GaussianParams, obs: Obs, action: Action) -> Prediction:
        scales = jax.lax.stop_gradient(params.scales)
        out = net.apply(params.net, normalize(scales.inputs, dynamics.features(spec, obs, action)))
        log_var = soft_bound(out[outputs : 2 * outputs], params.bounds.low, params.bounds.high)
        return Prediction(out[:outputs], log_var)

    def logit(params: GaussianParams, obs: Obs, action: Action, next_obs: Obs) -> Array | None:
        scales = jax.lax.stop_gradient(params.scales)
        return dynamics.termination_logit(end_net, params.end, spec, scales, obs, action, next_obs)

    def target(params: GaussianParams, row: Transition) -> Array:
        return normalize(jax.lax.stop_gradient(params.scales.targets), dynamics.targets(row))

    def loss(params: GaussianParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key

        def one(row: Transition) -> tuple[Array, Array]:
            out = predict(params, row.obs, row.action)
            nll = gaussian_nll(out.mean, out.log_var, target(params, row))
            z = logit(params, row.obs, row.action, row.next_obs)
            ends = jnp.zeros(()) if z is None else binary_cross_entropy(z, dynamics.ends(row))
            return nll, ends

        nll, ends = jax.tree.map(jnp.mean, jax.vmap(one)(batch))
        width = jnp.sum(params.bounds.high) - jnp.sum(params.bounds.low)
        decay = cfg.weight_decay * dynamics.half_square((params.net, params.end))
        total = nll + cfg.termination_weight * ends + cfg.bound_weight * width + decay
        return total, {"nll": nll, "termination": ends, "bound_width": width, "decay": decay}

    def step(params: GaussianParams, key: Key, state: Obs, action: Action) -> StepOut:
        out = predict(params, state, action)
        drawn = out.mean + jnp.exp(0.5 * out.log_var) * jax.random.normal(key, (outputs,))
        next_obs, reward = dynamics.advance(params.scales, state, drawn)
        z = logit(params, state, action, next_obs)
        return StepOut(next_obs, reward, jnp.ones(()) if z is None else jax.nn.sigmoid(-z))

    def calibrate(params: GaussianParams, rows: Transition, mask: Array) -> GaussianParams:
        return params._replace(scales=dynamics.fit_scales(spec, rows, mask))

    def errors(params: GaussianParams, batch: Transition) -> Array:
        def one(row: Transition) -> Array:
            out = predict(params, row.obs, row.action)
            z = logit(params, row.obs, row.action, row.next_obs)
            return dynamics.prediction_error(out.mean, target(params, row), z, dynamics.ends(row))

        return jax.vmap(one)(batch)

    return WorldModel(
        init,
        loss,
        encode=lambda params, key, obs: obs,
        step=step,
        decode=lambda params, state: state,
        calibrate=calibrate,
        errors=errors,
    )
