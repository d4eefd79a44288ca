"""What the first two Dreamers share: imagination with gradients through the dynamics, the critic's loss, the update.

    R_t = r_{t+1} + γ c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H      `lambda_targets`
    w_t = Π_{k<=t} γ c_k                                                        `lambda_targets`
    L_v = mean w_t ½ (v(s_t) - sg R_t)²                                         `critic_loss`

The losses of models and actors are `v1.model_loss`, `v1.actor_loss`, `v2.model_loss` and `v2.actor_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.dreamer.common import Policy, factored_policy
from mbrl_jax.core import tree
from mbrl_jax.core.sharding import over_data
from mbrl_jax.core.types import Array, Discrete, Key, Metrics, MultiDiscrete, Params, Space
from mbrl_jax.models.rssm.dreamer_v1_v2 import DreamerNetConfig, ModelParams, Networks, head, predicted
from mbrl_jax.models.rssm.rssm import Latent, Rows, features
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.optim import descend
from mbrl_jax.ops.returns import lambda_returns


class ActorCritic(NamedTuple):
    """Actor and critic as networks, and the policy that the actor's outputs stand for."""

    actor: Net  # features [F] -> outputs [O] of the policy
    critic: Net  # features [F] -> [1]
    policy: Policy


class Parts(NamedTuple):
    """Three parameter trees, or an optimiser for each, or the optimisers' states."""

    model: Any
    actor: Any
    critic: Any


class Trajectory(NamedTuple):
    """An imagined trajectory of H steps; index t is of the state s_t, s_0 being the start."""

    feature: Array  # [H + 1, F] of s_t
    action: Array  # [H, A] taken at s_0 .. s_{H-1}
    reward: Array  # [H + 1] predicted on arriving at s_t
    discount: Array  # [H + 1] γ times the predicted probability that s_t is not terminal


class Imagined(NamedTuple):
    """Trajectories imagined from N states, with the targets of actor and critic."""

    trajectory: Trajectory  # [N, ...]
    returns: Array  # [N, H] R
    weights: Array  # [N, H] w


def actor_critic(cfg: DreamerNetConfig, feature: int, policy: Policy) -> ActorCritic:
    """Actor and critic of the configured sizes over features [feature]."""
    return ActorCritic(head(cfg, feature, policy.outputs), head(cfg, feature, 1), policy)


def one_hot_policy(actions: int) -> Policy:
    """A categorical over A one-hot actions by logits [A], with straight-through gradients z + p - sg(p)."""

    def sample(key: Key, out: Array) -> Array:
        probs = jax.nn.softmax(out)
        drawn = jax.nn.one_hot(jax.random.categorical(key, out), actions, dtype=jnp.float32)
        return drawn + probs - jax.lax.stop_gradient(probs)

    def entropy(out: Array) -> Array:
        return -jnp.sum(jax.nn.softmax(out) * jax.nn.log_softmax(out))

    return Policy(
        sample=sample,
        mode=lambda out: jax.nn.one_hot(jnp.argmax(out), actions, dtype=jnp.float32),
        log_prob=lambda out, action: jnp.sum(jax.lax.stop_gradient(action) * jax.nn.log_softmax(out)),
        entropy=entropy,
        to_env=lambda action: jnp.argmax(action).astype(jnp.int32),
        outputs=actions,
    )


def make_policy(space: Space, continuous: Callable[[int], Policy]) -> Policy:
    """`one_hot_policy` for a discrete action space, one for each entry of a vector, else `continuous(size)`."""
    if isinstance(space, MultiDiscrete):
        return factored_policy(space, one_hot_policy)
    return one_hot_policy(space.n) if isinstance(space, Discrete) else continuous(space.size)


def imagine_trajectory(
    key: Key,
    model: ModelParams,
    actor: Params,
    start: Latent,
    *,
    nets: Networks,
    heads: ActorCritic,
    horizon: int,
    gamma: Array | float,
) -> Trajectory:
    """One imagined trajectory. Gradients flow through actions, dynamics, rewards and discounts.

    The actor gets states without their gradient, as in the authors' code.

    Args:
      key: for sampling actions and latents.
      model: parameters of the world model.
      actor: parameters of the actor.
      start: s_0.
      nets: the world model's networks.
      heads: actor and policy.
      horizon: H, at least 1.
      gamma: γ in [0, 1), discount per step.
    """

    def one(state: Latent, i: Array) -> tuple[Latent, tuple[Latent, Array]]:
        key_policy, key_step = jax.random.split(jax.random.fold_in(key, i))
        out = heads.actor.apply(actor, jax.lax.stop_gradient(features(state)))
        action = heads.policy.sample(key_policy, out)
        after = nets.rssm.step(model.rssm, key_step, state, action)
        return after, (after, action)

    later, action = jax.lax.scan(one, start, jnp.arange(horizon))[1]
    states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, later)
    reward, cont = jax.vmap(lambda state: predicted(nets, model, state))(states)
    return Trajectory(jax.vmap(features)(states), action, reward, gamma * cont)


def lambda_targets(trajectory: Trajectory, values: Array, lam: Array | float) -> tuple[Array, Array]:
    """λ-returns and weights of one imagined trajectory (Hafner et al. 2020, eq. 5 and 6).

        R_t = r_{t+1} + c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H,      w_t = Π_{k<=t} c_k

    with c the trajectory's discounts, which contain γ.

    Args:
      trajectory: of H steps; the first reward is unused.
      values: [H + 1] v_t.
      lam: λ in [0, 1].
    Returns:
      R [H], whose gradient flows into rewards, discounts and values, and w [H] without gradient.
    """
    returns = lambda_returns(trajectory.reward[1:], trajectory.discount[1:], values, lam)
    return returns, jax.lax.stop_gradient(jnp.cumprod(trajectory.discount)[:-1])


def value_of(net: Net, params: Any, feature: Array) -> Array:
    """The critic's value of one state.

    Args:
      net: the critic's network.
      params: its parameters.
      feature: [F] of the state.
    Returns:
      v(s) [], in units of the return.
    """
    return net.apply(params, feature)[0]


def critic_loss(critic: Params, imagined: Imagined, *, net: Net) -> tuple[Array, Metrics]:
    """The critic's loss on imagined trajectories (Hafner et al. 2020, eq. 8).

        L_v = mean w_t ½ (v(s_t) - R_t)²

    Args:
      critic: parameters.
      imagined: trajectories, targets and weights, all constants here.
      net: the critic's network.
    Returns:
      L_v [] and "value_loss", the same.
    """
    values = jax.vmap(jax.vmap(lambda x: value_of(net, critic, x)))(imagined.trajectory.feature[:, :-1])
    loss = jnp.mean(imagined.weights * 0.5 * jnp.square(values - imagined.returns))
    return loss, {"value_loss": loss}


def init_parts(key: Key, *, nets: Networks, heads: ActorCritic, optimizers: Parts) -> tuple[Parts, Parts]:
    """Initial parameters of all three parts, and the states of their optimisers.

    Args:
      key: for all networks.
      nets: the world model's networks.
      heads: actor and critic.
      optimizers: one for each part.
    Returns:
      parameters and optimiser states.
    """
    key_model, key_actor, key_critic = jax.random.split(key, 3)
    params = Parts(nets.init(key_model), heads.actor.init(key_actor), heads.critic.init(key_critic))
    return params, Parts(*(optimizer.init(part) for optimizer, part in zip(optimizers, params, strict=True)))


def update_parts(
    key_model: Key,
    key_imagine: Key,
    params: Parts,
    opts: Parts,
    start: Latent,
    rows: Rows,
    *,
    model_loss_and_states: Callable[..., tuple[Array, tuple[Latent, Metrics]]],
    actor_loss_and_trajectories: Callable[..., tuple[Array, tuple[Imagined, Metrics]]],
    critic: Net,
    optimizers: Parts,
) -> tuple[Parts, Parts, Latent, Metrics]:
    """One optimiser step each of world model, actor and critic, in this order.

    Args:
      key_model: for the model's loss.
      key_imagine: for the actor's loss.
      params, opts: parameters and optimiser states before.
      start: [B, ...] the states before the first rows.
      rows: [T, B, ...] time-major windows.
      model_loss_and_states: (model, key, start, rows) -> loss [], (states [T, B, ...], metrics).
      actor_loss_and_trajectories: (actor, key, starts [T B, ...], model=the model just updated)
        -> loss [], (imagined trajectories, metrics).
      critic: the critic's network.
      optimizers: one for each part.
    Returns:
      parameters and optimiser states after, the rows' states [T, B, ...], and the metrics of all three losses, with
      "model_loss".
    """
    (loss, (states, metrics)), grads = jax.value_and_grad(model_loss_and_states, has_aux=True)(
        params.model, key_model, start, rows
    )
    model, opt_model = descend(optimizers.model, grads, opts.model, params.model)

    starts = over_data(tree.flatten_dims(jax.lax.stop_gradient(states), 2))
    grads, (imagined, actor_metrics) = jax.grad(actor_loss_and_trajectories, has_aux=True)(
        params.actor, key_imagine, starts, model=model
    )
    actor, opt_actor = descend(optimizers.actor, grads, opts.actor, params.actor)

    grads, critic_metrics = jax.grad(critic_loss, has_aux=True)(params.critic, imagined, net=critic)
    critic_params, opt_critic = descend(optimizers.critic, grads, opts.critic, params.critic)
    metrics = metrics | {"model_loss": loss} | actor_metrics | critic_metrics
    return Parts(model, actor, critic_params), Parts(opt_model, opt_actor, opt_critic), states, metrics
