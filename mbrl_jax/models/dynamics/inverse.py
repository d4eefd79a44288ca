"""An inverse model: which action led from one observation to the next, p(a | o, o').

    x = [o, o' - o], scaled
    discrete:    z = f(x),       p = softmax(z),            L = mean_batch[ -log p_a ] + w 1/2 Σ ‖W‖²
    continuous:  (m, u) = f(x),  v = soft_bound(u, low, high),  y = a, scaled,  p = N(m, exp v)
                 L = mean_batch[ 1/D Σ_d ( (m_d - y_d)² exp(-v_d) + v_d ) ] + b (Σ high - Σ low) + w 1/2 Σ ‖W‖²

With it, an expert whose actions were never seen can be imitated: `label` its observations, then fit a policy to what
the labels say (Torabi et al. 2018, "Behavioral Cloning from Observation", arXiv 1805.01954).

Differs from the paper in: the change of observation takes the place of the next observation, which says the same and
has a scale of its own; the variance of continuous actions depends on the observations, so that the model can say where
nothing tells the action, as where a speed or a force is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Box, Discrete, Key, Metrics, Obs, Params, Spec, Transition, WorldModel
from mbrl_jax.models.dynamics import common as dynamics
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.ops import dists
from mbrl_jax.ops.model_losses import gaussian_nll, soft_bound
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize


@config
class InverseConfig:
    """Settings of the inverse model."""

    hidden: tuple[int, ...] = setting(default=(128, 128), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", help="activation of the hidden layers")
    weight_decay: float = setting(default=1e-5, low=0.0, help="of every weight matrix; biases have none")
    bound_weight: float = setting(default=0.01, low=0.0, help="pull of the log-variance bounds towards each other")


class InverseParams(NamedTuple):
    """What an inverse model has learned."""

    net: Params
    low: Array  # [A] learned soft bounds of the log-variances; [0] for discrete actions
    high: Array
    inputs: Normalizer  # [2 O]; both are constants to the gradient, set by `calibrate`
    actions: Normalizer  # [A]; [0] for discrete actions


class Inverse(NamedTuple):
    """An inverse model as pure functions. Only `obs`, `next_obs` and `action` of a transition count."""

    init: Callable[[Key], InverseParams]
    loss: Callable[[InverseParams, Key, Transition], tuple[Array, Metrics]]  # over a batch [B, ...]
    predict: Callable[[InverseParams, Obs, Obs], Action]  # the likeliest action, within its bounds
    sample: Callable[[InverseParams, Key, Obs, Obs], Action]  # continuous ones may leave the bounds
    log_prob: Callable[[InverseParams, Obs, Obs, Action], Array]  # [] nats, of a density where actions are continuous
    calibrate: Callable[[InverseParams, Transition, Array], InverseParams]  # scales set from rows [N] and mask [N]
    errors: Callable[[InverseParams, Transition], Array]  # of each row [B], for hold-out scores


class Form(NamedTuple):
    """What depends on the kind of action. `out` is what the network gives for one row."""

    width: int  # entries of out
    size: int  # entries of an action that are scaled
    nll: Callable[[InverseParams, Array, Action], Array]
    error: Callable[[InverseParams, Array, Action], Array]
    mode: Callable[[InverseParams, Array], Action]
    dist: Callable[[InverseParams, Array], Any]  # a distrax distribution


def inverse(cfg: InverseConfig, spec: Spec) -> Inverse:
    """The inverse model of one environment.

    Args:
      cfg: its settings; floats may be traced.
      spec: observations a vector, actions a vector or discrete.
    Returns:
      the model. `errors` are squared errors of the mean in scaled units, or of the probabilities (Brier score).
    Raises:
      ValueError: a setting out of its range, or observations or actions that are not vectors.
    """
    check(cfg)
    size = dynamics.sizes(spec)[1] - 1  # of an observation; a model's targets are one reward more
    form = _discrete(spec) if isinstance(spec.action, Discrete) else _continuous(spec.action)
    net = mlp(2 * size, cfg.hidden, form.width, cfg.activation, "narrow")

    def init(key: Key) -> InverseParams:
        low, high = jnp.full(form.size, -10.0), jnp.full(form.size, 0.5)
        scales = identity_normalizer(2 * size), identity_normalizer(form.size)
        return InverseParams(net.init(key), low, high, *scales)

    def forward(params: InverseParams, obs: Obs, next_obs: Obs) -> Array:
        return net.apply(params.net, normalize(jax.lax.stop_gradient(params.inputs), features(obs, next_obs)))

    def loss(params: InverseParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key
        one = lambda row: form.nll(params, forward(params, row.obs, row.next_obs), row.action)  # noqa: E731
        nll = jnp.mean(jax.vmap(one)(batch))
        width = jnp.sum(params.high) - jnp.sum(params.low)
        decay = cfg.weight_decay * dynamics.half_square(params.net)
        total = nll + cfg.bound_weight * width + decay
        return total, {"nll": nll, "bound_width": width, "decay": decay}

    def predict(params: InverseParams, obs: Obs, next_obs: Obs) -> Action:
        return form.mode(params, forward(params, obs, next_obs))

    def sample(params: InverseParams, key: Key, obs: Obs, next_obs: Obs) -> Action:
        return dists.sample_and_log_prob(form.dist(params, forward(params, obs, next_obs)), key)[0]

    def log_prob(params: InverseParams, obs: Obs, next_obs: Obs, action: Action) -> Array:
        return form.dist(params, forward(params, obs, next_obs)).log_prob(action)

    def calibrate(params: InverseParams, rows: Transition, mask: Array) -> InverseParams:
        params = params._replace(inputs=fit_normalizer(jax.vmap(features)(rows.obs, rows.next_obs), mask))
        return params._replace(actions=fit_normalizer(rows.action, mask)) if form.size else params

    def errors(params: InverseParams, batch: Transition) -> Array:
        one = lambda row: form.error(params, forward(params, row.obs, row.next_obs), row.action)  # noqa: E731
        return jax.vmap(one)(batch)

    return Inverse(init, loss, predict, sample, log_prob, calibrate, errors)


def features(obs: Obs, next_obs: Obs) -> Array:
    """x of one pair of observations, [2 O], not yet scaled."""
    return jnp.concatenate([obs, next_obs - obs]).astype(jnp.float32)


def label(model: Inverse, params: InverseParams, demonstration: Obs) -> Action:
    """The likeliest actions of an expert of whom only observations are known.

    Args:
      model: the inverse model.
      params: what it has learned.
      demonstration: [T + 1, O] the observations of one episode, in order, without resets between them.
    Returns:
      [T, ...] the actions between them.
    Raises:
      ValueError: fewer than two observations.
    """
    if demonstration.shape[0] < 2:
        raise ValueError(f"demonstration must hold at least 2 observations, got {demonstration.shape[0]}")
    return jax.vmap(model.predict, (None, 0, 0))(params, demonstration[:-1], demonstration[1:])


def fitted(model: Inverse) -> WorldModel:
    """The inverse model as `models.dynamics.fit.trainer` takes its members: to be fitted, not stepped."""

    def no_step(*_: object) -> NoReturn:
        raise TypeError("an inverse model tells actions and has no step")

    return WorldModel(model.init, model.loss, no_step, no_step, calibrate=model.calibrate, errors=model.errors)


def _discrete(spec: Spec) -> Form:
    """A choice of one action; `out` are its logits."""
    n = spec.num_actions

    def error(params: InverseParams, out: Array, action: Action) -> Array:
        return jnp.mean(jnp.square(jax.nn.softmax(out) - jax.nn.one_hot(action, n)))

    return Form(
        width=n,
        size=0,
        nll=lambda params, out, action: -jax.nn.log_softmax(out)[action],
        error=error,
        mode=lambda params, out: jnp.argmax(out).astype(spec.action.dtype),
        dist=lambda params, out: dists.categorical(out),
    )


def _continuous(box: Box) -> Form:
    """A normal distribution; `out` are its mean and the log of its variance before the bounds, both scaled."""

    def split(params: InverseParams, out: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(out, 2)
        return mean, soft_bound(raw, params.low, params.high)

    def target(params: InverseParams, action: Action) -> Array:
        return normalize(jax.lax.stop_gradient(params.actions), action)

    def mode(params: InverseParams, out: Array) -> Action:
        mean, _ = split(params, out)
        return jnp.clip(denormalize(params.actions, mean), box.low, box.high).astype(box.dtype)

    def dist(params: InverseParams, out: Array) -> Any:
        mean, log_var = split(params, out)
        return dists.normal(denormalize(params.actions, mean), 0.5 * log_var + jnp.log(params.actions.std))

    return Form(
        width=2 * box.size,
        size=box.size,
        nll=lambda params, out, action: gaussian_nll(*split(params, out), target(params, action)),
        error=lambda params, out, action: jnp.mean(jnp.square(split(params, out)[0] - target(params, action))),
        mode=mode,
        dist=dist,
    )
