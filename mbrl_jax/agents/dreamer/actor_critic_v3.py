"""DreamerV3's actor and critic: imagination, targets, losses and their gradients.

Symbols as in `agents.dreamer.v3`:

    trajectories and what the heads predict     `imagine_trajectory`
    R, w        imagined λ-returns, weights     `imagined_targets`
    G           λ-returns of replayed rows      `replay_targets`
    L_π, L_v    on imagined states              `policy_loss`, `critic_loss`, their sum `actor_critic_loss`
    L_rv        on replayed states              `replay_critic_loss`
    the gradient of L_π + L_v, step by step     `actor_critic_grads`
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.dreamer.common import Policy, factored_policy
from mbrl_jax.core.sharding import mean_of_shares
from mbrl_jax.core.types import Action, Array, Discrete, Key, Metrics, MultiDiscrete, Params, Space
from mbrl_jax.models.rssm.dreamer_v3 import DreamerParams, Networks, predicted_discount, predicted_reward
from mbrl_jax.models.rssm.rssm import Latent, Rows, features
from mbrl_jax.ops import dists, return_scale
from mbrl_jax.ops.return_scale import ReturnRange
from mbrl_jax.ops.returns import gae, lambda_returns
from mbrl_jax.ops.two_hot import expectation, two_hot_cross_entropy


class ImaginedStep(NamedTuple):
    """One step of an imagined trajectory."""

    feature: Array  # [F] of the state
    action: Action  # taken there


class HeadOutputs(NamedTuple):
    """What the heads predict at a state, [] each."""

    reward: Array  # on arriving there
    discount: Array  # γ times the probability that the state is not terminal
    value: Array
    ema_value: Array  # value by the EMA critic


class ActorCriticBatch(NamedTuple):
    """N imagined states with everything that actor and critic learn from there; all constants."""

    step: ImaginedStep  # [N, ...]
    advantage: Array  # [N] (R - v) / S
    returns: Array  # [N] R
    ema_value: Array  # [N] v', values by the EMA critic
    weights: Array  # [N] w


class ActorCriticGrads(NamedTuple):
    """Gradients of actor and critic on imagined trajectories, and what they were computed from."""

    grads: tuple[Params, Params]  # of L_π + L_v, for actor and critic
    returns: Array  # [H, N] R
    ema_value: Array  # [H + 1, N] v'
    range: ReturnRange  # of returns, updated
    metrics: Metrics


IntrinsicReward = Callable[[ImaginedStep, Array], Array]
"""(step, the model's reward on arriving at the next state []) -> the reward to learn from in its place []."""


def make_policy(space: Space, unimix: Array | float) -> Policy:
    """The policy for an action space, a function of the actor's outputs x or (m, s).

        discrete     log((1 - ε) softmax(x) + ε / A)
        continuous   N(tanh(m), σ²),  σ = 0.1 + 0.9 sigmoid(s + 2)

    A vector of discrete actions has a policy of its own for each entry (`factored_policy`). Continuous samples may lie
    outside [-1, 1]; `to_env` clips them.

    Args:
      space: action space.
      unimix: ε in [0, 1), share of the uniform distribution; may be traced.
    """
    if isinstance(space, Discrete):
        return _categorical_policy(space.n, unimix)
    if isinstance(space, MultiDiscrete):
        return factored_policy(space, partial(_categorical_policy, unimix=unimix))

    def normal(out: Array) -> Any:
        mean, raw = jnp.split(out, 2)
        return dists.normal(jnp.tanh(mean), jnp.log(0.1 + 0.9 * jax.nn.sigmoid(raw + 2.0)))

    return Policy(
        sample=lambda key, out: normal(out).sample(seed=key),
        mode=lambda out: jnp.tanh(jnp.split(out, 2)[0]),
        log_prob=lambda out, action: normal(out).log_prob(action),
        entropy=lambda out: normal(out).entropy().astype(jnp.float32),
        to_env=lambda action: jnp.clip(action, -1.0, 1.0),
        outputs=2 * space.size,
    )


def _categorical_policy(n: int, unimix: Array | float) -> Policy:
    def logits(out: Array) -> Array:
        return jnp.logaddexp(jax.nn.log_softmax(out) + jnp.log1p(-unimix), jnp.log(unimix / n))

    return Policy(
        sample=lambda key, out: jax.random.categorical(key, logits(out)).astype(jnp.int32),
        mode=lambda out: jnp.argmax(out).astype(jnp.int32),
        log_prob=lambda out, action: jnp.sum(jax.nn.one_hot(action, n, dtype=jnp.float32) * logits(out)),
        entropy=lambda out: dists.categorical_entropy(logits(out)),
        to_env=lambda action: action,
        outputs=n,
    )


def actor_outputs(nets: Networks, actor: Params, feature: Array) -> Array:
    """The actor's outputs at one state.

    Args:
      nets: the networks.
      actor: parameters.
      feature: [F] of the state.
    Returns:
      what `Policy` takes, [O] float32.
    """
    return nets.actor.apply(actor, feature).astype(jnp.float32)


def critic_logits(nets: Networks, critic: Params, feature: Array) -> Array:
    """The critic's distribution of the return from one state.

    Args:
      nets: the networks.
      critic: parameters.
      feature: [F] of the state.
    Returns:
      its logits over `nets.bins`, [bins] float32.
    """
    return nets.critic.apply(critic, feature).astype(jnp.float32)


# Imagination and targets --------------------------------------------------------------------------------------------


def imagine_trajectory(
    key: Key,
    params: DreamerParams,
    starts: Latent,
    *,
    ema_critic: Params,
    nets: Networks,
    policy: Policy,
    horizon: int,
) -> tuple[ImaginedStep, HeadOutputs]:
    """H imagined steps from each of N states, and the heads' predictions at every state.

    The predictions come with the steps, since the bins of one step fit in a cache and those of all steps do not.

    Args:
      key: for sampling actions and latents.
      params: of all networks.
      starts: [N, ...] states.
      ema_critic: parameters of the EMA critic.
      nets: the networks.
      policy: of the actor's outputs.
      horizon: H, at least 1.
    Returns:
      the steps [H, N, ...], and the predictions [H + 1, N] at their states and at the last one.
    """
    batch = starts.deter.shape[0]

    def predict(feature: Array) -> HeadOutputs:
        critics = params.critic, ema_critic
        values = (expectation(critic_logits(nets, critic, feature), nets.bins) for critic in critics)
        return HeadOutputs(predicted_reward(nets, params, feature), predicted_discount(nets, params, feature), *values)

    def batch_step(states: Latent, i: Array) -> tuple[Latent, tuple[ImaginedStep, HeadOutputs]]:
        keys = jax.random.split(jax.random.fold_in(key, i), (2, batch))

        def one(key_policy: Key, key_step: Key, state: Latent) -> tuple[Latent, tuple[ImaginedStep, HeadOutputs]]:
            feature = features(state)
            action = policy.sample(key_policy, actor_outputs(nets, params.actor, feature))
            after = nets.rssm.step(params.rssm, key_step, state, action)
            return after, (ImaginedStep(feature, action), predict(feature))

        return jax.vmap(one)(keys[0], keys[1], states)

    ends, (steps, outputs) = jax.lax.scan(batch_step, starts, jnp.arange(horizon))
    at_end = jax.vmap(lambda state: predict(features(state)))(ends)
    return steps, jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), outputs, at_end)


def imagined_targets(outputs: HeadOutputs, lam: Array | float) -> tuple[Array, Array]:
    """λ-returns and weights of one imagined trajectory.

        R_t = r_{t+1} + c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H,      w_t = Π_{k<=t} c_k

    Args:
      outputs: [H + 1] at the trajectory's states; the first reward is unused.
      lam: λ in [0, 1].
    Returns:
      R [H] and w [H] of all states but the last.
    """
    returns = lambda_returns(outputs.reward[1:], outputs.discount[1:], outputs.value, lam)
    return returns, jnp.cumprod(outputs.discount)[:-1]


def replay_targets(rows: Rows, bootstrap: Array, *, gamma: Array | float, lam: Array | float) -> tuple[Array, Array]:
    """λ-returns and weights of the rows of one replayed window.

        G_t = r_{t+1} + γ d_{t+1} [ (1 - λ_{t+1}) b_{t+1} + λ_{t+1} G_{t+1} ],     λ_t = λ (1 - last_t)

    Args:
      rows: [T, ...].
      bootstrap: [T] b, the return R_0 imagined from each row's state.
      gamma: γ in [0, 1), discount per step.
      lam: λ in [0, 1].
    Returns:
      G [T - 1] and weights 1 - last [T - 1] of all rows but the last.
    """
    rewards, discounts = rows.reward[1:], gamma * rows.discount[1:]
    advantage = gae(rewards, discounts, bootstrap[:-1], bootstrap[1:], rows.last[1:], lam)
    return advantage + bootstrap[:-1], 1.0 - rows.last[:-1].astype(jnp.float32)


# Losses -------------------------------------------------------------------------------------------------------------


def policy_loss(
    actor: Params, batch: ActorCriticBatch, *, nets: Networks, policy: Policy, entropy: Array | float
) -> tuple[Array, Metrics]:
    """The actor's loss: REINFORCE with normalised advantages and an entropy bonus (Hafner et al. 2023, eq. 6).

        L_π = mean w [ -A log π(a|s) - η H(π(s)) ],     A = (R - v) / S

    Args:
      actor: parameters.
      batch: N imagined states.
      nets: the networks.
      policy: of the actor's outputs.
      entropy: η, at least 0.
    Returns:
      L_π [], itself as "policy_loss", and "entropy" in nats.
    """

    def one(step: ImaginedStep, advantage: Array) -> tuple[Array, Array]:
        out = actor_outputs(nets, actor, step.feature)
        nats = policy.entropy(out)
        return -advantage * policy.log_prob(out, step.action) - entropy * nats, nats

    losses, nats = jax.vmap(one)(batch.step, batch.advantage)
    loss = jnp.mean(batch.weights * losses)
    return loss, {"policy_loss": loss, "entropy": jnp.mean(nats)}


def critic_loss(
    critic: Params, batch: ActorCriticBatch, *, nets: Networks, ema_weight: Array | float
) -> tuple[Array, Metrics]:
    """The critic's loss on imagined states (Hafner et al. 2023, eq. 5, with the regulariser of the authors' code).

        L_v = mean w [ CE(v(s), R) + κ CE(v(s), v'(s)) ]

    Args:
      critic: parameters.
      batch: N imagined states.
      nets: the networks.
      ema_weight: κ, weight of the loss towards the EMA critic's values.
    Returns:
      L_v [] and itself as "value_loss".
    """

    def one(feature: Array, target: Array, ema_value: Array) -> Array:
        return value_cross_entropy(critic, feature, target, ema_value, nets=nets, ema_weight=ema_weight)

    losses = jax.vmap(one)(batch.step.feature, batch.returns, batch.ema_value)
    loss = jnp.mean(batch.weights * losses)
    return loss, {"value_loss": loss}


def actor_critic_loss(
    params: tuple[Params, Params],
    batch: ActorCriticBatch,
    *,
    nets: Networks,
    policy: Policy,
    entropy: Array | float,
    ema_weight: Array | float,
) -> tuple[Array, Metrics]:
    """L_π + L_v on imagined states.

    Args:
      params: of actor and critic.
      batch, nets, policy, entropy: as in `policy_loss`.
      ema_weight: as in `critic_loss`.
    Returns:
      the sum [] and the metrics of both.
    """
    actor, critic = params
    of_actor, actor_metrics = policy_loss(actor, batch, nets=nets, policy=policy, entropy=entropy)
    of_critic, critic_metrics = critic_loss(critic, batch, nets=nets, ema_weight=ema_weight)
    return of_actor + of_critic, actor_metrics | critic_metrics


def replay_critic_loss(
    critic: Params,
    states: Latent,
    targets: Array,
    *,
    nets: Networks,
    ema_values: Array,
    weights: Array,
    ema_weight: Array | float,
) -> tuple[Array, Metrics]:
    """The critic's loss on replayed rows; its gradient flows into the states too.

        L_rv = mean w [ CE(v(s_t), G_t) + κ CE(v(s_t), v'(s_t)) ]

    Args:
      critic: parameters.
      states: [T, B, ...] of the rows; the last ones have no target.
      targets: [T - 1, B] G, constants.
      nets: the networks.
      ema_values: [T - 1, B] v', values by the EMA critic, constants.
      weights: [T - 1, B] w, 0 where an episode ended.
      ema_weight: κ, weight of the loss towards the EMA critic's values.
    Returns:
      L_rv [] and itself as "replay_value_loss".
    """

    def one(state: Latent, target: Array, ema_value: Array) -> Array:
        return value_cross_entropy(critic, features(state), target, ema_value, nets=nets, ema_weight=ema_weight)

    before = jax.tree.map(lambda leaf: leaf[:-1], states)
    loss = jnp.mean(weights * jax.vmap(jax.vmap(one))(before, targets, ema_values))
    return loss, {"replay_value_loss": loss}


def value_cross_entropy(
    critic: Params, feature: Array, target: Array, ema_value: Array, *, nets: Networks, ema_weight: Array | float
) -> Array:
    """The critic's loss on one state, CE(v(s), target) + κ CE(v(s), v'(s)).

    Args:
      critic: parameters.
      feature: [F] of the state.
      target: [] return, a constant.
      ema_value: [] v', value by the EMA critic, a constant.
      nets: the networks.
      ema_weight: κ, at least 0.
    Returns:
      the loss [] in nats.
    """
    logits = critic_logits(nets, critic, feature)
    towards_ema = two_hot_cross_entropy(logits, ema_value, nets.bins)
    return two_hot_cross_entropy(logits, target, nets.bins) + ema_weight * towards_ema


# Gradients ----------------------------------------------------------------------------------------------------------


def actor_critic_grads(
    key: Key,
    params: DreamerParams,
    starts: Latent,
    *,
    ema_critic: Params,
    nets: Networks,
    policy: Policy,
    weights: Array,
    return_range: ReturnRange,
    horizon: int,
    lam: Array | float,
    entropy: Array | float,
    ema_weight: Array | float,
    range_rate: Array | float,
    cast: Callable[[Any], Any] = lambda params: params,
    intrinsic_reward: IntrinsicReward | None = None,
) -> ActorCriticGrads:
    """Imagines trajectories from N states and computes the gradients of `actor_critic_loss` over all their steps.

    Args:
      key: for imagination.
      params: of all networks; the world model gets no gradient.
      starts: [N, ...] states.
      ema_critic: parameters of the EMA critic.
      nets: the networks.
      policy: of the actor's outputs.
      weights: [N] importance weight of each start.
      return_range: running percentiles of returns, before this batch.
      horizon: H, at least 1.
      lam: λ of the returns, in [0, 1].
      entropy: η, weight of the policy's entropy.
      ema_weight: weight of the critic's loss towards the EMA critic.
      range_rate: rate at which the percentiles move, in [0, 1].
      cast: (parameters) -> the same in the type to compute in.
      intrinsic_reward: (step, reward []) -> reward []; replaces the model's rewards where given.
    Returns:
      the gradients, averaged over the H steps; R [H, N] and v' [H + 1, N]; the percentiles moved towards R; the metrics
      of `actor_critic_loss`, the mean of R as "imagined_return" and S as "return_scale".
    """
    steps, outputs = imagine_trajectory(
        key, cast(params), starts, ema_critic=cast(ema_critic), nets=nets, policy=policy, horizon=horizon
    )
    if intrinsic_reward is not None:
        rewards = jax.vmap(jax.vmap(intrinsic_reward))(steps, outputs.reward[1:])
        outputs = outputs._replace(reward=outputs.reward.at[1:].set(rewards))
    returns, discounts = jax.vmap(imagined_targets, (1, None), 1)(outputs, lam)
    return_range = return_scale.update(return_range, returns, range_rate)
    scale = return_scale.scale(return_range)

    def loss(transposed: Any, batch: ActorCriticBatch) -> tuple[Array, Metrics]:
        params = cast(transpose(transposed))
        return actor_critic_loss(params, batch, nets=nets, policy=policy, entropy=entropy, ema_weight=ema_weight)

    def over_steps(transposed: Any, batches: ActorCriticBatch) -> tuple[Any, Metrics]:
        def add_step(grads: Any, batch: ActorCriticBatch) -> tuple[Any, Metrics]:
            more, metrics = jax.grad(loss, has_aux=True)(transposed, batch)
            return jax.tree.map(lambda so_far, new: so_far + new / horizon, grads, more), metrics

        # One imagined step at a time: what the gradient of one step needs fits in a cache.
        return jax.lax.scan(add_step, jax.tree.map(jnp.zeros_like, transposed), batches)

    advantage = (returns - outputs.value[:-1]) / scale
    batches = ActorCriticBatch(steps, advantage, returns, outputs.ema_value[:-1], discounts * weights)
    transposed = transpose((params.actor, params.critic))
    grads, metrics = mean_of_shares(over_steps, transposed, (batches,), (1,))
    metrics = jax.tree.map(jnp.mean, metrics) | {"imagined_return": jnp.mean(returns), "return_scale": scale}
    return ActorCriticGrads(transpose(grads), returns, outputs.ema_value, return_range, metrics)


def transpose(params: Any) -> Any:
    """Matrices transposed: gradients of matrices with more inputs than outputs accumulate twice as fast that way."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, params)
