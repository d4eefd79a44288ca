"""Plan2Explore: a second actor that seeks out states where an ensemble disagrees about what follows.

Sekar et al. 2020, "Planning to Explore via Self-Supervised World Models" (arXiv 2005.05960), in the form of the second
Dreamer's code. K predictors map a state's features x_t and the action taken there to the next latent:

    L_e     = mean_k ½ ‖ f_k(x_t, a_t) - sg z_{t+1} ‖²                                          `ensemble_loss`
    u_t     = mean_d std_k f_k(x_t, a_t)_d                                                      `disagreement`
    r_{t+1} = w_u u_t + w_r r̂_{t+1}                                                             `intrinsic_reward`

The explorer's own actor and critic learn from r in imagination, as DreamerV3's do from the task's rewards. The explorer
acts in training; evaluation uses the task's actor, which learns beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer.actor_critic_v3 import ActorCriticGrads, ImaginedStep, IntrinsicReward
from mbrl_jax.core.config import config, setting
from mbrl_jax.core.types import Array, Key, Metrics, Params, Space
from mbrl_jax.models.rssm.rssm import Latent, Rows, action_code, features
from mbrl_jax.nets.layers import layers
from mbrl_jax.nets.net import Net
from mbrl_jax.ops import return_scale
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.return_scale import ReturnRange


@config
class Plan2ExploreConfig:
    """Settings of the explorer; its actor and critic use those of the task's."""

    members: int = setting(default=8, low=2, help="ensemble members K")
    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="units of each hidden layer of a member")
    curiosity: float = setting(default=1.0, low=0, help="weight w_u of the disagreement in the explorer's reward")
    task: float = setting(default=0.0, low=0, help="weight w_r of the task's reward in the explorer's reward")


class Explorer(NamedTuple):
    """What the explorer has learned so far."""

    ensemble: Params  # [K, ...]
    actor: Params
    critic: Params
    ema_critic: Params  # exponential moving average of the critic
    range: ReturnRange
    opt: Any  # optimiser state, of ensemble, actor and critic


def predictor(cfg: Plan2ExploreConfig, feature: int, action: int, latent: int) -> Net:
    """One ensemble member: it predicts the next state's stochastic latent from a state and an action.

    Args:
      cfg: hidden layers.
      feature: F, entries of a state's features.
      action: A, entries of an `action_code`.
      latent: entries of the predicted latent, flattened.
    Returns:
      a network from features and code, concatenated [F + A], to the latent [latent].
    """
    return layers(feature + action, cfg.hidden, latent)


def init_ensemble(key: Key, net: Net, members: int) -> Params:
    """Parameters [K, ...], drawn independently for each member."""
    return jax.vmap(net.init)(jax.random.split(key, members))


def init_explorer(
    key: Key, actor: Params, critic: Params, *, net: Net, members: int, optimizer: optax.GradientTransformation
) -> Explorer:
    """The explorer before it has learned.

    Args:
      key: for the ensemble.
      actor, critic: initial parameters of its actor and critic.
      net: one ensemble member.
      members: K.
      optimizer: of ensemble, actor and critic together.
    """
    params = init_ensemble(key, net, members), actor, critic
    return Explorer(*params, jax.tree.map(jnp.copy, critic), return_scale.init(), optimizer.init(params))


def disagreement(ensemble: Params, feature: Array, code: Array, *, net: Net) -> Array:
    """u of one state and action: the standard deviation among members, averaged over the latent's entries.

    Args:
      ensemble: [K, ...] parameters.
      feature: [F] of the state.
      code: [A] `action_code` of the action.
      net: one ensemble member.
    Returns:
      u [], at least 0.
    """
    x = jnp.concatenate([feature, code])
    return jnp.mean(jnp.std(jax.vmap(net.apply, (0, None))(ensemble, x), axis=0))


def intrinsic_reward(
    ensemble: Params,
    step: ImaginedStep,
    reward: Array,
    *,
    net: Net,
    space: Space,
    curiosity: Array | float,
    task: Array | float,
) -> Array:
    """The explorer's reward of one imagined step, w_u u + w_r r̂.

    Args:
      ensemble: [K, ...] parameters.
      step: state and action.
      reward: r̂ [], the model's reward on arriving at the next state.
      net: one ensemble member.
      space: action space.
      curiosity: w_u.
      task: w_r.
    Returns:
      [].
    """
    uncertainty = disagreement(ensemble, step.feature, action_code(space, step.action), net=net)
    return curiosity * uncertainty + task * reward


def ensemble_loss(ensemble: Params, states: Latent, rows: Rows, *, net: Net) -> tuple[Array, Metrics]:
    """The ensemble's loss on replayed windows; steps across the start of an episode count as 0.

        L_e = mean ½ ‖ f_k(x_t, a_t) - sg z_{t+1} ‖²

    Args:
      ensemble: [K, ...] parameters.
      states: [T, B, ...] of the rows, constants.
      rows: [T, B, ...].
      net: one ensemble member.
    Returns:
      L_e [] and itself as "ensemble_loss".
    """

    def one(states: Latent, rows: Rows) -> Array:
        states = jax.lax.stop_gradient(states)
        x = jnp.concatenate([jax.vmap(features)(states)[:-1], rows.action[1:]], axis=-1)
        target = states.stoch.reshape(states.stoch.shape[0], -1)[1:]
        prediction = jax.vmap(jax.vmap(net.apply, (None, 0)), (0, None))(ensemble, x)
        errors = 0.5 * jnp.sum(jnp.square(prediction - target), axis=-1)
        return jnp.mean(errors * ~rows.first[1:])

    loss = jnp.mean(jax.vmap(one, (1, 1))(states, rows))
    return loss, {"ensemble_loss": loss}


def update(
    explorer: Explorer,
    states: Latent,
    rows: Rows,
    *,
    cfg: Plan2ExploreConfig,
    net: Net,
    space: Space,
    optimizer: optax.GradientTransformation,
    ema_rate: Array | float,
    imagine: Callable[[Explorer, IntrinsicReward], ActorCriticGrads],
) -> tuple[Explorer, Metrics]:
    """One step of the ensemble on replayed rows, and of actor and critic on what the explorer imagines.

    Args:
      explorer: so far.
      states, rows: [T, B, ...].
      cfg: settings.
      net: one ensemble member.
      space: action space.
      optimizer: of ensemble, actor and critic together.
      ema_rate: τ, share of the critic that moves into the EMA critic.
      imagine: (explorer, intrinsic reward) -> gradients on trajectories imagined with the explorer's actor.
    Returns:
      the explorer after; "ensemble_loss", and "curiosity", the mean return of intrinsic rewards.
    """

    def reward(step: ImaginedStep, reward: Array) -> Array:
        weights = {"curiosity": cfg.curiosity, "task": cfg.task}
        return intrinsic_reward(explorer.ensemble, step, reward, net=net, space=space, **weights)

    grads, metrics = jax.grad(ensemble_loss, has_aux=True)(explorer.ensemble, states, rows, net=net)
    imagined = imagine(explorer, reward)
    params = explorer.ensemble, explorer.actor, explorer.critic
    (ensemble, actor, critic), opt = descend(optimizer, (grads, *imagined.grads), explorer.opt, params)
    ema_critic = optax.incremental_update(critic, explorer.ema_critic, ema_rate)
    metrics = metrics | {"curiosity": imagined.metrics["imagined_return"]}
    return Explorer(ensemble, actor, critic, ema_critic, imagined.range, opt), metrics
