"""Imagined lives through which gradients flow, as the first two Dreamers learn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Discrete, Key, Params, Space
from mbrl_jax.models.rssm.dreamer_v1_v2 import ModelParams, Networks, predicted
from mbrl_jax.models.rssm.rssm import Latent, features
from mbrl_jax.nets.net import Net
from mbrl_jax.ops.returns import lambda_returns


class Policy(NamedTuple):
    """A distribution over actions by an actor's outputs. Gradients flow through what it samples.

    Actions of a discrete space are one-hot vectors here; `real` gives what an environment takes.
    """

    sample: Callable[[Key, Array], Array]
    mode: Callable[[Array], Array]
    log_prob: Callable[[Array, Array], Array]  # (outputs, action) -> []
    entropy: Callable[[Array], Array]  # (outputs) -> [] nats
    real: Callable[[Array], Action]
    outputs: int  # of the actor


class Life(NamedTuple):
    """One imagined life of H steps; index t is of the state s_t that was reached, from the start s_0 on."""

    feature: Array  # [H + 1, F]
    action: Array  # [H, A] taken at s_0 .. s_{H-1}
    reward: Array  # [H + 1] predicted on arriving
    discount: Array  # [H + 1] γ times the chance to go on


def one_hot_policy(actions: int) -> Policy:
    """One of A actions by logits; z + p - sg(p) lets the gradient straight through."""

    def sample(key: Key, out: Array) -> Array:
        chances = jax.nn.softmax(out)
        return jax.nn.one_hot(jax.random.categorical(key, out), actions) + chances - jax.lax.stop_gradient(chances)

    def entropy(out: Array) -> Array:
        return -jnp.sum(jax.nn.softmax(out) * jax.nn.log_softmax(out))

    return Policy(
        sample,
        lambda out: jax.nn.one_hot(jnp.argmax(out), actions),
        lambda out, action: jnp.sum(jax.lax.stop_gradient(action) * jax.nn.log_softmax(out)),
        entropy,
        lambda action: jnp.argmax(action).astype(jnp.int32),
        actions,
    )


def policy_of(space: Space, continuous: Callable[[int], Policy]) -> Policy:
    """`one_hot_policy` for a discrete space, else `continuous` of the action's size."""
    return one_hot_policy(space.n) if isinstance(space, Discrete) else continuous(space.size)


def live(
    key: Key,
    nets: Networks,
    params: ModelParams,
    actor: tuple[Net, Params],
    policy: Policy,
    start: Latent,
    horizon: int,
    gamma: Array | float,
) -> Life:
    """One life of H steps from a state; the actor sees states without their gradient, as in the authors' code.

    Args:
      key: used once.
      nets, params: the model.
      actor: the network and its parameters.
      policy: of its outputs.
      start: s_0.
      horizon: H.
      gamma: γ.
    """
    net, weights = actor

    def one(state: Latent, i: Array) -> tuple[Latent, tuple[Latent, Array]]:
        key_policy, key_step = jax.random.split(jax.random.fold_in(key, i))
        action = policy.sample(key_policy, net.apply(weights, jax.lax.stop_gradient(features(state))))
        after = nets.rssm.step(params.rssm, key_step, state, action)
        return after, (after, action)

    later, action = jax.lax.scan(one, start, jnp.arange(horizon))[1]
    states = jax.tree.map(lambda now, then: jnp.concatenate([now[None], then]), start, later)
    reward, goes_on = jax.vmap(lambda state: predicted(nets, params, state))(states)
    return Life(jax.vmap(features)(states), action, reward, gamma * goes_on)


def targets(life: Life, values: Array, lam: Array | float) -> tuple[Array, Array]:
    """R_t [H] and w_t = Π_{k<=t} c_k [H] of a life, from values [H + 1]; the weights carry no gradient.

    R_t = r_{t+1} + c_{t+1} [ (1 - λ) v_{t+1} + λ R_{t+1} ],   R_H = v_H
    """
    returns = lambda_returns(life.reward[1:], life.discount[1:], values, lam)
    return returns, jax.lax.stop_gradient(jnp.cumprod(life.discount)[:-1])


def value_of(net: Net, params: Any, feature: Array) -> Array:
    """v(s) [] from features [F]."""
    return net.apply(params, feature)[0]


def critic_loss(critic: Params, net: Net, life: Life, returns: Array, weight: Array) -> Array:
    """L_v = mean w_t ½ (v(s_t) - R_t)² [] of N lives; their states, returns and weights [N, H] are constants."""
    values = jax.vmap(jax.vmap(lambda x: value_of(net, critic, x)))(life.feature[:, :-1])
    return jnp.mean(weight * 0.5 * jnp.square(values - returns))
