"""What the dynamics models over vector observations share: networks, inputs, targets, scales and termination.

    x = [o, a]              an action of a discrete space as one-hot
    y = [o' - o, r]
    e = [o, a, o', o'²]     input of the termination classifier

Observations and rewards of any dtype, integers and bools among them, are float32 here before any arithmetic.
All are scaled to mean 0 and deviation 1 by statistics of the training rows, which are constants to the gradient.

Termination has a network of its own, z = g(e), because it is rare and depends more on the state a step leads to than
on the state it leaves, most often through a bound on some entry; the squares let a few terminal rows locate bounds on
both sides. As one more output of the dynamics network it was learned badly: a Gaussian likelihood that fits a
deterministic environment to 1e-5 outweighs the cross-entropy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Box, Discrete, Obs, Params, Spec, StepOut, Transition, WorldModel
from mbrl_jax.envs.spaces import vector_size
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.model_losses import binary_cross_entropy
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize

CLIP = 10.0  # the termination network's inputs are clipped to this many deviations from the mean


class Scales(NamedTuple):
    """The normalisers of a model."""

    inputs: Normalizer  # [D_x]
    targets: Normalizer  # [D_y]


class Networks(NamedTuple):
    """The networks of a dynamics model, and the spaces that they are made for."""

    spec: Spec
    dynamics: Net  # x [D_x], scaled -> [k D_y], k outputs for each entry of y
    termination: Net | None  # e [3 |o| + |a|], scaled -> [1], a logit; None where no state ends an episode


# Inputs and targets -------------------------------------------------------------------------------------------------


def sizes(spec: Spec) -> tuple[int, int]:
    """D_x and D_y, the numbers of entries of x and of y.

    Raises:
      ValueError: observations, or continuous actions, are not vectors.
    """
    obs_size = vector_size(spec)
    if isinstance(spec.action, Box) and len(spec.action.shape) != 1:
        raise ValueError(f"spec.action of {spec.name} must be Discrete or a Box of rank 1, got {spec.action}")
    action_size = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
    return obs_size + action_size, obs_size + 1


def as_float(x: Any) -> Array:
    """An array as float32: the difference of two unsigned integers would wrap around, that of two bools is refused."""
    return jnp.asarray(x, jnp.float32)


def features(spec: Spec, obs: Obs, action: Action) -> Array:
    """x of one observation and action, [D_x], not yet scaled."""
    code = jax.nn.one_hot(action, spec.action.n, dtype=jnp.float32) if isinstance(spec.action, Discrete) else action
    return jnp.concatenate([as_float(obs), as_float(code)])


def target(row: Transition) -> Array:
    """y of one transition, [D_y], not yet scaled."""
    return jnp.concatenate([as_float(row.next_obs) - as_float(row.obs), as_float(row.reward)[None]])


def scaled_target(scales: Scales, row: Transition) -> Array:
    """y of one transition, [D_y], scaled; no gradient flows into the scales."""
    return normalize(jax.lax.stop_gradient(scales.targets), target(row))


def terminated(row: Transition) -> Array:
    """1 where a transition terminates, else 0; [] float. A time limit is no termination."""
    return (row.discount == 0).astype(jnp.float32)


def identity_scales(spec: Spec) -> Scales:
    """Scales that change nothing."""
    inputs, outputs = sizes(spec)
    return Scales(identity_normalizer(inputs), identity_normalizer(outputs))


def fit_scales(spec: Spec, rows: Transition, mask: Array) -> Scales:
    """Scales of the rows [N, ...] where the mask [N] holds."""
    x = jax.vmap(lambda row: features(spec, row.obs, row.action))(rows)
    return Scales(fit_normalizer(x, mask), fit_normalizer(jax.vmap(target)(rows), mask))


def decode_target(scales: Scales, obs: Obs, y: Array) -> tuple[Obs, Array]:
    """The next observation, and the reward [], that a y stands for.

    Args:
      scales: the model's.
      obs: where the step starts.
      y: [D_y] predicted or sampled, scaled.
    """
    change = denormalize(scales.targets, y)
    return as_float(obs) + change[:-1], change[-1]


# Networks -----------------------------------------------------------------------------------------------------------


def networks(spec: Spec, hidden: tuple[int, ...], activation: str, per_target: int) -> Networks:
    """The networks of a model.

    Args:
      spec: observations a vector, actions a vector or discrete.
      hidden: widths of the dynamics network's hidden layers.
      activation: of its hidden layers, a name in `nets.mlp.ACTIVATIONS`.
      per_target: outputs for each entry of y: 1 for a mean, 2 for a mean and a log-variance.
    Raises:
      ValueError: observations or actions that are not vectors, an unknown activation, a width below 1.
    """
    inputs, outputs = sizes(spec)
    dynamics = mlp(inputs, hidden, per_target * outputs, activation, "narrow")
    return Networks(spec, dynamics, termination_network(spec))


def forward(nets: Networks, net: Params, scales: Scales, obs: Obs, action: Action) -> Array:
    """The dynamics network's outputs for one step; no gradient flows into the scales.

    Args:
      nets: the model's networks.
      net: parameters of the dynamics network.
      scales: the model's.
      obs, action: the step, unbatched.
    Returns:
      [k D_y] scaled.
    """
    inputs = jax.lax.stop_gradient(scales.inputs)
    return nets.dynamics.apply(net, normalize(inputs, features(nets.spec, obs, action)))


def termination_network(spec: Spec) -> Net | None:
    """The network of the logit of termination, over `termination_features`; None where no state ends an episode."""
    inputs, outputs = sizes(spec)
    return mlp(inputs + 2 * (outputs - 1), (64, 64), 1, "silu") if spec.terminates else None


def termination_features(spec: Spec, scales: Scales, obs: Obs, action: Action, next_obs: Obs) -> Array:
    """e of one step, scaled and clipped.

    Args:
      spec: the environment's.
      scales: the model's.
      obs, action, next_obs: the step, unbatched.
    Returns:
      [3 |o| + |a|].
    """
    before, after = (
        jnp.clip(normalize(scales.inputs, features(spec, o, action)), -CLIP, CLIP) for o in (obs, next_obs)
    )
    after = after[: next_obs.shape[0]]
    return jnp.concatenate([before, after, jnp.square(after)])


def termination_logit(
    nets: Networks, net: Params, scales: Scales, obs: Obs, action: Action, next_obs: Obs
) -> Array | None:
    """Logit of the probability that a step terminates the episode.

    Args:
      nets: the model's networks.
      net: parameters of the termination network.
      scales: the model's; no gradient flows into them.
      obs, action, next_obs: the step, unbatched.
    Returns:
      z [], or None where no state ends an episode.
    """
    if nets.termination is None:
        return None
    e = termination_features(nets.spec, jax.lax.stop_gradient(scales), obs, action, next_obs)
    return nets.termination.apply(net, e)[0]


# Losses and errors --------------------------------------------------------------------------------------------------


def termination_cross_entropy(logit: Array | None, row: Transition) -> Array:
    """Cross-entropy [] of one row's termination, CE(z, terminated); 0 without a termination network."""
    return jnp.zeros((), jnp.float32) if logit is None else binary_cross_entropy(logit, terminated(row))


def half_square(net: Params) -> Array:
    """1/2 Σ ‖W‖² over the weight matrices of one network, biases left out; []."""
    return 0.5 * sum(
        (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(net) if leaf.ndim > 1), jnp.zeros((), jnp.float32)
    )


def prediction_error(mean: Array, y: Array, logit: Array | None, end: Array) -> Array:
    """Squared error of one prediction in scaled units, the mean over everything predicted.

    With a termination network the squared error of its probability, its Brier score, counts as one more entry: unlike
    cross-entropy it is bounded, so that one confident mistake does not decide early stopping or the choice of elites.

    Args:
      mean: [D_y] predicted y, scaled.
      y: [D_y] y, scaled.
      logit: [] of termination, or None without a termination network.
      end: [] 1 where the row terminates.
    Returns:
      [] error.
    """
    error = jnp.square(mean - y)
    if logit is not None:
        error = jnp.append(error, jnp.square(jax.nn.sigmoid(logit) - end))
    return jnp.mean(error)


# The model ----------------------------------------------------------------------------------------------------------


def step_out(nets: Networks, params: Any, obs: Obs, action: Action, y: Array) -> StepOut:
    """One step of a model: the observation and reward that y says, and the probability of going on as the discount.

    Args:
      nets: the model's networks.
      params: the model's, with the fields `scales` and `termination`.
      obs, action: where the step starts and what is done there, unbatched.
      y: [D_y] predicted or sampled, scaled.
    """
    next_obs, reward = decode_target(params.scales, obs, y)
    logit = termination_logit(nets, params.termination, params.scales, obs, action, next_obs)
    return StepOut(next_obs, reward, jnp.ones((), jnp.float32) if logit is None else jax.nn.sigmoid(-logit))


def moments(scales: Scales, obs: Obs, mean: Array, std: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of [o', r], [D_y] each, in the units of observations and rewards.

    Args:
      scales: the model's; no gradient flows into them.
      obs: where the step starts.
      mean, std: [D_y] of y, scaled.
    """
    scales = jax.lax.stop_gradient(scales)
    next_obs, reward = decode_target(scales, obs, mean)
    return jnp.append(next_obs, reward), std * scales.targets.std


def observation_model(nets: Networks, init: Any, loss: Any, mean: Any, step: Any, std: Any = None) -> WorldModel:
    """A `WorldModel` whose state is the observation.

    Args:
      nets: its networks.
      init: (key) -> params, with the fields `scales` and `termination`.
      loss: (params, key, batch [B, ...]) -> loss [], metrics.
      mean: (params, obs, action) -> mean of the predicted y [D_y], scaled; `errors` are its errors.
      step: (params, key, obs, action) -> StepOut.
      std: (params, obs, action) -> standard deviation of the predicted y [D_y], scaled; 0 if None.
    """

    def of_step(params: Any, obs: Obs, action: Action) -> tuple[Array, Array]:
        center = mean(params, obs, action)
        return moments(params.scales, obs, center, jnp.zeros_like(center) if std is None else std(params, obs, action))

    def error(params: Any, row: Transition) -> Array:
        logit = termination_logit(nets, params.termination, params.scales, row.obs, row.action, row.next_obs)
        y = scaled_target(params.scales, row)
        return prediction_error(mean(params, row.obs, row.action), y, logit, terminated(row))

    return WorldModel(
        init,
        loss,
        encode=lambda params, key, obs: as_float(obs),
        step=step,
        decode=lambda params, state: state,
        calibrate=lambda params, rows, mask: params._replace(scales=fit_scales(nets.spec, rows, mask)),
        errors=lambda params, batch: jax.vmap(error, (None, 0))(params, batch),
        moments=of_step,
    )
