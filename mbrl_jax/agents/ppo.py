"""Proximal policy optimisation, for discrete and for continuous actions: the on-policy baseline.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347). From a trajectory of T steps in each
of N environments, with the policy and the values it was gathered with,

    A   = GAE(γ, λ)                                       `advantages`: Schulman et al. 2016 (arXiv 1506.02438)
    G   = A + V(s)

and then, `epochs` times over the T · N rows in shuffled minibatches,

    ρ   = π(a|s) / π_old(a|s)
    L_π = -min( ρ Â, clip(ρ, 1 - ε, 1 + ε) Â )            `policy_loss`, Â: A normalised within the minibatch
    L_V = ½ (V(s) - G)²                                   `value_loss`
    L   = L_π + w_V L_V - w_H H(π)                        `ppo_loss`: one Adam step, the gradient's norm clipped

Bind it to `buffers.latest` in a loop with `warmup` 0, `updates` 1 and `unroll` T.

Differs from the paper in: no weights shared between policy and value; advantages normalised, gradients clipped and
weights initialised orthogonally, as is customary (Huang et al. 2022, "The 37 Implementation Details of PPO"); a
constant learning rate. A continuous action is sampled unbounded, and clipped to [-1, 1] only for the environment.

The explorer "rnd" adds a bonus for observations that are new to the rewards it learns from (`agents.rnd`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.rnd import RNDConfig, distilled
from mbrl_jax.agents.standardized import standardized
from mbrl_jax.core import tree
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.sharding import over_data
from mbrl_jax.core.types import (
    Agent,
    Array,
    Discrete,
    Key,
    Metrics,
    MultiDiscrete,
    Obs,
    Params,
    Replay,
    Spec,
    Transition,
    Tree,
)
from mbrl_jax.envs.spaces import unit_action_size
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.mlp import ACTIVATIONS
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import dists, losses
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.returns import gae


@config
class PPOConfig:
    """Settings of PPO."""

    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of the hidden layers of policy and value")
    activation: str = setting(default="tanh", choices=tuple(ACTIVATIONS), help="activation of the hidden layers")
    channels: int = setting(
        default=16, low=0, help="channels of the convolution over image observations; 0 for flattened images"
    )
    lr: float = setting(default=2.5e-4, above=0, help="Adam's learning rate")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount factor per step")
    lam: float = setting(default=0.95, low=0, high=1, help="λ of the advantage estimates; 0 for one-step TD errors")
    clip: float = setting(
        default=0.2, above=0, help="ε, largest change of an action's probability ratio that the loss rewards"
    )
    epochs: int = setting(default=4, low=1, help="passes over each trajectory")
    minibatches: int = setting(
        default=4, low=1, help="gradient updates per pass; a divisor of loop.num_envs x loop.unroll"
    )
    entropy_weight: float = setting(default=0.01, low=0, help="weight of the entropy bonus, in units of loss per nat")
    value_weight: float = setting(default=0.5, low=0, help="weight of the value loss")
    max_grad_norm: float = setting(default=0.5, above=0, help="norm to which longer gradients are scaled down")
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by the running deviation of discounted returns")
    explorer: str = setting(default="none", choices=("none", "rnd"), help="what rewards in training have a bonus for")
    rnd: RNDConfig = RNDConfig(steps=4)


class Learner(NamedTuple):
    """What PPO has learned so far."""

    policy: Params
    value: Params
    opt: Any  # the optimiser's state for (policy, value)


class Extras(NamedTuple):
    """What `act` remembers of a step."""

    action: Array  # as sampled, before it was clipped for the environment
    log_prob: Array  # [] of it, under the policy that sampled it


class Row(NamedTuple):
    """What the losses need of one step."""

    obs: Obs
    action: Array  # as sampled, before it was clipped for the environment
    log_prob: Array  # [] log π_old(a|s), under the policy that sampled it
    advantage: Array  # [] A, not yet normalised
    target: Array  # [] G, the return that the value is fitted to


class Networks(NamedTuple):
    """Policy and value, both over one observation."""

    init: Callable[[Key], Params]  # (key) -> parameters of the policy
    dist: Callable[[Params, Obs], Any]  # (policy, obs) -> a distrax distribution over actions as sampled
    clip: Callable[[Array], Array]  # (action as sampled) -> action for the environment
    value: Net  # obs -> [1]


def networks(cfg: PPOConfig, spec: Spec) -> Networks:
    """The networks for one environment.

    Raises:
      ValueError: observations that are neither a vector nor an image, or actions neither discrete nor a vector in
        [-1, 1].
    """
    if isinstance(spec.action, MultiDiscrete):
        return _factored(cfg, spec, spec.action)
    return _categorical(cfg, spec) if isinstance(spec.action, Discrete) else _normal(cfg, spec)


def normalised(advantages: Array) -> Array:
    """Advantages [B] shifted to mean 0 and scaled to deviation 1; zeros where they are all equal."""
    return (advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8)


def advantages(
    value: Params, trajectory: Transition, *, nets: Networks, gamma: Array | float, lam: Array | float
) -> tuple[Array, Array]:
    """Generalised advantage estimates A of a trajectory, and the returns G = A + V(s) that the value is fitted to.

    Args:
      value: parameters of the value network.
      trajectory: [T, N, ...] transitions of N environments.
      nets: from `networks`.
      gamma: discount factor per step, in [0, 1].
      lam: λ, in [0, 1].
    Returns:
      A and G, each [T, N].
    """
    values_of = jax.vmap(jax.vmap(lambda obs: nets.value.apply(value, obs)[0]))
    values, next_values = values_of(trajectory.obs), values_of(trajectory.next_obs)
    estimates = jax.vmap(gae, (1, 1, 1, 1, 1, None), 1)(
        trajectory.reward, gamma * trajectory.discount, values, next_values, trajectory.last, lam
    )
    return estimates, estimates + values


def policy_loss(policy: Params, batch: Row, *, nets: Networks, clip: Array | float) -> tuple[Array, Metrics]:
    """Clipped surrogate of a minibatch, L_π = -mean min( ρ Â, clip(ρ, 1 - ε, 1 + ε) Â ) (Schulman et al. 2017, eq. 7).

    Args:
      policy: parameters of the policy, which the loss is differentiated by.
      batch: [B, ...] rows; their advantages are normalised here.
      nets: from `networks`.
      clip: ε, above 0.
    Returns:
      loss [] and the metrics `policy_loss`; `entropy`, the policy's mean entropy in nats, whose gradient is not
      stopped; `kl`, an estimate of KL(π_old ‖ π) in nats; and `clip_fraction`, the share of rows with |ρ - 1| > ε.
    """

    def terms(row: Row, advantage: Array) -> tuple[Array, Array, Array]:
        dist = nets.dist(policy, row.obs)
        log_ratio = dist.log_prob(row.action) - row.log_prob
        entropy = dist.entropy().astype(jnp.float32)
        return losses.clipped_ratio_loss(jnp.exp(log_ratio), advantage, clip), entropy, log_ratio

    surrogates, entropies, log_ratios = jax.vmap(terms)(batch, normalised(batch.advantage))
    loss = jnp.mean(surrogates)
    return loss, {
        "policy_loss": loss,
        "entropy": jnp.mean(entropies),
        "kl": jnp.mean(jnp.expm1(log_ratios) - log_ratios),  # unbiased, and never negative
        "clip_fraction": jnp.mean(jnp.abs(jnp.expm1(log_ratios)) > clip),
    }


def value_loss(value: Params, batch: Row, *, nets: Networks) -> tuple[Array, Metrics]:
    """Squared error of the value, L_V = mean ½ (V(s) - G)².

    Args:
      value: parameters of the value network, which the loss is differentiated by.
      batch: [B, ...] rows.
      nets: from `networks`.
    Returns:
      loss [] and the metric `value_loss`.
    """
    errors = jax.vmap(lambda row: 0.5 * jnp.square(nets.value.apply(value, row.obs)[0] - row.target))(batch)
    loss = jnp.mean(errors)
    return loss, {"value_loss": loss}


def ppo_loss(
    params: tuple[Params, Params],
    batch: Row,
    *,
    nets: Networks,
    clip: Array | float,
    value_weight: Array | float,
    entropy_weight: Array | float,
) -> tuple[Array, Metrics]:
    """PPO's whole loss of a minibatch, L = L_π + w_V L_V - w_H H(π) (Schulman et al. 2017, eq. 9).

    Args:
      params: parameters of policy and value network, which the loss is differentiated by.
      batch: [B, ...] rows.
      nets: from `networks`.
      clip: ε, above 0.
      value_weight: w_V, at least 0.
      entropy_weight: w_H, at least 0.
    Returns:
      loss [] and the metrics of `policy_loss` and `value_loss`.
    """
    policy, value = params
    surrogate, of_policy = policy_loss(policy, batch, nets=nets, clip=clip)
    error, of_value = value_loss(value, batch, nets=nets)
    return surrogate + value_weight * error - entropy_weight * of_policy["entropy"], of_policy | of_value


def make(cfg: PPOConfig, spec: Spec) -> Agent:
    """PPO for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or an image [height, width, channels]; actions discrete, a vector of discrete ones, or
        a vector in [-1, 1].
    Returns:
      An agent whose `update` needs `replay.sample` to give the latest trajectory [T, N, ...] whole, and raises
      ValueError where T · N is not a multiple of `cfg.minibatches`.
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    nets = networks(cfg, spec)
    optimizer = optax.chain(optax.clip_by_global_norm(cfg.max_grad_norm), optax.adam(cfg.lr, eps=1e-5))
    weights = {"clip": cfg.clip, "value_weight": cfg.value_weight, "entropy_weight": cfg.entropy_weight}

    def init(key: Key) -> Learner:
        key_policy, key_value = jax.random.split(key)
        params = nets.init(key_policy), nets.value.init(key_value)
        return Learner(*params, optimizer.init(params))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Extras]:
        dist = nets.dist(learner.policy, obs)
        if explore:
            action, log_prob = dists.sample_and_log_prob(dist, key)
        else:
            action = dist.mode()
            log_prob = dist.log_prob(action)
        return nets.clip(action), carry, Extras(action, log_prob)

    def follow(key: Key, learner: Learner, carry: Tree, obs: Obs, action: Array) -> tuple[Tree, Extras]:
        del key
        return carry, Extras(action, nets.dist(learner.policy, obs).log_prob(action))

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_sample, key_epochs = jax.random.split(key)
        trajectory: Transition = replay.sample(key_sample, 0)
        old: Extras = trajectory.extras
        estimates = advantages(learner.value, trajectory, nets=nets, gamma=cfg.gamma, lam=cfg.lam)
        rows = tree.flatten_dims(Row(trajectory.obs, old.action, old.log_prob, *estimates), 2)
        size = rows.target.shape[0]
        if size % cfg.minibatches:
            raise ValueError(f"minibatches must divide the trajectory's {size} rows, got {cfg.minibatches}")

        def step(learner: Learner, index: Array) -> tuple[Learner, Metrics]:
            params = learner.policy, learner.value
            batch = over_data(tree.take(rows, index))
            grads, metrics = jax.grad(ppo_loss, has_aux=True)(params, batch, nets=nets, **weights)
            (policy, value), opt = descend(optimizer, grads, learner.opt, params)
            return Learner(policy, value, opt), metrics

        def epoch(learner: Learner, key: Key) -> tuple[Learner, Metrics]:
            return jax.lax.scan(step, learner, jax.random.permutation(key, size).reshape(cfg.minibatches, -1))

        learner, metrics = jax.lax.scan(epoch, learner, jax.random.split(key_epochs, cfg.epochs))
        return learner, jax.tree.map(jnp.mean, metrics), ()

    agent = Agent(init, lambda: (), act, update, follow=follow)
    if cfg.explorer == "rnd":
        agent = distilled(agent, spec, cfg.rnd, cfg.gamma)
    return standardized(agent, spec, obs=cfg.normalize_obs, rewards=cfg.scale_rewards, returns=cfg.gamma)


def _value(cfg: PPOConfig, spec: Spec) -> Net:
    return network(spec.obs, cfg.hidden, 1, cfg.activation, "orthogonal", 0.5**0.5, cfg.channels)


def _categorical(cfg: PPOConfig, spec: Spec) -> Networks:
    """A network gives the logits."""
    net = network(spec.obs, cfg.hidden, spec.num_actions, cfg.activation, "orthogonal", 0.01, cfg.channels)

    def dist(params: Params, obs: Obs) -> Any:
        return dists.categorical(net.apply(params, obs))

    return Networks(net.init, dist, lambda action: action, _value(cfg, spec))


def _factored(cfg: PPOConfig, spec: Spec, space: MultiDiscrete) -> Networks:
    """A network gives the logits of all entries of an action, which are independent of each other."""
    net = network(spec.obs, cfg.hidden, space.size, cfg.activation, "orthogonal", 0.01, cfg.channels)

    def dist(params: Params, obs: Obs) -> Any:
        return dists.MultiCategorical(space.split(net.apply(params, obs)))

    return Networks(net.init, dist, lambda action: action, _value(cfg, spec))


def _normal(cfg: PPOConfig, spec: Spec) -> Networks:
    """A network gives the mean; the log of the deviation is a parameter of its own, the same in every state."""
    size = unit_action_size(spec)
    net = network(spec.obs, cfg.hidden, size, cfg.activation, "orthogonal", 0.01, cfg.channels)

    def init(key: Key) -> dict[str, Params]:
        return {"mean": net.init(key), "log_std": jnp.zeros(size, jnp.float32)}

    def dist(params: dict[str, Params], obs: Obs) -> Any:
        return dists.normal(net.apply(params["mean"], obs), params["log_std"])

    return Networks(init, dist, lambda action: jnp.clip(action, -1.0, 1.0), _value(cfg, spec))
