"""What TD-MPC2 learns from a window of experience: targets, and the losses of an unroll.

Hansen et al. 2024 (arXiv 2310.16828), and the authors' code. From the first of H + 1 rows the latent is unrolled over H
recorded actions, z_0 = h(o_0), z_{t+1} = d(z_t, a_t), and held against what was then seen:

    z̄_{t+1} = sg h(o_{t+1}),    y_t = r_t + γ d_t min_{two of N} Q̄_i(z̄_{t+1}, a'),  a' ~ π(z̄_{t+1})
    consistency_t = mean (z_{t+1} - z̄_{t+1})²      reward_t = CE(R(z_t, a_t), r_t)
    value_t = mean_i CE(Q_i(z_t, a_t), y_t)         termination_t = BCE(T(z_{t+1}), 1 - d_t)

Rows are those of `buffers.sequence`: `reward` and `discount` are those of arriving at `obs`. What lies past the end of
the first row's episode is masked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Array, Key, Obs, Params
from mbrl_jax.models.tdmpc2.networks import (
    Latent,
    Networks,
    TDMPCParams,
    World,
    advance,
    draw,
    encode,
    reward_logits,
    termination_logit,
    value_logits,
)
from mbrl_jax.models.tdmpc2.sizes import decode, two_hot_symlog
from mbrl_jax.ops.model_losses import binary_cross_entropy, squared_error


class Rows(NamedTuple):
    """One window in the form of H transitions."""

    obs: Obs  # [H + 1, ...]
    action: Array  # [H, A]
    reward: Array  # [H] received for it
    discount: Array  # [H] 0 where that ended the episode
    live: Array  # [H] 1 where the step belongs to the first row's episode, else 0


class Held(NamedTuple):
    """What an unroll is held against; no gradient flows into it."""

    later: Latent  # [H, ...] the encoded observation after each step
    target: Array  # [H] of values


def rows_of(steps: Any) -> Rows:
    """The transitions of one window of `buffers.sequence` rows [H + 1, ...].

    Nothing is live in a window that starts at the end of an episode: nothing is done there.
    """
    chex.assert_rank([steps.reward, steps.last], 1)
    live = jnp.cumprod(1.0 - steps.last[:-1].astype(jnp.float32))
    return Rows(steps.obs, steps.action[:-1], steps.reward[1:], steps.discount[1:], live)


def hold(nets: Networks, params: TDMPCParams, pair: Params, key: Key, rows: Rows, gamma: Array | float) -> Held:
    """Latents and value targets of one window.

    Args:
      nets: the networks.
      params: theirs.
      pair: two of the target values, [2, ...].
      key: of the policy's actions.
      rows: H transitions.
      gamma: discount per step.
    """

    def one(key: Key, obs: Obs, reward: Array, discount: Array) -> tuple[Latent, Array]:
        later = encode(nets, params.world, obs)
        logits = value_logits(nets, pair, later, draw(nets, params.policy, key, later).action)
        value = jnp.min(jax.vmap(decode, (0, None))(logits, nets.bins))
        return later, reward + gamma * discount * value

    obs = jax.tree.map(lambda leaf: leaf[1:], rows.obs)
    keys = jax.random.split(key, rows.reward.shape[0])
    return Held(*jax.lax.stop_gradient(jax.vmap(one)(keys, obs, rows.reward, rows.discount)))


def unroll_world(nets: Networks, world: World, obs: Obs, action: Array) -> Latent:
    """Latents [H + 1, ...] from one observation along actions [H, A]."""
    start = encode(nets, world, obs)

    def one(state: Latent, action: Array) -> tuple[Latent, Latent]:
        state = advance(nets, world, state, action)
        return state, state

    _, later = jax.lax.scan(one, start, action)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, later)


def classify(logits: Array, target: Array, bins: Array) -> Array:
    """-Σ_i w_i log p_i [] with w = two-hot(target []); logits [bins]."""
    return -jnp.sum(two_hot_symlog(target, bins) * jax.nn.log_softmax(logits))


def world_losses(
    nets: Networks, world: World, key: Key, rows: Rows, held: Held, dropout: Array | float
) -> tuple[Latent, dict[str, Array]]:
    """The losses of one window, before their weights.

    Args:
      nets: the networks.
      world: their parameters.
      key: of the dropout.
      rows: H transitions.
      held: for them.
      dropout: rate in the first layer of the values.
    Returns:
      the latents [H + 1, ...]; "consistency", "reward", "value", and "termination" where there is such a head, each [H]
      and masked by `rows.live`.
    """
    states = unroll_world(nets, world, jax.tree.map(lambda leaf: leaf[0], rows.obs), rows.action)
    before, after = (jax.tree.map(lambda leaf, at=at: leaf[at], states) for at in (slice(None, -1), slice(1, None)))

    def one(key: Key, before: Latent, action: Array, reward: Array, target: Array) -> tuple[Array, Array]:
        of_value = value_logits(nets, world.values, before, action, key, dropout)
        losses = jax.vmap(classify, (0, None, None))(of_value, target, nets.bins)
        return classify(reward_logits(nets, world, before, action), reward, nets.bins), jnp.mean(losses)

    keys = jax.random.split(key, rows.reward.shape[0])
    of_reward, of_value = jax.vmap(one)(keys, before, rows.action, rows.reward, held.target)
    losses = {"consistency": jax.vmap(squared_error)(after.z, held.later.z), "reward": of_reward, "value": of_value}
    if nets.termination is not None:
        logits = jax.vmap(lambda state: termination_logit(nets, world, state))(after)
        losses["termination"] = jax.vmap(binary_cross_entropy)(logits, 1.0 - rows.discount)
    return states, {name: rows.live * loss for name, loss in losses.items()}


def policy_value(
    nets: Networks, policy: Params, pair: Params, key: Key, state: Latent, dropout: Array | float
) -> tuple[Array, Array, Array]:
    """What an action of the policy is worth in one state, by two of the values [2, ...]; gradients pass through it.

    Returns:
      mean of the two values [], scaled entropy [], entropy [].
    """
    key_draw, key_drop = jax.random.split(key)
    drawn = draw(nets, policy, key_draw, state)
    logits = value_logits(nets, pair, state, drawn.action, key_drop, dropout)
    return jnp.mean(jax.vmap(decode, (0, None))(logits, nets.bins)), drawn.scaled_entropy, drawn.entropy
