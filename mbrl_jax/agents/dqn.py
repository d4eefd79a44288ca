"""Deep Q-network with double Q-learning.

Mnih et al. 2015, "Human-level control through deep reinforcement learning"; double Q-learning after van Hasselt et al.
2016, "Deep Reinforcement Learning with Double Q-learning" (arXiv 1509.06461). With online values Q and target ones Q',

    y   = r + γ d Q'(s', argmax_a Q(s', a))        double;  without it  y = r + γ d max_a Q'(s', a)
    L   = mean_batch Huber(Q(s, a) - y)            Huber(x) = ½ x² where |x| <= b, else b (|x| - ½ b)
    Q' <- τ Q + (1 - τ) Q'
    ε   = max(ε_1 + (ε_0 - ε_1) (1 - updates / decay), ε_1)     chance of a uniformly random action

Differs from the papers in: the target network follows by a small share after every update instead of being copied now
and then; Adam instead of RMSProp; the mean over the batch of a true Huber loss instead of a sum of clipped errors; b is
a setting, because where values are large, as with a reward of 1 per step, b = 1 cuts the errors of the rare terminal
rows so far that values can grow beyond what can be earned; hidden layers are normalised (Ba et al. 2016), so that
values do not run away where many updates are made per real step; evaluation is greedy; rewards are not clipped and
frames not stacked, which is for wrappers to do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Params, Replay, Spec, Transition, Tree
from mbrl_jax.nets.conv import network
from mbrl_jax.ops import losses
from mbrl_jax.ops.optim import descend


@config
class DQNConfig:
    """Settings of DQN."""

    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of the hidden layers")
    layer_norm: bool = setting(default=True, help="normalise each hidden layer before its activation")
    lr: float = setting(default=1e-3, above=0, help="Adam's learning rate")
    gamma: float = setting(default=0.99, low=0, high=1, help="discount per step")
    tau: float = setting(
        default=5e-3, above=0, high=1, help="share that moves into the target network per update; 1 for no target"
    )
    batch: int = setting(default=64, low=1, help="transitions per update")
    huber: float = setting(
        default=1.0, above=0, help="b, error at which the loss turns from square to linear; large for a squared loss"
    )
    double: bool = setting(default=True, help="choose the next action by the online network, not by the target")
    first_epsilon: float = setting(default=1.0, low=0, high=1, help="chance of a random action before any update")
    epsilon: float = setting(default=0.1, low=0, high=1, help="chance of a random action after the decay")
    decay_updates: int = setting(default=2_000, low=1, help="updates over which the chance falls, linearly")


class Learner(NamedTuple):
    """What DQN has learned so far."""

    q: Params
    target: Params
    opt: Any  # Adam's state
    updates: Array  # [] int32, so far


def epsilon(cfg: DQNConfig, updates: Array) -> Array:
    """Chance [] of a random action after `updates` [] of them: linear from `first_epsilon`, then `epsilon`."""
    done = jnp.minimum(updates / cfg.decay_updates, 1.0)
    return cfg.first_epsilon + (cfg.epsilon - cfg.first_epsilon) * done


def next_value(online: Array, target: Array, double: bool) -> Array:
    """Value of the next state from both networks' action values there.

        double:  target[argmax_a online[a]]   (van Hasselt et al. 2016, eq. 4),   else  max_a target[a]

    Args:
      online: [A].
      target: [A].
      double: static.
    Returns:
      [].
    """
    return target[jnp.argmax(online)] if double else jnp.max(target)


def make(cfg: DQNConfig, spec: Spec) -> Agent:
    """DQN for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector or an image (see `nets.conv.network`), actions discrete.
    Raises:
      ValueError: a setting out of range, or an environment with other observations or actions.
    """
    check(cfg)
    net = network(spec.obs, cfg.hidden, spec.num_actions, layer_norm=cfg.layer_norm)
    adam = optax.adam(cfg.lr)

    def init(key: Key) -> Learner:
        q = net.init(key)
        return Learner(q, jax.tree.map(jnp.copy, q), adam.init(q), jnp.int32(0))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        greedy = jnp.argmax(net.apply(learner.q, obs))
        if not explore:
            return greedy, carry, ()
        key_whether, key_which = jax.random.split(key)
        random = jax.random.uniform(key_whether) < epsilon(cfg, learner.updates)
        return jnp.where(random, spec.action.sample(key_which), greedy), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        batch: Transition = replay.sample(key, cfg.batch)

        def loss(q: Params) -> tuple[Array, Array]:
            def one(row: Transition) -> tuple[Array, Array]:
                value = net.apply(q, row.obs)[row.action]
                following = next_value(net.apply(q, row.next_obs), net.apply(learner.target, row.next_obs), cfg.double)
                target = losses.td_target(row.reward, row.discount, following, cfg.gamma)
                return optax.huber_loss(value, target, delta=cfg.huber), value

            error, value = jax.vmap(one)(batch)
            return jnp.mean(error), jnp.mean(value)

        (error, value), grads = jax.value_and_grad(loss, has_aux=True)(learner.q)
        q, opt = descend(adam, grads, learner.opt, learner.q)
        target = optax.incremental_update(q, learner.target, cfg.tau)
        metrics = {"loss": error, "q": value, "epsilon": epsilon(cfg, learner.updates)}
        return Learner(q, target, opt, learner.updates + 1), metrics, ()

    return Agent(init, lambda: (), act, update)
