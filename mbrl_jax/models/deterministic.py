"""A deterministic model over vector observations (Nagabandi et al. 2018), with reward and termination.

    x = [o, a],  y = [o' - o, r],  both scaled
    (m, z) = f(x),   o' = o + m_o,  r = m_r,  discount = 1 - σ(z)
    L = mean_batch [ 1/D Σ_d (m_d - y_d)² + c CE(z, terminated) ] + w 1/2 Σ ‖W‖²

Differs from the paper in: reward and termination are learned, no noise is added to the inputs, and there is weight
decay.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Key, Metrics, Obs, Params, Spec, StepOut, Transition, WorldModel
from mbrl_jax.models import dynamics
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.ops.model_losses import binary_cross_entropy, squared_error
from mbrl_jax.ops.normalize import normalize


@config
class DeterministicConfig:
    """Settings of the deterministic model."""

    hidden: tuple[int, ...] = setting(default=(200, 200, 200, 200), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", help="activation of the hidden layers")
    weight_decay: float = setting(default=5e-5, low=0.0, help="of every weight matrix; biases have none")
    termination_weight: float = setting(default=1.0, low=0.0, help="weight of the termination head's cross-entropy")


class DeterministicParams(NamedTuple):
    net: Params
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
    net = mlp(inputs, cfg.hidden, outputs + spec.terminates, cfg.activation, "narrow")

    def init(key: Key) -> DeterministicParams:
        return DeterministicParams(net.init(key), dynamics.unit_scales(spec))

    def predict(params: DeterministicParams, obs: Obs, action: Action) -> tuple[Array, Array | None]:
        scales = jax.lax.stop_gradient(params.scales)
        out = net.apply(params.net, normalize(scales.inputs, dynamics.features(spec, obs, action)))
        return out[:outputs], out[-1] if spec.terminates else None

    def target(params: DeterministicParams, row: Transition) -> Array:
        return normalize(jax.lax.stop_gradient(params.scales.targets), dynamics.targets(row))

    def loss(params: DeterministicParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key

        def one(row: Transition) -> tuple[Array, Array]:
            mean, logit = predict(params, row.obs, row.action)
            ends = jnp.zeros(()) if logit is None else binary_cross_entropy(logit, dynamics.ends(row))
            return squared_error(mean, target(params, row)), ends

        error, ends = jax.tree.map(jnp.mean, jax.vmap(one)(batch))
        decay = cfg.weight_decay * dynamics.half_square(params.net)
        total = error + cfg.termination_weight * ends + decay
        return total, {"squared_error": error, "termination": ends, "decay": decay}

    def step(params: DeterministicParams, key: Key, state: Obs, action: Action) -> StepOut:
        del key
        mean, logit = predict(params, state, action)
        next_obs, reward = dynamics.advance(params.scales, state, mean)
        return StepOut(next_obs, reward, jnp.ones(()) if logit is None else jax.nn.sigmoid(-logit))

    def calibrate(params: DeterministicParams, rows: Transition, mask: Array) -> DeterministicParams:
        return params._replace(scales=dynamics.fit_scales(spec, rows, mask))

    def errors(params: DeterministicParams, batch: Transition) -> Array:
        def one(row: Transition) -> Array:
            mean, logit = predict(params, row.obs, row.action)
            return dynamics.prediction_error(mean, target(params, row), logit, dynamics.ends(row))

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
