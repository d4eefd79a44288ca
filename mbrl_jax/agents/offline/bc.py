"""Behaviour cloning: the policy of the data set, by supervised learning.

Pomerleau 1989, "ALVINN"; as a baseline of offline reinforcement learning in Fu et al. 2020, "D4RL" (arXiv 2004.07219).

    L_π = mean_batch ‖tanh f(s) - a‖²        continuous actions, a deterministic policy
    L_π = -mean_batch log π(a|s)             discrete actions, π(·|s) = softmax f(s)

Differs from the sources in: nothing of the equations; rewards are not looked at: bad episodes count as much as good
ones.
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
from mbrl_jax.ops.optim import descend


@config
class BCConfig:
    """Settings of behaviour cloning."""

    hidden: tuple[int, ...] = setting(default=(256, 256), low=1, help="widths of the policy's hidden layers")
    lr: float = setting(default=3e-4, above=0, help="Adam's learning rate")
    batch: int = setting(default=256, low=1, help="transitions per update")


class Learner(NamedTuple):
    """What has been learned so far."""

    policy: Params
    opt: Any  # Adam's state


def network(cfg: BCConfig, spec: Spec) -> Net:
    """The policy's network: actions before tanh, or logits.

    Args:
      cfg: settings.
      spec: observations a vector, actions discrete or a vector in [-1, 1].
    Raises:
      ValueError: an environment that needs a wrapper first.
    """
    outputs = spec.action.n if isinstance(spec.action, Discrete) else unit_action_size(spec)
    return mlp(vector_size(spec), cfg.hidden, outputs)


def policy_loss(policy: Params, batch: Transition, *, net: Net, discrete: bool) -> tuple[Array, Metrics]:
    """Distance of the policy from the actions of the data.

        L = mean_batch ‖tanh f(s) - a‖²,   or   -mean_batch log softmax(f(s))_a

    Args:
      policy: parameters, which the loss is differentiated by.
      batch: [B, ...] transitions, of which observations and actions count.
      net: from `network`.
      discrete: whether actions are.
    Returns:
      loss [] and the metric `policy_loss`.
    """
    out = jax.vmap(net.apply, (None, 0))(policy, batch.obs)
    if discrete:
        loss = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(out), batch.action[:, None], 1))
    else:
        loss = jnp.mean(jnp.sum(jnp.square(jnp.tanh(out) - batch.action), 1))
    return loss, {"policy_loss": loss}


def make(cfg: BCConfig, spec: Spec) -> Agent:
    """Behaviour cloning for one environment.

    Args:
      cfg: settings; floats may be traced.
      spec: observations a vector, actions discrete or a vector in [-1, 1].
    Returns:
      the agent; continuous actions are always the policy's, discrete ones are drawn from it where it explores.
    Raises:
      ValueError: a setting out of range, or an environment that needs a wrapper first.
    """
    check(cfg)
    net, discrete, adam = network(cfg, spec), isinstance(spec.action, Discrete), optax.adam(cfg.lr)

    def init(key: Key) -> Learner:
        policy = net.init(key)
        return Learner(policy, adam.init(policy))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        out = net.apply(learner.policy, obs)
        if not discrete:
            return jnp.tanh(out), carry, ()
        return (jax.random.categorical(key, out) if explore else jnp.argmax(out)).astype(jnp.int32), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        batch: Transition = replay.sample(key, cfg.batch)
        grads, metrics = jax.grad(policy_loss, has_aux=True)(learner.policy, batch, net=net, discrete=discrete)
        return Learner(*descend(adam, grads, learner.opt, learner.policy)), metrics, ()

    return Agent(init, lambda: (), act, update)
