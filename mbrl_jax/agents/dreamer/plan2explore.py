"""Plan2Explore: a second actor that seeks what the world model's successors are least certain of.

Sekar et al. 2020, "Planning to Explore via Self-Supervised World Models" (arXiv 2005.05960), in the form of the second
Dreamer's code. K predictors guess the next latent from a state's features x_t and the action taken there:

    L_e   = mean_k ½ ‖ f_k(x_t, a_t) - sg z_{t+1} ‖²
    u_t   = mean_d std_k f_k(x_t, a_t)_d,     r_{t+1} = w_u u_t + w_r r̂_{t+1}

The explorer's own actor and critic learn from r in imagination, as DreamerV3's do from rewards; it acts in training,
and the task's actor, which learns beside it, is the one that is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mbrl_jax.agents.dreamer.actor_critic_v3 import ActorCriticGrads, Dream
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
    """Settings of the explorer; its actor and critic have those of the task's."""

    members: int = setting(default=8, low=2, help="K, predictors")
    hidden: tuple[int, ...] = setting(default=(64, 64), low=1, help="widths of a predictor's layers")
    curiosity: float = setting(default=1.0, low=0, help="w_u, of the disagreement in the explorer's reward")
    task: float = setting(default=0.0, low=0, help="w_r, of the task's reward in it")


class Explorer(NamedTuple):
    """What the explorer has learned so far."""

    ensemble: Params  # [K, ...]
    actor: Params
    critic: Params
    slow: Params
    range: ReturnRange
    opt: Any  # of ensemble, actor and critic


def predictor(cfg: Plan2ExploreConfig, feature: int, action: int, latent: int) -> Net:
    """One member: features [F] and an action's code [A] side by side to a latent [Z]."""
    return layers(feature + action, cfg.hidden, latent)


def init_ensemble(key: Key, net: Net, members: int) -> Params:
    """Parameters [K, ...], each drawn for itself."""
    return jax.vmap(net.init)(jax.random.split(key, members))


def disagreement(net: Net, ensemble: Params, feature: Array, code: Array) -> Array:
    """u [] of one state and action: the deviation among members, averaged over the latent's entries.

    Args:
      net: a member.
      ensemble: [K, ...].
      feature: [F].
      code: [A].
    """
    x = jnp.concatenate([feature, code])
    return jnp.mean(jnp.std(jax.vmap(net.apply, (0, None))(ensemble, x), axis=0))


def ensemble_loss(net: Net, ensemble: Params, states: Latent, rows: Rows) -> Array:
    """L_e [] along one window; where the next row starts an episode, nothing is to be guessed.

    Args:
      net: a member.
      ensemble: [K, ...].
      states: [T, ...] at the rows, taken as constants.
      rows: [T, ...].
    """
    states = jax.lax.stop_gradient(states)
    x = jnp.concatenate([jax.vmap(features)(states)[:-1], rows.action[1:]], axis=-1)
    goal = states.stoch.reshape(states.stoch.shape[0], -1)[1:]
    guess = jax.vmap(jax.vmap(net.apply, (None, 0)), (0, None))(ensemble, x)
    errors = 0.5 * jnp.sum(jnp.square(guess - goal), axis=-1)
    return jnp.mean(errors * ~rows.first[1:])


def begin(
    key: Key, net: Net, members: int, actor: Params, critic: Params, rule: optax.GradientTransformation
) -> Explorer:
    """The explorer before it has learned; its actor and critic start as those given."""
    trained = init_ensemble(key, net, members), actor, critic
    return Explorer(*trained, jax.tree.map(jnp.copy, critic), return_scale.init(), rule.init(trained))


def update(
    explorer: Explorer,
    cfg: Plan2ExploreConfig,
    net: Net,
    space: Space,
    rule: optax.GradientTransformation,
    slow_share: Array | float,
    states: Latent,
    rows: Rows,
    learn: Callable[[Explorer, Callable[[Dream, Array], Array]], ActorCriticGrads],
) -> tuple[Explorer, Metrics]:
    """One step of the ensemble on replayed rows, and of actor and critic on lives that the explorer imagines.

    Args:
      explorer: so far.
      cfg: settings.
      net: a member.
      space: of the actions.
      rule: the optimiser.
      slow_share: what moves into the slow critic.
      states, rows: [T, B, ...].
      learn: (explorer, what a step earns) -> a lesson of lives imagined with its actor.
    """

    def loss(ensemble: Params) -> Array:
        return jnp.mean(jax.vmap(lambda s, r: ensemble_loss(net, ensemble, s, r), (1, 1))(states, rows))

    def earns(step: Dream, reward: Array) -> Array:
        unsure = disagreement(net, explorer.ensemble, step.feature, action_code(space, step.action))
        return cfg.curiosity * unsure + cfg.task * reward

    ensemble_loss_, grad = jax.value_and_grad(loss)(explorer.ensemble)
    lesson = learn(explorer, earns)
    trained = explorer.ensemble, explorer.actor, explorer.critic
    (ensemble, actor, critic), opt = descend(rule, (grad, *lesson.grads), explorer.opt, trained)
    slow = optax.incremental_update(critic, explorer.slow, slow_share)
    metrics = {"ensemble_loss": ensemble_loss_, "curiosity": lesson.metrics["imagined_return"]}
    return Explorer(ensemble, actor, critic, slow, lesson.range, opt), metrics
