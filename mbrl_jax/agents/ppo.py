"""Proximal policy optimisation, for discrete and for continuous actions: the on-policy baseline.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347). From a trajectory of T steps in each
of N environments, with the policy and the values it was gathered with,

    A   = GAE(γ, λ)                                       Schulman et al. 2016 (arXiv 1506.02438)
    G   = A + V(s)

and then, `epochs` times over the T · N rows in shuffled minibatches,

    ρ   = π(a|s) / π_old(a|s)
    L_π = -min( ρ Â, clip(ρ, 1 - ε, 1 + ε) Â )            Â: A with the minibatch's mean 0 and deviation 1
    L_V = ½ (V(s) - G)²
    L   = L_π + w_V L_V - w_H H(π)                        one Adam step, the gradient's norm bounded

Bind it to `buffers.latest` in a loop with `warmup` 0, `updates` 1 and `unroll` T.

Differs from the paper in: no weights shared between policy and value; advantages normalised, gradients bounded and
weights started orthogonal, as is customary (Huang et al. 2022, "The 37 Implementation Details of PPO"); the learning
rate does not fall. A continuous action is drawn unbounded and clipped to [-1, 1] only in what the environment gets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Box, Discrete, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.mlp import ACTIVATIONS
from mbrl_jax.ops import dists, losses
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.returns import gae


@config
class PPOConfig:
    """Settings of PPO."""

    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of the hidden layers of policy and value")
    activation: str = setting(default="tanh", choices=tuple(ACTIVATIONS), help="of the hidden layers")
    channels: int = setting(default=16, low=0, help="of a convolution over planes; 0 flattens them")
    lr: float = setting(default=2.5e-4, above=0, help="Adam's learning rate")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount per step")
    lam: float = setting(default=0.95, low=0, high=1, help="λ of the advantages; 0 is the one-step error")
    clip: float = setting(default=0.2, above=0, help="ε, how far the ratio may move from 1 to be paid for")
    epochs: int = setting(default=4, low=1, help="passes over each trajectory")
    minibatches: int = setting(default=4, low=1, help="gradient steps per pass; divides loop.num_envs x loop.unroll")
    entropy_weight: float = setting(default=0.01, low=0, help="w_H, weight of the entropy")
    value_weight: float = setting(default=0.5, low=0, help="w_V, weight of the value loss")
    max_grad_norm: float = setting(default=0.5, above=0, help="longer gradients are scaled down to this norm")


class Learner(NamedTuple):
    """What PPO has learned so far."""

    policy: Params
    value: Params
    opt: Any  # the optimiser's state for (policy, value)


class Extras(NamedTuple):
    """What `act` remembers of a step."""

    action: Array  # as drawn, before it was clipped for the environment
    log_prob: Array  # [] of it, under the policy that drew it


class Row(NamedTuple):
    """What the loss sees of a step."""

    obs: Obs
    action: Array
    log_prob: Array  # [] under the policy that drew it
    advantage: Array  # []
    target: Array  # [] return to fit the value to


class Policy(NamedTuple):
    """What depends on the kind of action."""

    init: Any  # (key) -> params
    dist: Any  # (params, obs) -> distribution
    bound: Any  # (action as drawn) -> action for the environment


def normalised(advantages: Array) -> Array:
    """Advantages [B] moved to mean 0 and scaled to deviation 1; zeros where they are all equal."""
    return (advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8)


def make(cfg: PPOConfig, spec: Spec) -> Agent:
    """PPO for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or an image [height, width, channels]; actions discrete or a vector in [-1, 1].
    Returns:
      An agent whose `update` needs `replay.sample` to give the latest trajectory [T, N, ...] whole, and raises
      ValueError where T · N is not a multiple of `cfg.minibatches`.
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    policy = _categorical(cfg, spec) if isinstance(spec.action, Discrete) else _normal(cfg, spec)
    critic = network(spec.obs, cfg.hidden, 1, cfg.activation, "orthogonal", 0.5**0.5, cfg.channels)
    optimiser = optax.chain(optax.clip_by_global_norm(cfg.max_grad_norm), optax.adam(cfg.lr, eps=1e-5))

    def init(key: Key) -> Learner:
        key_policy, key_value = jax.random.split(key)
        params = policy.init(key_policy), critic.init(key_value)
        return Learner(*params, optimiser.init(params))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Extras]:
        dist = policy.dist(learner.policy, obs)
        if explore:
            action, log_prob = dists.sample_and_log_prob(dist, key)
        else:
            action = dist.mode()
            log_prob = dist.log_prob(action)
        return policy.bound(action), carry, Extras(action, log_prob)

    def value(params: Params, obs: Obs) -> Array:
        return critic.apply(params, obs)[0]

    def rows(learner: Learner, trajectory: Transition) -> Row:
        """The trajectory [T, N, ...] with advantages and targets, as rows [T · N, ...]."""
        values_of = jax.vmap(jax.vmap(value, (None, 0)), (None, 0))
        values, next_values = (values_of(learner.value, obs) for obs in (trajectory.obs, trajectory.next_obs))
        advantages = jax.vmap(gae, (1, 1, 1, 1, 1, None), 1)(
            trajectory.reward, cfg.gamma * trajectory.discount, values, next_values, trajectory.last, cfg.lam
        )
        old: Extras = trajectory.extras
        return tree.flatten_dims(Row(trajectory.obs, old.action, old.log_prob, advantages, advantages + values), 2)

    def loss(params: tuple[Params, Params], batch: Row) -> tuple[Array, Metrics]:
        def terms(row: Row, advantage: Array) -> tuple[Array, Array, Array, Array]:
            dist = policy.dist(params[0], row.obs)
            log_ratio = dist.log_prob(row.action) - row.log_prob
            error = 0.5 * jnp.square(value(params[1], row.obs) - row.target)
            policy_loss = losses.clipped_ratio_loss(jnp.exp(log_ratio), advantage, cfg.clip)
            return policy_loss, error, dist.entropy(), log_ratio

        policy_losses, errors, entropies, log_ratios = jax.vmap(terms)(batch, normalised(batch.advantage))
        policy_loss, value_loss, entropy = (jnp.mean(x) for x in (policy_losses, errors, entropies))
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": jnp.mean(jnp.expm1(log_ratios) - log_ratios),  # an unbiased estimate that is never negative
            "clip_fraction": jnp.mean(jnp.abs(jnp.expm1(log_ratios)) > cfg.clip),
        }
        return policy_loss + cfg.value_weight * value_loss - cfg.entropy_weight * entropy, metrics

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_epochs = jax.random.split(key)
        data = rows(learner, replay.sample(key_sample, 0))
        size = data.target.shape[0]
        if size % cfg.minibatches:
            raise ValueError(f"minibatches must divide the trajectory's {size} rows, got {cfg.minibatches}")

        def step(learner: Learner, batch: Row) -> tuple[Learner, Metrics]:
            old = learner.policy, learner.value
            grads, metrics = jax.grad(loss, has_aux=True)(old, batch)
            (policy, value), opt = descend(optimiser, grads, learner.opt, old)
            return Learner(policy, value, opt), metrics

        def epoch(learner: Learner, key: Key) -> tuple[Learner, Metrics]:
            order = jax.random.permutation(key, size).reshape(cfg.minibatches, -1)
            return jax.lax.scan(lambda learner, index: step(learner, tree.take(data, index)), learner, order)

        learner, metrics = jax.lax.scan(epoch, learner, jax.random.split(key_epochs, cfg.epochs))
        return learner, jax.tree.map(jnp.mean, metrics), ()

    return Agent(init, lambda: (), act, update)


def _categorical(cfg: PPOConfig, spec: Spec) -> Policy:
    """A network gives the logits."""
    net = network(spec.obs, cfg.hidden, spec.num_actions, cfg.activation, "orthogonal", 0.01, cfg.channels)
    return Policy(net.init, lambda params, obs: dists.categorical(net.apply(params, obs)), lambda action: action)


def _normal(cfg: PPOConfig, spec: Spec) -> Policy:
    """A network gives the mean; the log of the deviation is a parameter of its own, the same in every state."""
    size = _action_size(spec)
    net = network(spec.obs, cfg.hidden, size, cfg.activation, "orthogonal", 0.01, cfg.channels)

    def init(key: Key) -> dict[str, Params]:
        return {"mean": net.init(key), "log_std": jnp.zeros(size)}

    def dist(params: dict[str, Params], obs: Obs) -> Any:
        return dists.normal(net.apply(params["mean"], obs), params["log_std"])

    return Policy(init, dist, lambda action: jnp.clip(action, -1.0, 1.0))


def _action_size(spec: Spec) -> int:
    action = spec.action
    scaled = isinstance(action, Box) and np.all(np.asarray(action.low) == -1) and np.all(np.asarray(action.high) == 1)
    if not isinstance(action, Box) or len(action.shape) != 1 or not scaled:
        raise ValueError(f"{spec.name}: actions must be a vector in [-1, 1] (wrappers.scale_action), got {action}")
    return action.size
