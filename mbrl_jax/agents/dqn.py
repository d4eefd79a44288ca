"""Deep Q-network with double Q-learning.

Mnih et al. 2015, "Human-level control through deep reinforcement learning"; double Q-learning after van Hasselt et al.
2016, "Deep Reinforcement Learning with Double Q-learning" (arXiv 1509.06461). With online network Q and target network
Q',

    y   = r + γ d Q'(s', argmax_a Q(s', a))        double;  without it  y = r + γ d max_a Q'(s', a)     `td_targets`
    L   = mean_batch Huber(Q(s, a) - y)            Huber(x) = ½ x² where |x| <= b, else b (|x| - ½ b)   `q_loss`
    Q' <- τ Q + (1 - τ) Q'
    ε   = ε_0 + (ε_1 - ε_0) min(updates / decay, 1)      chance of a uniformly random action   `epsilon_schedule`

Differs from the papers in: the target network is a moving average of the online network instead of a periodic copy;
Adam instead of RMSProp; the mean over the batch of a true Huber loss instead of a sum of clipped errors; b is a
setting, because where values are large, as with a reward of 1 per step, b = 1 cuts the errors of the rare terminal
rows so much that values can grow beyond any return; hidden layers are normalised (Ba et al. 2016), so that values do
not diverge where many updates are made per real step; evaluation is greedy; clipping rewards and stacking frames are
left to wrappers.

The explorer "rnd" adds a bonus for observations that are new to the rewards it learns from (`agents.rnd`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.rnd import RNDConfig, distilled
from mbrl_jax.agents.standardized import standardized
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
from mbrl_jax.nets.conv import network
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import losses
from mbrl_jax.ops.optim import descend


@config
class DQNConfig:
    """Settings of DQN."""

    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of the hidden layers")
    layer_norm: bool = setting(default=True, help="normalisation of each hidden layer before its activation")
    lr: float = setting(default=1e-3, above=0, help="Adam's learning rate")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount factor per step")
    tau: float = setting(
        default=5e-3,
        above=0,
        high=1,
        help="weight of the online network in the target network's average, per update; 1 for no target network",
    )
    batch: int = setting(default=64, low=1, help="transitions per update")
    huber: float = setting(
        default=1.0,
        above=0,
        help="TD error at which the loss turns from quadratic to linear, in units of reward; large for a squared loss",
    )
    double: bool = setting(
        default=True, help="choice of the next action by the online network instead of the target network"
    )
    first_epsilon: float = setting(
        default=1.0, low=0, high=1, help="probability of a random action before the first update"
    )
    epsilon: float = setting(default=0.1, low=0, high=1, help="probability of a random action after the decay")
    decay_updates: int = setting(
        default=2_000, low=1, help="updates over which the probability of a random action falls, linearly"
    )
    normalize_obs: bool = setting(default=False, help="observations scaled to mean 0 and deviation 1, see standardized")
    scale_rewards: bool = setting(default=False, help="rewards divided by their running root mean square")
    explorer: str = setting(default="none", choices=("none", "rnd"), help="what rewards in training have a bonus for")
    rnd: RNDConfig = RNDConfig()


class Learner(NamedTuple):
    """What DQN has learned so far."""

    q: Params
    target: Params
    opt: Any  # Adam's state
    updates: Array  # [] int32, so far


def epsilon_schedule(
    updates: Array, *, first_epsilon: Array | float, epsilon: Array | float, decay_updates: int
) -> Array:
    """Probability of a random action, ε = ε_0 + (ε_1 - ε_0) min(updates / decay, 1).

    Args:
      updates: [] number of updates so far.
      first_epsilon: ε_0, in [0, 1].
      epsilon: ε_1, in [0, 1].
      decay_updates: updates after which ε is ε_1, at least 1.
    Returns:
      [] ε.
    """
    progress = jnp.minimum(updates / decay_updates, 1.0)
    return first_epsilon + (epsilon - first_epsilon) * progress


def next_value(online: Array, target: Array, *, double: bool) -> Array:
    """Value of the next state from both networks' action values there.

        double:  target[argmax_a online[a]]   (van Hasselt et al. 2016, eq. 4),   else  max_a target[a]

    Args:
      online: [A] Q(s', ·).
      target: [A] Q'(s', ·).
      double: static.
    Returns:
      [] value.
    """
    return target[jnp.argmax(online)] if double else jnp.max(target)


def td_targets(q: Params, target: Params, batch: Transition, *, net: Net, gamma: Array | float, double: bool) -> Array:
    """One-step targets, y = r + γ d V(s') with V from `next_value`.

    Args:
      q: parameters of the online network.
      target: parameters of the target network.
      batch: [B, ...] transitions.
      net: obs -> action values [A].
      gamma: discount factor per step, in [0, 1].
      double: choose the next action by the online network.
    Returns:
      [B] targets, with no gradient.
    """

    def one(row: Transition) -> Array:
        value = next_value(net.apply(q, row.next_obs), net.apply(target, row.next_obs), double=double)
        return losses.td_target(row.reward, row.discount, value, gamma)

    return jax.vmap(one)(batch)


def q_loss(q: Params, batch: Transition, *, net: Net, targets: Array, huber: Array | float) -> tuple[Array, Metrics]:
    """Huber loss of the TD errors, L = mean_batch Huber(Q(s, a) - y) (Mnih et al. 2015).

    Args:
      q: parameters of the online network, which the loss is differentiated by.
      batch: [B, ...] transitions.
      net: obs -> action values [A].
      targets: [B] y, from `td_targets`.
      huber: b, error at which the loss turns from quadratic to linear, above 0.
    Returns:
      loss [] and the metrics `loss` and `q`, the mean of Q(s, a).
    """
    values = jax.vmap(lambda row: net.apply(q, row.obs)[row.action])(batch)
    loss = jnp.mean(optax.huber_loss(values, targets, delta=huber))
    return loss, {"loss": loss, "q": jnp.mean(values)}


def make(cfg: DQNConfig, spec: Spec) -> Agent:
    """DQN for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or an image (see `nets.conv.network`), actions discrete.
    Returns:
      the agent; its `update` needs `replay.sample` to give transitions [B, ...].
    Raises:
      ValueError: a setting out of range, or an environment with other observations or actions.
    """
    check(cfg)
    net = network(spec.obs, cfg.hidden, spec.num_actions, layer_norm=cfg.layer_norm)
    adam = optax.adam(cfg.lr)

    def epsilon(updates: Array) -> Array:
        return epsilon_schedule(
            updates, first_epsilon=cfg.first_epsilon, epsilon=cfg.epsilon, decay_updates=cfg.decay_updates
        )

    def init(key: Key) -> Learner:
        q = net.init(key)
        return Learner(q, jax.tree.map(jnp.copy, q), adam.init(q), jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        greedy = jnp.argmax(net.apply(learner.q, obs)).astype(jnp.int32)
        if not explore:
            return greedy, carry, ()
        key_whether, key_which = jax.random.split(key)
        random = jax.random.uniform(key_whether, dtype=jnp.float32) < epsilon(learner.updates)
        return jnp.where(random, spec.action.sample(key_which), greedy), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        batch: Transition = replay.sample(key, cfg.batch)
        targets = td_targets(learner.q, learner.target, batch, net=net, gamma=cfg.gamma, double=cfg.double)
        grads, metrics = jax.grad(q_loss, has_aux=True)(learner.q, batch, net=net, targets=targets, huber=cfg.huber)
        q, opt = descend(adam, grads, learner.opt, learner.q)
        target = optax.incremental_update(q, learner.target, cfg.tau)
        metrics |= {"epsilon": epsilon(learner.updates)}
        return Learner(q, target, opt, learner.updates + 1), metrics, ()

    agent = Agent(init, lambda: (), act, update)
    if cfg.explorer == "rnd":
        agent = distilled(agent, spec, cfg.rnd)
    return standardized(agent, spec, obs=cfg.normalize_obs, rewards=cfg.scale_rewards)
