"""TD-MPC2's targets and loss terms of one window of experience.

Hansen et al. 2024 (arXiv 2310.16828), and the authors' code. From the first of H + 1 rows the latent is unrolled over H
recorded actions, z_0 = h(o_0), z_{t+1} = d(z_t, a_t), and compared with what was observed:

    z̄_{t+1} = sg h(o_{t+1}),    y_t = r_t + γ d_t min_{two of N} Q̄_i(z̄_{t+1}, a'),  a' ~ π(z̄_{t+1})
    consistency_t = mean (z_{t+1} - z̄_{t+1})²      reward_t = CE(R(z_t, a_t), r_t)
    value_t = mean_i CE(Q_i(z_t, a_t), y_t)         termination_t = BCE(T(z_{t+1}), 1 - d_t)

Rows are those of `buffers.sequence`: `reward` and `discount` are those of arriving at `obs`. Steps after the end of the
first row's episode are masked.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.buffers.sequence import Step
from mbrl_jax.core.types import Array, Key, Obs, Params
from mbrl_jax.models.tdmpc2.networks import (
    Latent,
    Networks,
    TDMPCParams,
    WorldParams,
    decode_values,
    encode,
    next_latent,
    reward_logits,
    sample_action,
    termination_logit,
    value_logits,
)
from mbrl_jax.ops.model_losses import binary_cross_entropy, squared_error
from mbrl_jax.ops.transforms import symlog
from mbrl_jax.ops.two_hot import two_hot_cross_entropy


class Transitions(NamedTuple):
    """A window as H transitions."""

    obs: Obs  # [H + 1, ...]
    action: Array  # [H, A]
    reward: Array  # [H] received for it
    discount: Array  # [H] 0 where the step ended the episode
    mask: Array  # [H] 1 where the step belongs to the first row's episode, else 0


class Targets(NamedTuple):
    """What an unroll is compared with; no gradient flows into it."""

    latent: Latent  # [H, ...] encodings of the observations after each step
    value: Array  # [H] TD targets


def to_transitions(steps: Step) -> Transitions:
    """The transitions of one window of `buffers.sequence` rows [H + 1, ...].

    A window that starts at the end of an episode is masked as a whole: no action was taken there.
    """
    chex.assert_rank([steps.reward, steps.last], 1)
    mask = jnp.cumprod(1.0 - steps.last[:-1].astype(jnp.float32))
    return Transitions(steps.obs, steps.action[:-1], steps.reward[1:], steps.discount[1:], mask)


def window_targets(
    params: TDMPCParams, key: Key, window: Transitions, *, nets: Networks, pair: Params, gamma: Array | float
) -> Targets:
    """Latent and TD targets of one window.

    Args:
      params: of encoder and policy.
      key: draws the policy's actions.
      window: H transitions.
      nets: the networks.
      pair: parameters of two target value networks, [2, ...]; the smaller value counts.
      gamma: [] discount per step.
    """

    def one(key: Key, obs: Obs, reward: Array, discount: Array) -> tuple[Latent, Array]:
        latent = encode(nets, params.world, obs)
        action = sample_action(nets, params.policy, key, latent).action
        value = jnp.min(decode_values(nets, value_logits(nets, pair, latent, action)))
        return latent, reward + gamma * discount * value

    obs = jax.tree.map(lambda leaf: leaf[1:], window.obs)
    keys = jax.random.split(key, window.reward.shape[0])
    return Targets(*jax.lax.stop_gradient(jax.vmap(one)(keys, obs, window.reward, window.discount)))


def unroll_latents(nets: Networks, world: WorldParams, obs: Obs, action: Array) -> Latent:
    """The latents that follow from one observation along recorded actions.

    Args:
      nets: the networks.
      world: their parameters.
      obs: the first observation.
      action: [H, A].
    Returns:
      [H + 1, ...] latents, that of the first observation included.
    """
    start = encode(nets, world, obs)

    def one(state: Latent, action: Array) -> tuple[Latent, Latent]:
        state = next_latent(nets, world, state, action)
        return state, state

    _, later = jax.lax.scan(one, start, action)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, later)


def cross_entropy(nets: Networks, logits: Array, target: Array) -> Array:
    """The loss of a predicted reward or value distribution.

        -Σ_i w_i log softmax(l)_i,   w the two-hot weights of symlog(x)

    Args:
      nets: the networks, for their bins.
      logits: [bins] l.
      target: [] x.
    Returns:
      [] nats.
    """
    return two_hot_cross_entropy(logits, target, nets.bins, symlog)


def window_terms(
    world: WorldParams, key: Key, window: Transitions, targets: Targets, *, nets: Networks, dropout: Array | float
) -> tuple[Latent, dict[str, Array]]:
    """The terms of the world loss for each step of one window, before their weights.

    Args:
      world: parameters of the networks.
      key: of dropout.
      window: H transitions.
      targets: of the window.
      nets: the networks.
      dropout: rate in the first layer of the value networks, in [0, 1).
    Returns:
      the unrolled latents [H + 1, ...]; "consistency", "reward", "value", and "termination" where there is such a head,
      each [H] and masked.
    """
    latents = unroll_latents(nets, world, jax.tree.map(lambda leaf: leaf[0], window.obs), window.action)
    before, after = (jax.tree.map(lambda leaf, at=at: leaf[at], latents) for at in (slice(None, -1), slice(1, None)))

    def one(key: Key, latent: Latent, action: Array, reward: Array, target: Array) -> tuple[Array, Array]:
        logits = value_logits(nets, world.values, latent, action, key, dropout)
        of_values = jax.vmap(lambda logits: cross_entropy(nets, logits, target))(logits)
        return cross_entropy(nets, reward_logits(nets, world, latent, action), reward), jnp.mean(of_values)

    keys = jax.random.split(key, window.reward.shape[0])
    of_reward, of_value = jax.vmap(one)(keys, before, window.action, window.reward, targets.value)
    terms = {"consistency": jax.vmap(squared_error)(after.z, targets.latent.z), "reward": of_reward, "value": of_value}
    if nets.termination is not None:
        logits = jax.vmap(lambda state: termination_logit(nets, world, state))(after)
        terms["termination"] = jax.vmap(binary_cross_entropy)(logits, 1.0 - window.discount)
    return latents, {name: window.mask * term for name, term in terms.items()}


def policy_value(
    policy: Params, key: Key, state: Latent, *, nets: Networks, pair: Params, dropout: Array | float
) -> tuple[Array, Array, Array]:
    """The value of an action that the policy draws in one latent; gradients flow through the action.

    Args:
      policy: its parameters.
      key: of the action and of dropout.
      state: one latent.
      nets: the networks.
      pair: parameters of two value networks, [2, ...].
      dropout: rate in the first layer of the value networks, in [0, 1).
    Returns:
      mean of the two values [], scaled entropy [], entropy [].
    """
    key_draw, key_drop = jax.random.split(key)
    drawn = sample_action(nets, policy, key_draw, state)
    logits = value_logits(nets, pair, state, drawn.action, key_drop, dropout)
    return jnp.mean(decode_values(nets, logits)), drawn.scaled_entropy, drawn.entropy
