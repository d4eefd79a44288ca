"""Implicit Q-learning: values of the data's better actions, without a query of any other action.

Kostrikov et al. 2021, "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169). With
w_τ(u) = |τ - 1(u < 0)|,

    L_V = mean_batch [ w_τ(u) u² ],   u = min_i Q'_i(s, a) - V(s)                    eq. 5, `value_loss`
    L_Q = mean_batch Σ_i ½ ( r + γ d V(s') - Q_i(s, a) )²                            eq. 6, `critic_loss`
    L_π = -mean_batch [ min(exp(β u), w_max) log π(a|s) ]                            eq. 7, `policy_loss`
    Q' <- ρ Q + (1 - ρ) Q'

Continuous policies are N(tanh f(s), diag σ²) with one learned σ for all states, discrete ones softmax f(s).

Differs from the paper in: its learning rate of the policy does not decay, and its policy has no dropout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Discrete, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
from mbrl_jax.envs.spaces import unit_action_size, vector_size
from mbrl_jax.nets.mlp import mlp
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import dists, losses
from mbrl_jax.ops.optim import descend

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # of continuous policies, as in the authors' code


@config
class IQLConfig:
    """Settings of implicit Q-learning."""

    hidden: tuple[int, ...] = setting(
        default=(256, 256), low=1, help="widths of the hidden layers of policy, critics and value"
    )
    lr: float = setting(default=3e-4, above=0, help="Adam's learning rate for policy, critics and value")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount factor per step")
    tau: float = setting(
        default=5e-3, above=0, high=1, help="weight of the critics in the target critics' average, per update"
    )
    batch: int = setting(default=256, low=1, help="transitions per update")
    expectile: float = setting(
        default=0.7, above=0, below=1, help="expectile of the values of the data's actions; 0.5 is their mean"
    )
    temperature: float = setting(
        default=3.0, low=0, help="weight of an advantage in the policy's exponent, per unit of reward; 0 clones"
    )
    max_weight: float = setting(default=100.0, above=0, help="largest weight of a row in the policy's loss")


class Learner(NamedTuple):
    """What has been learned so far."""

    policy: Params
    critic: Params  # [2, ...]
    target: Params  # [2, ...]
    value: Params
    opt: tuple[Any, Any, Any]  # Adam's state for policy, critic, value


class PolicyParams(NamedTuple):
    """The parameters of a policy."""

    net: Params
    log_std: Array  # [A] of continuous actions; [0] for discrete ones


class Networks(NamedTuple):
    """The networks for one environment."""

    policy: Net  # means before tanh, or logits
    critic: Net  # one of the twins
    value: Net
    action: Any  # the action space


def networks(cfg: IQLConfig, spec: Spec) -> Networks:
    """The networks for one environment.

    Args:
      cfg: settings.
      spec: observations a vector, actions discrete or a vector in [-1, 1].
    Raises:
      ValueError: an environment that needs a wrapper first.
    """
    size, action = vector_size(spec), spec.action
    if isinstance(action, Discrete):
        nets = mlp(size, cfg.hidden, action.n), mlp(size, cfg.hidden, action.n)
    else:
        actions = unit_action_size(spec)
        nets = mlp(size, cfg.hidden, actions), mlp(size + actions, cfg.hidden, 1)
    return Networks(*nets, mlp(size, cfg.hidden, 1), action)


def q_values(critic: Params, obs: Obs, action: Array, *, nets: Networks) -> Array:
    """Q_i(s, a) of both critics, [2].

    Args:
      critic: [2, ...].
      obs, action: of one step.
      nets: from `networks`.
    """
    if isinstance(nets.action, Discrete):
        return jax.vmap(nets.critic.apply, (0, None))(critic, obs)[:, action]
    return jax.vmap(nets.critic.apply, (0, None))(critic, jnp.concatenate([obs, action]))[:, 0]


def log_prob(policy: PolicyParams, obs: Obs, action: Array, *, nets: Networks) -> Array:
    """log π(a|s) in nats, [].

    Args:
      policy: parameters.
      obs, action: of one step.
      nets: from `networks`.
    """
    out = nets.policy.apply(policy.net, obs)
    if isinstance(nets.action, Discrete):
        return jax.nn.log_softmax(out)[action]
    log_std = jnp.clip(policy.log_std, LOG_STD_MIN, LOG_STD_MAX)
    return dists.normal(jnp.tanh(out), log_std).log_prob(action)  # pyright: ignore[reportReturnType]


def advantages(value: Params, target: Params, batch: Transition, *, nets: Networks) -> Array:
    """u = min_i Q'_i(s, a) - V(s) of each row, [B].

    Args:
      value: parameters of V.
      target: [2, ...] of the target critics.
      batch: [B, ...] transitions.
      nets: from `networks`.
    """

    def one(row: Transition) -> Array:
        q = q_values(target, row.obs, row.action, nets=nets)
        return jnp.min(q) - nets.value.apply(value, row.obs)[0]

    return jax.vmap(one)(batch)


def value_loss(
    value: Params, batch: Transition, *, nets: Networks, target: Params, expectile: Array | float
) -> tuple[Array, Metrics]:
    """Expectile regression of V towards the values of the data's actions (Kostrikov et al. 2021, eq. 5).

        L_V = mean_batch [ |τ - 1(u < 0)| u² ],   u = min_i Q'_i(s, a) - V(s)

    Args:
      value: parameters of V, which the loss is differentiated by.
      batch: [B, ...] transitions.
      nets: from `networks`.
      target: [2, ...] of the target critics.
      expectile: τ, in (0, 1).
    Returns:
      loss [] and the metrics `value_loss` and `advantage`, the mean of u.
    """
    u = advantages(value, target, batch, nets=nets)
    loss = jnp.mean(jnp.where(u < 0, 1 - expectile, expectile) * jnp.square(u))
    return loss, {"value_loss": loss, "advantage": jnp.mean(u)}


def critic_loss(
    critic: Params, batch: Transition, *, nets: Networks, value: Params, gamma: Array | float
) -> tuple[Array, Metrics]:
    """Squared error of both critics against the value of the next state (Kostrikov et al. 2021, eq. 6).

        L_Q = mean_batch Σ_i ½ ( r + γ d V(s') - Q_i(s, a) )²

    Args:
      critic: [2, ...], which the loss is differentiated by.
      batch: [B, ...] transitions.
      nets: from `networks`.
      value: parameters of V.
      gamma: γ, in [0, 1].
    Returns:
      loss [] and the metrics `critic_loss` and `q`, the mean of Q(s, a) over batch and critics.
    """

    def one(row: Transition) -> tuple[Array, Array]:
        next_value = nets.value.apply(value, row.next_obs)[0]
        q = q_values(critic, row.obs, row.action, nets=nets)
        return losses.twin_loss(q, losses.td_target(row.reward, row.discount, next_value, gamma)), jnp.mean(q)

    loss, q = jax.tree.map(jnp.mean, jax.vmap(one)(batch))
    return loss, {"critic_loss": loss, "q": q}


def policy_loss(
    policy: PolicyParams,
    batch: Transition,
    *,
    nets: Networks,
    advantage: Array,
    temperature: Array | float,
    max_weight: Array | float,
) -> tuple[Array, Metrics]:
    """Regression to the data's actions, weighted by their advantage (Kostrikov et al. 2021, eq. 7).

        L_π = -mean_batch [ min(exp(β u), w_max) log π(a|s) ]

    Args:
      policy: parameters, which the loss is differentiated by.
      batch: [B, ...] transitions, of which observations and actions count.
      nets: from `networks`.
      advantage: [B] u, from `advantages`; no gradient flows into it.
      temperature: β, at least 0.
      max_weight: w_max, above 0.
    Returns:
      loss [] and the metrics `policy_loss` and `weight`, the rows' mean weight.
    """
    weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(temperature * advantage), max_weight))
    of_rows = jax.vmap(lambda row: log_prob(policy, row.obs, row.action, nets=nets))(batch)
    loss = -jnp.mean(weight * of_rows)
    return loss, {"policy_loss": loss, "weight": jnp.mean(weight)}


def make(cfg: IQLConfig, spec: Spec) -> Agent:
    """Implicit Q-learning for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, actions discrete or a vector in [-1, 1].
    Returns:
      the agent.
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    nets, adam = networks(cfg, spec), optax.adam(cfg.lr)
    discrete = isinstance(spec.action, Discrete)

    def init(key: Key) -> Learner:
        key_policy, key_critic, key_value = jax.random.split(key, 3)
        log_std = jnp.zeros(0 if discrete else unit_action_size(spec), jnp.float32)
        policy = PolicyParams(nets.policy.init(key_policy), log_std)
        critic, value = jax.vmap(nets.critic.init)(jax.random.split(key_critic)), nets.value.init(key_value)
        opt = (adam.init(policy), adam.init(critic), adam.init(value))
        return Learner(policy, critic, jax.tree.map(jnp.copy, critic), value, opt)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        out = nets.policy.apply(learner.policy.net, obs)
        if discrete:
            drawn = jax.random.categorical(key, out) if explore else jnp.argmax(out)
            return drawn.astype(jnp.int32), carry, ()
        mean = jnp.tanh(out)
        if explore:
            std = jnp.exp(jnp.clip(learner.policy.log_std, LOG_STD_MIN, LOG_STD_MAX))
            mean = jnp.clip(mean + std * jax.random.normal(key, mean.shape, jnp.float32), -1.0, 1.0)
        return mean, carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        batch: Transition = replay.sample(key, cfg.batch)
        opt_policy, opt_critic, opt_value = learner.opt
        grads, of_value = jax.grad(value_loss, has_aux=True)(
            learner.value, batch, nets=nets, target=learner.target, expectile=cfg.expectile
        )
        value, opt_value = descend(adam, grads, opt_value, learner.value)
        grads, of_policy = jax.grad(policy_loss, has_aux=True)(
            learner.policy, batch, nets=nets, advantage=advantages(value, learner.target, batch, nets=nets),
            temperature=cfg.temperature, max_weight=cfg.max_weight,
        )  # fmt: skip
        policy, opt_policy = descend(adam, grads, opt_policy, learner.policy)
        grads, of_critic = jax.grad(critic_loss, has_aux=True)(
            learner.critic, batch, nets=nets, value=value, gamma=cfg.gamma
        )
        critic, opt_critic = descend(adam, grads, opt_critic, learner.critic)
        target = optax.incremental_update(critic, learner.target, cfg.tau)
        opt = (opt_policy, opt_critic, opt_value)
        return Learner(policy, critic, target, value, opt), of_value | of_policy | of_critic, ()

    return Agent(init, lambda: (), act, update)
