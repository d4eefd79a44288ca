"""Soft actor-critic, for continuous and for discrete actions.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905); discrete actions after
Christodoulou 2019, "Soft Actor-Critic for Discrete Action Settings" (arXiv 1910.07207). With

    V(s) = E_a[ min_i Q_i(s, a) - α log π(a|s) ]          one sampled action, or the exact sum over discrete ones
    y    = r + γ d V'(s')                                 V' with the target critics
    L_Q  = Σ_i ½ (Q_i(s, a) - y)²
    L_π  = -V(s)                                          gradient through the action, or through the probabilities
    L_α  = log α · (H(π) - H_target)
    Q'  <- τ Q + (1 - τ) Q'

the two forms differ only in `q`, `value` and `act`: `Form` holds those three, and everything else is written once.

Differs from the papers in: nothing of the equations; both losses see the temperature from before the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Box, Discrete, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
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
    lr: float = setting(default=3e-4, above=0, help="Adam's learning rate, of all three losses")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount per step")
    tau: float = setting(
        default=5e-3, above=0, high=1, help="share of the critics that moves into the targets per update"
    )
    batch: int = setting(default=256, low=1, help="transitions per update")
    alpha: float = setting(default=1.0, above=0, help="first temperature")
    target_entropy: float = setting(default=-1.0, help="nats; for continuous actions usually minus their number")


class Learner(NamedTuple):
    """What SAC has learned so far."""

    policy: Params
    critic: Params  # [2, ...] twins
    target: Params  # [2, ...]
    log_alpha: Array  # []
    opt: tuple[Any, Any, Any]  # Adam's state for policy, critic, log_alpha


class Form(NamedTuple):
    """What depends on the kind of action."""

    policy: Net
    critic: Net  # one of the twins
    q: Callable[[Params, Obs, Array], Array]  # (critic, obs, action) -> [2]
    value: Callable[[Params, Params, Array, Key, Obs], tuple[Array, Array]]  # -> soft value [], entropy []
    act: Callable[[Params, Key, Obs, bool], Array]


def make(cfg: SACConfig, spec: Spec) -> Agent:
    """SAC for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations must be a vector, actions discrete or a vector in [-1, 1].
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    form = _discrete(cfg, spec) if isinstance(spec.action, Discrete) else _continuous(cfg, spec)
    adam = optax.adam(cfg.lr)

    def init(key: Key) -> Learner:
        key_policy, key_critic = jax.random.split(key)
        policy = form.policy.init(key_policy)
        critic = jax.vmap(form.critic.init)(jax.random.split(key_critic))
        log_alpha = jnp.log(jnp.asarray(cfg.alpha, jnp.float32))
        opt = (adam.init(policy), adam.init(critic), adam.init(log_alpha))
        return Learner(policy, critic, jax.tree.map(jnp.copy, critic), log_alpha, opt)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return form.act(learner.policy, key, obs, explore), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_next, key_now = jax.random.split(key, 3)
        batch: Transition = replay.sample(key_sample, cfg.batch)
        alpha = jnp.exp(learner.log_alpha)

        def target(key: Key, row: Transition) -> Array:
            next_value, _ = form.value(learner.policy, learner.target, alpha, key, row.next_obs)
            return losses.td_target(row.reward, row.discount, next_value, cfg.gamma)

        targets = jax.vmap(target)(jax.random.split(key_next, cfg.batch), batch)

        def critic_loss(critic: Params) -> tuple[Array, Array]:
            q = jax.vmap(form.q, (None, 0, 0))(critic, batch.obs, batch.action)
            return jnp.mean(jax.vmap(losses.twin_loss)(q, targets)), jnp.mean(q)

        (loss_q, mean_q), grads = jax.value_and_grad(critic_loss, has_aux=True)(learner.critic)
        critic, opt_critic = descend(adam, grads, learner.opt[1], learner.critic)

        def policy_loss(policy: Params) -> tuple[Array, Array]:
            keys = jax.random.split(key_now, cfg.batch)
            value, entropy = jax.vmap(form.value, (None, None, None, 0, 0))(policy, critic, alpha, keys, batch.obs)
            return -jnp.mean(value), jnp.mean(entropy)

        (loss_policy, entropy), grads = jax.value_and_grad(policy_loss, has_aux=True)(learner.policy)
        policy, opt_policy = descend(adam, grads, learner.opt[0], learner.policy)

        grad = jax.grad(losses.temperature_loss)(learner.log_alpha, entropy, cfg.target_entropy)
        log_alpha, opt_alpha = descend(adam, grad, learner.opt[2], learner.log_alpha)

        moved = optax.incremental_update(critic, learner.target, cfg.tau)
        metrics = {"critic_loss": loss_q, "policy_loss": loss_policy, "q": mean_q, "entropy": entropy, "alpha": alpha}
        return Learner(policy, critic, moved, log_alpha, (opt_policy, opt_critic, opt_alpha)), metrics, ()

    return Agent(init, lambda: (), act, update)


def _continuous(cfg: SACConfig, spec: Spec) -> Form:
    """Tanh-normal policy; critics of (s, a)."""
    size, num_actions = _obs_size(spec), _action_size(spec)
    policy = mlp(size, cfg.hidden, 2 * num_actions)
    critic = mlp(size + num_actions, cfg.hidden, 1)

    def dist(params: Params, obs: Obs) -> Any:
        return dists.tanh_normal(*jnp.split(policy.apply(params, obs), 2))

    def q(critics: Params, obs: Obs, action: Array) -> Array:
        return jax.vmap(critic.apply, (0, None))(critics, jnp.concatenate([obs, action]))[:, 0]

    def value(params: Params, critics: Params, alpha: Array, key: Key, obs: Obs) -> tuple[Array, Array]:
        action, log_prob = dists.sample_and_log_prob(dist(params, obs), key)
        return losses.soft_value(q(critics, obs, action), log_prob, alpha), -log_prob

    def act(params: Params, key: Key, obs: Obs, explore: bool) -> Array:
        if explore:
            return dists.sample_and_log_prob(dist(params, obs), key)[0]
        return jnp.tanh(jnp.split(policy.apply(params, obs), 2)[0])

    return Form(policy, critic, q, value, act)


def _discrete(cfg: SACConfig, spec: Spec) -> Form:
    """Softmax policy; critics of s give the values of all actions."""
    size, num_actions = _obs_size(spec), spec.num_actions
    highest = math.log(num_actions)
    if isinstance(cfg.target_entropy, float | int) and not 0 <= cfg.target_entropy <= highest:
        raise ValueError(
            f"target_entropy must be at least 0 and at most {highest:.3g} for {num_actions} discrete actions, "
            f"got {cfg.target_entropy}"
        )
    policy = mlp(size, cfg.hidden, num_actions)
    critic = mlp(size, cfg.hidden, num_actions)

    def q_all(critics: Params, obs: Obs) -> Array:
        return jax.vmap(critic.apply, (0, None))(critics, obs)

    def q(critics: Params, obs: Obs, action: Array) -> Array:
        return q_all(critics, obs) @ jax.nn.one_hot(action, num_actions)

    def value(params: Params, critics: Params, alpha: Array, key: Key, obs: Obs) -> tuple[Array, Array]:
        del key
        logits = policy.apply(params, obs)
        return losses.expected_soft_value(q_all(critics, obs), logits, alpha), dists.categorical_entropy(logits)

    def act(params: Params, key: Key, obs: Obs, explore: bool) -> Array:
        logits = policy.apply(params, obs)
        return jax.random.categorical(key, logits) if explore else jnp.argmax(logits)

    return Form(policy, critic, q, value, act)


def _obs_size(spec: Spec) -> int:
    if not isinstance(spec.obs, Box) or len(spec.obs.shape) != 1:
        raise ValueError(f"{spec.name}: observations must be a vector (wrappers.flatten or one_hot), got {spec.obs}")
    return spec.obs.size


def _action_size(spec: Spec) -> int:
    action = spec.action
    scaled = isinstance(action, Box) and np.all(np.asarray(action.low) == -1) and np.all(np.asarray(action.high) == 1)
    if not isinstance(action, Box) or len(action.shape) != 1 or not scaled:
        raise ValueError(f"{spec.name}: actions must be a vector in [-1, 1] (wrappers.scale_action), got {action}")
    return action.size
