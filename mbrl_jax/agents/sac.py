"""Soft actor-critic, for continuous and for discrete actions.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905); discrete actions after
Christodoulou 2019, "Soft Actor-Critic for Discrete Action Settings" (arXiv 1910.07207). With

    V(s) = E_a[ min_i Q_i(s, a) - α log π(a|s) ]          one sampled action, or the exact sum over discrete ones
    y    = r + γ d V'(s')                                 `td_targets`: V' with the target critics
    L_Q  = Σ_i ½ (Q_i(s, a) - y)²                         `critic_loss`
    L_π  = -V(s)                                          `policy_loss`: gradient through action or probabilities
    L_α  = log α · (H(π) - H_target)                      `temperature_loss`
    Q'  <- τ Q + (1 - τ) Q'

the two kinds of action differ only in `q`, `value` and `act` of the record `Networks`.

REDQ (Chen et al. 2021, "Randomized Ensembled Double Q-Learning", arXiv 2101.05982, algorithm 1) is SAC with
`critics` 10, `drawn` 2, `policy_q` "mean" and many updates per step: the minimum in y is over M of the N target
critics, drawn anew in every update, and the policy climbs the mean of all N. It differs from the paper in that the
policy, too, is updated in every update, not in the last of each step.

Differs from the papers in: nothing of the equations; targets and policy loss both use the temperature from before the
update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.standardized import standardized
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Discrete, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
from mbrl_jax.envs.spaces import unit_action_size, vector_size
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import dists, losses
from mbrl_jax.ops.optim import descend


@config
class SACConfig:
    """Settings of SAC."""

    hidden: tuple[int, ...] = setting(
        default=(256, 256), low=1, help="widths of the hidden layers of policy and critics"
    )
    lr: float = setting(default=3e-4, above=0, help="Adam's learning rate for policy, critics and temperature")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount factor per step")
    tau: float = setting(
        default=5e-3, above=0, high=1, help="weight of the critics in the target critics' average, per update"
    )
    batch: int = setting(default=256, low=1, help="transitions per update")
    alpha: float = setting(default=1.0, above=0, help="initial temperature, in units of reward per nat")
    target_entropy: float = setting(
        default=-1.0, help="target of the policy's entropy in nats; for continuous actions usually minus their number"
    )
    critics: int = setting(default=2, low=1, help="number of critics; 10 in REDQ")
    drawn: int = setting(
        default=2, low=1, help="critics drawn anew in every update, whose smallest target value counts; at most critics"
    )
    policy_q: str = setting(
        default="min", choices=("min", "mean"), help="what of all critics the policy climbs; mean in REDQ"
    )
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by their running root mean square")


class Learner(NamedTuple):
    """What SAC has learned so far."""

    policy: Params
    critic: Params  # [N, ...], twins by default
    target: Params  # [N, ...]
    log_alpha: Array  # []
    opt: tuple[Any, Any, Any]  # Adam's state for policy, critic, log_alpha


class Networks(NamedTuple):
    """Policy and critics, and the three functions that depend on the kind of action. All take one observation."""

    policy: Net
    critic: Net  # one of the critics
    q: Callable[[Params, Obs, Array], Array]  # (critics, obs, action) -> Q(s, a) of each critic [N]
    value: Callable[..., tuple[Array, Array]]
    """(policy, critics, alpha, key, obs, of=minimum) -> V(s) [], and the policy's entropy [] in nats or an estimate of
    it. `of` takes values [N, ...] to those [1, ...] that count"""
    act: Callable[[Params, Key, Obs, bool], Array]  # (policy, key, obs, explore) -> action, the mode unless explore
    draw: Callable[
        [Params, Key, Obs], tuple[Array, Array]
    ]  # (policy, key, obs) -> action, and its log π(a|s) [] in nats


CriticTerm: TypeAlias = Callable[[Params, Key, Transition, Params], tuple[Array, Metrics]]
"""(critics, key, batch, policy) -> loss [] to add to the critics' own, and metrics."""


def networks(cfg: SACConfig, spec: Spec) -> Networks:
    """The networks for one environment.

    Raises:
      ValueError: observations that are no vector, actions neither discrete nor a vector in [-1, 1], or a target entropy
        that no policy over discrete actions has.
    """
    return _discrete(cfg, spec) if isinstance(spec.action, Discrete) else _continuous(cfg, spec)


def minimum(q: Array) -> Array:
    """The least of the critics' values [N, ...], as [1, ...]."""
    return jnp.min(q, 0, keepdims=True)


def mean(q: Array) -> Array:
    """The mean of the critics' values [N, ...], as [1, ...]."""
    return jnp.mean(q, 0, keepdims=True)


def draw_critics(key: Key, critics: Params, *, number: int) -> Params:
    """Some critics, drawn without replacement (Chen et al. 2021, algorithm 1, line 6).

    Args:
      key: used once.
      critics: [N, ...].
      number: M, at most N; with M = N all of them, in their order.
    Returns:
      [M, ...].
    """
    of = jax.tree.leaves(critics)[0].shape[0]
    if number == of:
        return critics
    which = jax.random.permutation(key, of)[:number]
    return jax.tree.map(lambda leaf: leaf[which], critics)


def td_targets(
    policy: Params,
    target: Params,
    key: Key,
    batch: Transition,
    *,
    nets: Networks,
    alpha: Array,
    gamma: Array | float,
) -> Array:
    """Soft one-step targets, y = r + γ d V'(s') (Haarnoja et al. 2018, eq. 3).

    Args:
      policy: parameters of the policy.
      target: [M, ...] parameters of the target critics, the least of whose values counts.
      key: used once, to sample the next actions where they are continuous.
      batch: [B, ...] transitions.
      nets: from `networks`.
      alpha: [] temperature.
      gamma: discount factor per step, in [0, 1].
    Returns:
      [B] targets, with no gradient.
    """

    def one(key: Key, row: Transition) -> Array:
        next_value, _ = nets.value(policy, target, alpha, key, row.next_obs)
        return losses.td_target(row.reward, row.discount, next_value, gamma)

    return jax.vmap(one)(jax.random.split(key, batch.reward.shape[0]), batch)


def critic_loss(critic: Params, batch: Transition, *, nets: Networks, targets: Array) -> tuple[Array, Metrics]:
    """Squared error of all critics, L_Q = mean_batch Σ_i ½ (Q_i(s, a) - y)² (Haarnoja et al. 2018, eq. 5).

    Args:
      critic: [N, ...] parameters of the critics, which the loss is differentiated by.
      batch: [B, ...] transitions.
      nets: from `networks`.
      targets: [B] y, from `td_targets`.
    Returns:
      loss [] and the metrics `critic_loss` and `q`, the mean of Q(s, a) over batch and critics.
    """
    q = jax.vmap(nets.q, (None, 0, 0))(critic, batch.obs, batch.action)
    loss = jnp.mean(jax.vmap(losses.twin_loss)(q, targets))
    return loss, {"critic_loss": loss, "q": jnp.mean(q)}


def policy_loss(
    policy: Params,
    key: Key,
    batch: Transition,
    *,
    nets: Networks,
    critic: Params,
    alpha: Array,
    of: Callable[[Array], Array] = minimum,
) -> tuple[Array, Metrics]:
    """Negative soft value, L_π = -mean_batch V(s) (Haarnoja et al. 2018, eq. 7; Christodoulou 2019, eq. 12).

    Args:
      policy: parameters of the policy, which the loss is differentiated by.
      key: used once, to sample actions where they are continuous.
      batch: [B, ...] transitions, of which only the observations count.
      nets: from `networks`.
      critic: [N, ...] parameters of the critics.
      alpha: [] temperature.
      of: which value of the critics counts, `minimum` or `mean`.
    Returns:
      loss [] and the metrics `policy_loss` and `entropy`, the policy's mean entropy in nats or an estimate of it.
    """
    keys = jax.random.split(key, batch.reward.shape[0])
    one = lambda key, obs: nets.value(policy, critic, alpha, key, obs, of)  # noqa: E731
    value, entropy = jax.vmap(one)(keys, batch.obs)
    loss = -jnp.mean(value)
    return loss, {"policy_loss": loss, "entropy": jnp.mean(entropy)}


def temperature_loss(log_alpha: Array, entropy: Array, *, target_entropy: Array | float) -> tuple[Array, Metrics]:
    """L_α = log α · (H(π) - H_target): lowers α where the entropy is above its target.

    See `ops.losses.temperature_loss`.

    Args:
      log_alpha: [] log of the temperature, which the loss is differentiated by.
      entropy: [] the policy's mean entropy in nats, from `policy_loss`.
      target_entropy: nats.
    Returns:
      loss [] and the metric `alpha`, the temperature.
    """
    return losses.temperature_loss(log_alpha, entropy, target_entropy), {"alpha": jnp.exp(log_alpha)}


def make(cfg: SACConfig, spec: Spec, critic_term: CriticTerm | None = None) -> Agent:
    """SAC for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations must be a vector, actions discrete or a vector in [-1, 1].
      critic_term: what is added to the critics' loss, as agents built on SAC do; nothing if None.
    Returns:
      the agent; its `update` needs `replay.sample` to give transitions [B, ...].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    if cfg.drawn > cfg.critics:
        raise ValueError(f"drawn must be at most critics ({cfg.critics}), got {cfg.drawn}")
    nets = networks(cfg, spec)
    of = mean if cfg.policy_q == "mean" else minimum
    adam = optax.adam(cfg.lr)

    def init(key: Key) -> Learner:
        key_policy, key_critic = jax.random.split(key)
        policy = nets.policy.init(key_policy)
        critic = jax.vmap(nets.critic.init)(jax.random.split(key_critic, cfg.critics))
        log_alpha = jnp.log(jnp.asarray(cfg.alpha, jnp.float32))
        opt = (adam.init(policy), adam.init(critic), adam.init(log_alpha))
        return Learner(policy, critic, jax.tree.map(jnp.copy, critic), log_alpha, opt)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return nets.act(learner.policy, key, obs, explore), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_next, key_now = jax.random.split(key, 3)
        batch: Transition = replay.sample(key_sample, cfg.batch)
        alpha = jnp.exp(learner.log_alpha)
        target = draw_critics(jax.random.fold_in(key_next, cfg.batch), learner.target, number=cfg.drawn)
        targets = td_targets(learner.policy, target, key_next, batch, nets=nets, alpha=alpha, gamma=cfg.gamma)

        def loss(critic: Params) -> tuple[Array, Metrics]:
            own = critic_loss(critic, batch, nets=nets, targets=targets)
            if critic_term is None:
                return own
            added = critic_term(critic, jax.random.fold_in(key_now, cfg.batch), batch, learner.policy)
            return own[0] + added[0], own[1] | added[1]

        grads, of_critic = jax.grad(loss, has_aux=True)(learner.critic)
        critic, opt_critic = descend(adam, grads, learner.opt[1], learner.critic)

        grads, of_policy = jax.grad(policy_loss, has_aux=True)(
            learner.policy, key_now, batch, nets=nets, critic=critic, alpha=alpha, of=of
        )
        policy, opt_policy = descend(adam, grads, learner.opt[0], learner.policy)

        grad, of_alpha = jax.grad(temperature_loss, has_aux=True)(
            learner.log_alpha, of_policy["entropy"], target_entropy=cfg.target_entropy
        )
        log_alpha, opt_alpha = descend(adam, grad, learner.opt[2], learner.log_alpha)

        target = optax.incremental_update(critic, learner.target, cfg.tau)
        opt = (opt_policy, opt_critic, opt_alpha)
        return Learner(policy, critic, target, log_alpha, opt), of_critic | of_policy | of_alpha, ()

    agent = Agent(init, lambda: (), act, update)
    return standardized(agent, spec, obs=cfg.normalize_obs, rewards=cfg.scale_rewards)


def _continuous(cfg: SACConfig, spec: Spec) -> Networks:
    """Tanh-normal policy; critics of (s, a)."""
    size, num_actions = vector_size(spec), unit_action_size(spec)
    policy = mlp(size, cfg.hidden, 2 * num_actions)
    critic = mlp(size + num_actions, cfg.hidden, 1)

    def dist(params: Params, obs: Obs) -> Any:
        return dists.tanh_normal(*jnp.split(policy.apply(params, obs), 2))

    def q(critics: Params, obs: Obs, action: Array) -> Array:
        return jax.vmap(critic.apply, (0, None))(critics, jnp.concatenate([obs, action]))[:, 0]

    def value(
        params: Params, critics: Params, alpha: Array, key: Key, obs: Obs, of: Callable[[Array], Array] = minimum
    ) -> tuple[Array, Array]:
        action, log_prob = dists.sample_and_log_prob(dist(params, obs), key)
        return losses.soft_value(of(q(critics, obs, action)), log_prob, alpha), -log_prob

    def act(params: Params, key: Key, obs: Obs, explore: bool) -> Array:
        if explore:
            return dists.sample_and_log_prob(dist(params, obs), key)[0]
        return jnp.tanh(jnp.split(policy.apply(params, obs), 2)[0])

    def draw(params: Params, key: Key, obs: Obs) -> tuple[Array, Array]:
        return dists.sample_and_log_prob(dist(params, obs), key)

    return Networks(policy, critic, q, value, act, draw)


def _discrete(cfg: SACConfig, spec: Spec) -> Networks:
    """Softmax policy; critics of s, which give the values of all actions."""
    size, num_actions = vector_size(spec), spec.num_actions
    max_entropy = math.log(num_actions)
    if isinstance(cfg.target_entropy, float | int) and not 0 <= cfg.target_entropy <= max_entropy:
        raise ValueError(
            f"target_entropy must be at least 0 and at most {max_entropy:.3g} for {num_actions} discrete actions, "
            f"got {cfg.target_entropy}"
        )
    policy = mlp(size, cfg.hidden, num_actions)
    critic = mlp(size, cfg.hidden, num_actions)

    def q_all(critics: Params, obs: Obs) -> Array:
        return jax.vmap(critic.apply, (0, None))(critics, obs)

    def q(critics: Params, obs: Obs, action: Array) -> Array:
        return q_all(critics, obs) @ jax.nn.one_hot(action, num_actions, dtype=jnp.float32)

    def value(
        params: Params, critics: Params, alpha: Array, key: Key, obs: Obs, of: Callable[[Array], Array] = minimum
    ) -> tuple[Array, Array]:
        del key
        logits = policy.apply(params, obs)
        return losses.expected_soft_value(of(q_all(critics, obs)), logits, alpha), dists.categorical_entropy(logits)

    def act(params: Params, key: Key, obs: Obs, explore: bool) -> Array:
        logits = policy.apply(params, obs)
        return (jax.random.categorical(key, logits) if explore else jnp.argmax(logits)).astype(jnp.int32)

    def draw(params: Params, key: Key, obs: Obs) -> tuple[Array, Array]:
        logits = policy.apply(params, obs)
        action = jax.random.categorical(key, logits).astype(jnp.int32)
        return action, jax.nn.log_softmax(logits)[action]

    return Networks(policy, critic, q, value, act, draw)
