"""An inverse model: which action led from one observation to the next, p(a | o, o').

    x = [o, o' - o], scaled
    discrete:    z = f(x),       p = softmax(z),            L = mean_batch[ -log p_a ] + w 1/2 Σ ‖W‖²
    continuous:  (m, u) = f(x),  v = soft_bound(u, low, high),  y = a, scaled,  p = N(m, exp v)
                 L = mean_batch[ 1/D Σ_d ( (m_d - y_d)² exp(-v_d) + v_d ) ] + b (Σ high - Σ low) + w 1/2 Σ ‖W‖²

With it an expert can be imitated whose actions were never observed: `label` its observations, then fit a policy to the
labels (Torabi et al. 2018, "Behavioral Cloning from Observation", arXiv 1805.01954).

Differs from the paper in: the change of observation replaces the next observation, which carries the same information
but would share the observation's scale; the variance of continuous actions depends on the observations, so that the
model can express where they do not determine the action, as where a speed or a force saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Action, Array, Box, Discrete, Key, Metrics, Obs, Params, Spec, Transition, WorldModel
from mbrl_jax.models.dynamics import common
from mbrl_jax.nets.mlp import ACTIVATIONS, mlp
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import dists
from mbrl_jax.ops.model_losses import gaussian_nll, soft_bound
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize


@config
class InverseConfig:
    """Settings of the inverse model."""

    hidden: tuple[int, ...] = setting(default=(128, 128), low=1, help="widths of the hidden layers")
    activation: str = setting(default="silu", choices=tuple(ACTIVATIONS), help="activation of the hidden layers")
    weight_decay: float = setting(
        default=1e-5, low=0.0, help="weight of half the sum of squares of all weight matrices, biases left out"
    )
    bound_weight: float = setting(
        default=0.01, low=0.0, help="weight of the distance between the learned bounds of the log-variances"
    )


class InverseParams(NamedTuple):
    """What an inverse model has learned."""

    net: Params
    low: Array  # [A] learned soft bounds of the log-variances; [0] for discrete actions
    high: Array
    inputs: Normalizer  # [2 O]; both normalisers are constants to the gradient, set by `calibrate`
    actions: Normalizer  # [A]; [0] for discrete actions


class Inverse(NamedTuple):
    """An inverse model as pure functions. They use only `obs`, `next_obs` and `action` of a transition."""

    init: Callable[[Key], InverseParams]
    loss: Callable[[InverseParams, Key, Transition], tuple[Array, Metrics]]  # over a batch [B, ...]
    predict: Callable[[InverseParams, Obs, Obs], Action]  # the likeliest action, within its bounds
    sample: Callable[[InverseParams, Key, Obs, Obs], Action]  # continuous actions may leave their bounds
    log_prob: Callable[[InverseParams, Obs, Obs, Action], Array]  # [] nats; a density where actions are continuous
    calibrate: Callable[[InverseParams, Transition, Array], InverseParams]  # scales set from rows [N] and mask [N]
    errors: Callable[[InverseParams, Transition], Array]  # of each row [B], for hold-out scores


class ActionHead(NamedTuple):
    """What depends on the kind of action. `out` is what the network gives for one row, [width]."""

    width: int  # entries of out
    size: int  # entries of an action that are scaled
    nll: Callable[[InverseParams, Array, Action], Array]  # (params, out, action) -> negative log-likelihood []
    error: Callable[[InverseParams, Array, Action], Array]  # (params, out, action) -> squared error [], scaled
    mode: Callable[[InverseParams, Array], Action]  # (params, out) -> the likeliest action
    dist: Callable[[InverseParams, Array], Any]  # (params, out) -> a distrax distribution over actions


class Networks(NamedTuple):
    """The network of an inverse model and what its outputs mean."""

    net: Net  # x [2 O], scaled -> out [width]
    head: ActionHead


def networks(cfg: InverseConfig, spec: Spec) -> Networks:
    """The network of an inverse model for one environment.

    Raises:
      ValueError: observations or actions that are not vectors, an unknown activation, a width below 1.
    """
    size = common.sizes(spec)[1] - 1  # of an observation; a dynamics model's targets have the reward as well
    if not isinstance(spec.action, Discrete | Box):
        raise ValueError(f"spec.action of {spec.name} must be Discrete or a Box, got {spec.action}")
    head = _discrete(spec) if isinstance(spec.action, Discrete) else _continuous(spec.action)
    return Networks(mlp(2 * size, cfg.hidden, head.width, cfg.activation, "narrow"), head)


def features(obs: Obs, next_obs: Obs) -> Array:
    """x of one pair of observations, [2 O], not yet scaled."""
    obs, next_obs = common.as_float(obs), common.as_float(next_obs)
    return jnp.concatenate([obs, next_obs - obs])


def forward(params: InverseParams, obs: Obs, next_obs: Obs, *, nets: Networks) -> Array:
    """The network's outputs for one pair of observations; no gradient flows into the scales.

    Args:
      params: of the model.
      obs, next_obs: [O] consecutive observations.
      nets: from `networks`.
    Returns:
      [width], to be read by `nets.head`.
    """
    return nets.net.apply(params.net, normalize(jax.lax.stop_gradient(params.inputs), features(obs, next_obs)))


def inverse_loss(
    params: InverseParams,
    batch: Transition,
    *,
    nets: Networks,
    weight_decay: Array | float,
    bound_weight: Array | float,
) -> tuple[Array, Metrics]:
    """Negative log-likelihood of a batch's actions, width of the variance bounds and weight decay.

        L = mean_batch[ nll(a | o, o') ] + b (Σ high - Σ low) + w 1/2 Σ ‖W‖²

    Args:
      params: which the loss is differentiated by.
      batch: [B, ...] transitions, of which `obs`, `next_obs` and `action` count.
      nets: from `networks`.
      weight_decay: w, at least 0.
      bound_weight: b, at least 0; without effect on discrete actions, which have no bounds.
    Returns:
      loss [] and the metrics `nll`, `bound_width` (Σ high - Σ low) and `decay`, each [].
    """

    def one(row: Transition) -> Array:
        return nets.head.nll(params, forward(params, row.obs, row.next_obs, nets=nets), row.action)

    nll = jnp.mean(jax.vmap(one)(batch))
    width = jnp.sum(params.high) - jnp.sum(params.low)
    decay = weight_decay * common.half_square(params.net)
    return nll + bound_weight * width + decay, {"nll": nll, "bound_width": width, "decay": decay}


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
    nets = networks(cfg, spec)
    head, obs_size = nets.head, common.sizes(spec)[1] - 1

    def init(key: Key) -> InverseParams:
        low, high = jnp.full(head.size, -10.0, jnp.float32), jnp.full(head.size, 0.5, jnp.float32)
        scales = identity_normalizer(2 * obs_size), identity_normalizer(head.size)
        return InverseParams(nets.net.init(key), low, high, *scales)

    def loss(params: InverseParams, key: Key, batch: Transition) -> tuple[Array, Metrics]:
        del key
        return inverse_loss(params, batch, nets=nets, weight_decay=cfg.weight_decay, bound_weight=cfg.bound_weight)

    def predict(params: InverseParams, obs: Obs, next_obs: Obs) -> Action:
        return head.mode(params, forward(params, obs, next_obs, nets=nets))

    def sample(params: InverseParams, key: Key, obs: Obs, next_obs: Obs) -> Action:
        return dists.sample_and_log_prob(head.dist(params, forward(params, obs, next_obs, nets=nets)), key)[0]

    def log_prob(params: InverseParams, obs: Obs, next_obs: Obs, action: Action) -> Array:
        return head.dist(params, forward(params, obs, next_obs, nets=nets)).log_prob(action)

    def calibrate(params: InverseParams, rows: Transition, mask: Array) -> InverseParams:
        params = params._replace(inputs=fit_normalizer(jax.vmap(features)(rows.obs, rows.next_obs), mask))
        return params._replace(actions=fit_normalizer(common.as_float(rows.action), mask)) if head.size else params

    def errors(params: InverseParams, batch: Transition) -> Array:
        def one(row: Transition) -> Array:
            return head.error(params, forward(params, row.obs, row.next_obs, nets=nets), row.action)

        return jax.vmap(one)(batch)

    return Inverse(init, loss, predict, sample, log_prob, calibrate, errors)


def label(model: Inverse, params: InverseParams, demonstration: Obs) -> Action:
    """The likeliest actions of an expert of whom only the observations are known.

    Args:
      model: the inverse model.
      params: what it has learned.
      demonstration: [T + 1, O] consecutive observations of one episode.
    Returns:
      [T, ...] the actions between them.
    Raises:
      ValueError: fewer than two observations.
    """
    if demonstration.shape[0] < 2:
        raise ValueError(f"demonstration must hold at least 2 observations, got {demonstration.shape[0]}")
    return jax.vmap(model.predict, (None, 0, 0))(params, demonstration[:-1], demonstration[1:])


def as_member(model: Inverse) -> WorldModel:
    """The inverse model in the form that `models.dynamics.fit.trainer` fits. It cannot be stepped.

    Raises:
      TypeError: on calling its `encode` or `step`.
    """

    def no_step(*_: object) -> NoReturn:
        raise TypeError("an inverse model predicts actions and has no step")

    return WorldModel(model.init, model.loss, no_step, no_step, calibrate=model.calibrate, errors=model.errors)


def _discrete(spec: Spec) -> ActionHead:
    """A categorical distribution; `out` are its logits."""
    n = spec.num_actions

    def error(params: InverseParams, out: Array, action: Action) -> Array:
        return jnp.mean(jnp.square(jax.nn.softmax(out) - jax.nn.one_hot(action, n, dtype=jnp.float32)))

    return ActionHead(
        width=n,
        size=0,
        nll=lambda params, out, action: -jax.nn.log_softmax(out)[action],
        error=error,
        mode=lambda params, out: jnp.argmax(out).astype(spec.action.dtype),
        dist=lambda params, out: dists.categorical(out),
    )


def _continuous(box: Box) -> ActionHead:
    """A diagonal Gaussian; `out` are its mean and its log-variance before the bounds, both scaled."""

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

    return ActionHead(
        width=2 * box.size,
        size=box.size,
        nll=lambda params, out, action: gaussian_nll(*split(params, out), target(params, action)),
        error=lambda params, out, action: jnp.mean(jnp.square(split(params, out)[0] - target(params, action))),
        mode=mode,
        dist=dist,
    )
