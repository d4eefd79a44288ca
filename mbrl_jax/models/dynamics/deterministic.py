"""A deterministic model over vector observations (Nagabandi et al. 2018), with reward and termination.

    x = [o, a],  y = [o' - o, r],  both scaled
    m = f(x),   o' = o + m_o,  r = m_r,  z = g(o, a, o'),  discount = 1 - σ(z)
    L = mean_batch [ 1/D Σ_d (m_d - y_d)² + c CE(z, terminated) ] + w 1/2 Σ ‖W‖²

Differs from the paper in: reward and termination are learned (termination as `dynamics` says), no noise is added to the
inputs, and there is weight decay.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Key, Metrics, Obs, Params, Spec, StepOut, Transition, WorldModel
from mbrl_jax.models.dynamics import common as dynamics
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.ops.model_losses import binary_cross_entropy, squared_error
from mbrl_jax.ops.normalize import normalize


@config
class DeterministicConfig:
    """Settings of the deterministic model."""

    hidden: tuple[int, ...] = setting(default=(200, 200, 200, 200), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", help="activation of the hidden layers")
    weight_decay: float = setting(default=5e-5, low=0.0, help="of every weight matrix; biases have none")
    termination_weight: float = setting(default=1.0, low=0.0, help="weight of the cross-entropy of termination")


class DeterministicParams(NamedTuple):
    net: Params
    end: Params  # of the termination network; () where no state ends an episode
    scales: dynamics.Scales  # constants to the gradient, set by `calibrate`


def deterministic(cfg: DeterministicConfig, spec: Spec) -> WorldModel:
    """The deterministic model. Its state is the observation.

    Args:
      cfg: its settings.
      spec: the environment's; observations a vector, actions a vector or discrete.
    Returns:
      the model. `step` takes a key and does not use it; its discount is the probability to go on; `errors` are squared
      errors in scaled units (see `dynamics.prediction_error`).
    Raises:
      ValueError: a setting out of its range, or observations or actions that are not vectors.
    """
    check(cfg)
    inputs, outputs = dynamics.sizes(spec)
    net = mlp(inputs, cfg.hidden, outputs, cfg.activation, "narrow")
    end_net = dynamics.termination(spec)

    def init(key: Key) -> DeterministicParams:
        key_net, key_end = jax.random.split(key)
        end = () if end_net is None else end_net.init(key_end)
        return DeterministicParams(net.init(key_net), end, dynamics.unit_scales(spec))

    def predict(params: DeterministicParams, obs: Obs, action: Action) -> Array:
        scales = jax.lax.stop_gradient(params.scales)
        return net.apply(params.net, normalize(scales.inputs, dynamics.features(spec, obs, action)))

    def logit(params: DeterministicParams, obs: Obs, action: Action, next_obs: Obs) -> Array | None:
        scales = jax.lax.stop_gradient(params.scales)
        return dynamics.termination_logit(end_net, params.end, spec, scales, obs, action, next_obs)

    def target(params: DeterministicParams, row: Transition) -> Array:
        return normalize(jax.lax.stop_gradient(params.scales.targets), dynamics.targets(row))

    def loss(params: DeterministicParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key

        def one(row: Transition) -> tuple[Array, Array]:
            mean, z = predict(params, row.obs, row.action), logit(params, row.obs, row.action, row.next_obs)
            ends = jnp.zeros(()) if z is None else binary_cross_entropy(z, dynamics.ends(row))
            return squared_error(mean, target(params, row)), ends

        error, ends = jax.tree.map(jnp.mean, jax.vmap(one)(batch))
        decay = cfg.weight_decay * dynamics.half_square((params.net, params.end))
        total = error + cfg.termination_weight * ends + decay
        return total, {"squared_error": error, "termination": ends, "decay": decay}

    def step(params: DeterministicParams, key: Key, state: Obs, action: Action) -> StepOut:
        del key
        next_obs, reward = dynamics.advance(params.scales, state, predict(params, state, action))
        z = logit(params, state, action, next_obs)
        return StepOut(next_obs, reward, jnp.ones(()) if z is None else jax.nn.sigmoid(-z))

    def calibrate(params: DeterministicParams, rows: Transition, mask: Array) -> DeterministicParams:
        return params._replace(scales=dynamics.fit_scales(spec, rows, mask))

    def errors(params: DeterministicParams, batch: Transition) -> Array:
        def one(row: Transition) -> Array:
            mean, z = predict(params, row.obs, row.action), logit(params, row.obs, row.action, row.next_obs)
            return dynamics.prediction_error(mean, target(params, row), z, dynamics.ends(row))

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
