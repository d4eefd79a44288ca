"""What models over vector observations share: their inputs, targets and scales.

    x = [o, a]          an action of a discrete space as one-hot
    y = [o' - o, r]
    e = [o, a, o', o'²]    what termination is told by

All are scaled to mean 0 and deviation 1 by statistics of the training rows, which are constants to the gradient.

Termination has a network of its own. It is a rare event, told by the state that a step leads to more than by the one it
leaves, and most often by a bound on some entry of it; squares put both sides of a bound within reach of the few rows
that ended. As one more output of the dynamics' network it was learned badly: a likelihood that knows a deterministic
world to 1e-5 outweighs a cross-entropy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Box, Discrete, Obs, Params, Spec, Transition
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.normalize import Normalizer, denormalize, fit_normalizer, identity_normalizer, normalize

FARTHEST = 10.0  # deviations from the mean beyond which states look alike to the termination network


class Scales(NamedTuple):
    """The normalisers of a model."""

    inputs: Normalizer  # [D_x]
    targets: Normalizer  # [D_y]


def sizes(spec: Spec) -> tuple[int, int]:
    """Entries of x and of y.

    Raises:
      ValueError: observations, or continuous actions, are not vectors.
    """
    if not isinstance(spec.obs, Box) or len(spec.obs.shape) != 1:
        raise ValueError(f"spec.obs of {spec.name} must be a Box of rank 1, got {spec.obs}")
    if isinstance(spec.action, Box) and len(spec.action.shape) != 1:
        raise ValueError(f"spec.action of {spec.name} must be Discrete or a Box of rank 1, got {spec.action}")
    action = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
    return spec.obs.size + action, spec.obs.size + 1


def features(spec: Spec, obs: Obs, action: Action) -> Array:
    """x of one observation and action, [D_x], not yet scaled."""
    code = jax.nn.one_hot(action, spec.action.n) if isinstance(spec.action, Discrete) else action
    return jnp.concatenate([obs, code]).astype(jnp.float32)


def targets(row: Transition) -> Array:
    """y of one transition, [D_y], not yet scaled."""
    return jnp.concatenate([row.next_obs - row.obs, row.reward[None]]).astype(jnp.float32)


def ends(row: Transition) -> Array:
    """1 where a transition terminates, else 0; [] float. A time limit is no termination."""
    return (row.discount == 0).astype(jnp.float32)


def termination(spec: Spec) -> Net | None:
    """The network of the logit of termination, over `termination_features`; None where no state ends an episode."""
    inputs, outputs = sizes(spec)
    return mlp(inputs + 2 * (outputs - 1), (64, 64), 1, "silu") if spec.terminates else None


def termination_features(spec: Spec, scales: Scales, obs: Obs, action: Action, next_obs: Obs) -> Array:
    """e of one step, [3 |o| + |a|], scaled."""
    before, after = (
        jnp.clip(normalize(scales.inputs, features(spec, o, action)), -FARTHEST, FARTHEST) for o in (obs, next_obs)
    )
    after = after[: next_obs.shape[0]]
    return jnp.concatenate([before, after, jnp.square(after)])


def termination_logit(
    net: Net | None, params: Params, spec: Spec, scales: Scales, obs: Obs, action: Action, next_obs: Obs
) -> Array | None:
    """The logit [] of an episode's end by a step, from `termination`'s network; None without one."""
    return None if net is None else net.apply(params, termination_features(spec, scales, obs, action, next_obs))[0]


def unit_scales(spec: Spec) -> Scales:
    """Scales that change nothing."""
    inputs, outputs = sizes(spec)
    return Scales(identity_normalizer(inputs), identity_normalizer(outputs))


def fit_scales(spec: Spec, rows: Transition, mask: Array) -> Scales:
    """Scales of the rows [N, ...] where the mask [N] holds."""
    x = jax.vmap(lambda row: features(spec, row.obs, row.action))(rows)
    return Scales(fit_normalizer(x, mask), fit_normalizer(jax.vmap(targets)(rows), mask))


def advance(scales: Scales, obs: Obs, target: Array) -> tuple[Obs, Array]:
    """The next observation and the reward [] that a scaled y [D_y] stands for."""
    change = denormalize(scales.targets, target)
    return obs + change[:-1], change[-1]


def half_square(net: Params) -> Array:
    """1/2 Σ ‖W‖² over the weight matrices of one network, biases left out; []."""
    return 0.5 * sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(net) if leaf.ndim > 1), jnp.zeros(()))


def prediction_error(mean: Array, target: Array, logit: Array | None, end: Array) -> Array:
    """Squared error of one prediction in scaled units, the mean over everything predicted.

    With a termination head the squared error of its probability, its Brier score, counts as one more entry: bounded,
    unlike cross-entropy, so that one confident mistake does not decide when a fit stops and which members are best.

    Args:
      mean: [D_y] predicted y, scaled.
      target: [D_y] y, scaled.
      logit: [] of termination, or None without a head.
      end: [] 1 where the row terminates.
    Returns:
      [] error.
    """
    error = jnp.square(mean - target)
    if logit is not None:
        error = jnp.append(error, jnp.square(jax.nn.sigmoid(logit) - end))
    return jnp.mean(error)
