"""What DreamerV3's actor and critic are, and what imagined lives and replayed rows teach them.

Equations of R, w, S, L_π, L_v and G in `agents.dreamer.v3`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Discrete, Key, Metrics, Params, Space
from mbrl_jax.models.rssm.dreamer_v3 import DreamerParams, Networks, classify, predicted_discount, predicted_reward
from mbrl_jax.models.rssm.rssm import Latent, Rows, features
from mbrl_jax.ops import dists, return_scale
from mbrl_jax.ops.return_scale import ReturnRange
from mbrl_jax.ops.returns import gae, lambda_returns
from mbrl_jax.ops.two_hot import expectation


class Policy(NamedTuple):
    """A distribution of actions by the actor's outputs."""

    sample: Callable[[Key, Array], Action]
    mode: Callable[[Array], Action]
    log_prob: Callable[[Array, Action], Array]  # []
    entropy: Callable[[Array], Array]  # [] nats


class Dream(NamedTuple):
    """A step of an imagined life."""

    feature: Array  # [F] of the state
    action: Action  # taken there


class ActorCriticGrads(NamedTuple):
    """What imagined lives teach an actor and a critic."""

    grads: tuple[Params, Params]  # of L_π + L_v, for actor and critic
    returns: Array  # [H, N] R
    slow: Array  # [H + 1, N] values by the slow critic
    range: ReturnRange
    metrics: Metrics


class HeadOutputs(NamedTuple):
    """What the heads say of a state, each []."""

    reward: Array  # on arriving there
    discount: Array  # chance to go on, times γ
    value: Array
    slow: Array  # value, by the slow critic


def policy_of(space: Space, unimix: Array | float) -> Policy:
    """The kind of policy for a space of actions.

        discrete     log((1 - ε) softmax(x) + ε / A)
        continuous   N(tanh(m), σ²),  σ = 0.1 + 0.9 sigmoid(s + 2)

    Samples of the continuous one may lie outside [-1, 1].

    Args:
      space: of the actions.
      unimix: ε in [0, 1), may be traced.
    """
    if isinstance(space, Discrete):

        def logits(out: Array) -> Array:
            return jnp.logaddexp(jax.nn.log_softmax(out) + jnp.log1p(-unimix), jnp.log(unimix / space.n))

        return Policy(
            lambda key, out: jax.random.categorical(key, logits(out)),
            jnp.argmax,
            lambda out, action: jnp.sum(jax.nn.one_hot(action, space.n) * logits(out)),
            lambda out: dists.categorical_entropy(logits(out)),
        )

    def normal(out: Array) -> Any:
        mean, raw = jnp.split(out, 2)
        return dists.normal(jnp.tanh(mean), jnp.log(0.1 + 0.9 * jax.nn.sigmoid(raw + 2.0)))

    return Policy(
        lambda key, out: normal(out).sample(seed=key),
        lambda out: jnp.tanh(jnp.split(out, 2)[0]),
        lambda out, action: normal(out).log_prob(action),
        lambda out: normal(out).entropy(),
    )


def outputs(nets: Networks, actor: Params, feature: Array) -> Array:
    """What `Policy` takes, of one state's features."""
    return nets.actor.apply(actor, feature).astype(jnp.float32)


def dream(
    key: Key, nets: Networks, params: DreamerParams, slow: Params, policy: Policy, starts: Latent, horizon: int
) -> tuple[Dream, HeadOutputs]:
    """H imagined steps from each of N states.

    What the heads say of the states comes with the steps: the bins of one step fit in a cache, those of all do not.

    Args:
      key: used once.
      nets: the networks.
      params: theirs.
      slow: parameters of the slow critic.
      policy: of the actor.
      starts: [N, ...].
      horizon: H.
    Returns:
      the steps [H, N, ...], and what is told of the states [H + 1, N].
    """
    lanes = starts.deter.shape[0]

    def tell(feature: Array) -> HeadOutputs:
        values = (expectation(critic_logits(nets, critic, feature), nets.bins) for critic in (params.critic, slow))
        return HeadOutputs(predicted_reward(nets, params, feature), predicted_discount(nets, params, feature), *values)

    def one(states: Latent, i: Array) -> tuple[Latent, tuple[Dream, HeadOutputs]]:
        keys = jax.random.split(jax.random.fold_in(key, i), (2, lanes))

        def lane(key_policy: Key, key_step: Key, state: Latent) -> tuple[Latent, tuple[Dream, HeadOutputs]]:
            feature = features(state)
            action = policy.sample(key_policy, outputs(nets, params.actor, feature))
            return nets.rssm.step(params.rssm, key_step, state, action), (Dream(feature, action), tell(feature))

        return jax.vmap(lane)(keys[0], keys[1], states)

    ends, (steps, told) = jax.lax.scan(one, starts, jnp.arange(horizon))
    at_end = jax.vmap(lambda state: tell(features(state)))(ends)
    return steps, jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), told, at_end)


def imagined_targets(told: HeadOutputs, lam: Array | float) -> tuple[Array, Array]:
    """What one imagined life teaches.

    Args:
      told: [H + 1] of its states; the reward of the first is of no account.
      lam: λ.
    Returns:
      returns R [H] and weights w [H] of all states but the last.
    """
    returns = lambda_returns(told.reward[1:], told.discount[1:], told.value, lam)
    return returns, jnp.cumprod(told.discount)[:-1]


def replay_targets(rows: Rows, boot: Array, gamma: Array | float, lam: Array | float) -> tuple[Array, Array]:
    """What the rows of one window teach.

    Args:
      rows: [T, ...].
      boot: [T] b, the return imagined from each.
      gamma: γ.
      lam: λ.
    Returns:
      returns G [T - 1] and weights 1 - last [T - 1] of all rows but the last.
    """
    advantage = gae(rows.reward[1:], gamma * rows.discount[1:], boot[:-1], boot[1:], rows.last[1:], lam)
    return advantage + boot[:-1], 1.0 - rows.last[:-1].astype(jnp.float32)


def learn(
    key: Key, nets: Networks, params: DreamerParams, slow: Params, old: ReturnRange, policy: Policy, starts: Latent,
    counts: Array, cfg: Any, narrow: Callable[[Any], Any], curiosity: Callable[[Dream, Array], Array] | None = None,
) -> ActorCriticGrads:  # fmt: skip
    """Imagines lives from each of N states and takes the gradients that they give.

    Args:
      key: used once.
      nets: the networks.
      params: theirs; nothing of what is imagined reaches the model.
      slow: parameters of the slow critic.
      old: the range of returns so far.
      policy: of the actor.
      starts: [N, ...].
      counts: [N] weight of each start.
      cfg: settings `imagined`, `lam`, `entropy`, `slow_weight` and `range_rate`, as in `DreamerV3Config`.
      narrow: parameters into the type that is computed in.
      curiosity: (step, the model's reward) -> what the step earns on arriving, []; None for the model's reward.
    """
    steps, told = dream(key, nets, narrow(params), narrow(slow), policy, starts, cfg.imagined)
    if curiosity is not None:
        told = told._replace(reward=told.reward.at[1:].set(jax.vmap(jax.vmap(curiosity))(steps, told.reward[1:])))
    returns, weight = jax.vmap(imagined_targets, (1, None), 1)(told, cfg.lam)
    moved = return_scale.update(old, returns, cfg.range_rate)
    scale = return_scale.scale(moved)

    def loss(params: tuple[Params, Params], rows: tuple[Dream, Array, Array, Array, Array]) -> tuple[Array, Metrics]:
        """L_π + L_v [] of one imagined step in all lanes."""
        (actor, critic), (step, advantage, returns, slow, weight) = narrow(params), rows
        of_actor = lambda step, adv: actor_loss(nets, actor, policy, step, adv, cfg.entropy)  # noqa: E731
        of_critic = lambda x, ret, old: critic_loss(nets, critic, x, ret, old, cfg.slow_weight)  # noqa: E731
        losses, entropy = jax.vmap(of_actor)(step, advantage)
        policy_loss = jnp.mean(weight * losses)
        value_loss = jnp.mean(weight * jax.vmap(of_critic)(step.feature, returns, slow))
        means = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": jnp.mean(entropy)}
        return policy_loss + value_loss, means

    def one(grads: Any, rows: Any) -> tuple[Any, Metrics]:
        more, means = jax.grad(lambda turned: loss(turn(turned), rows), has_aux=True)(turned)
        return jax.tree.map(lambda so_far, new: so_far + new / cfg.imagined, grads, more), means

    # Step by step, for what one step needs fits in a cache.
    rows = steps, (returns - told.value[:-1]) / scale, returns, told.slow[:-1], weight * counts
    turned = turn((params.actor, params.critic))
    grads, means = jax.lax.scan(one, jax.tree.map(jnp.zeros_like, turned), rows)
    metrics = jax.tree.map(jnp.mean, means) | {"imagined_return": jnp.mean(returns), "return_scale": scale}
    return ActorCriticGrads(turn(grads), returns, told.slow, moved, metrics)


def turn(params: Any) -> Any:
    """Matrices transposed: the gradient of one with more inputs than outputs is summed in half the time that way."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, params)


def critic_logits(nets: Networks, critic: Params, feature: Array) -> Array:
    """Log-odds [bins] of one state's value."""
    return nets.critic.apply(critic, feature).astype(jnp.float32)


def critic_loss(
    nets: Networks, critic: Params, feature: Array, target: Array, slow: Array, slow_weight: Array | float
) -> Array:
    """CE(v(s), target) + weight CE(v(s), slow), [] of one state; target and slow [] are constants."""
    logits = critic_logits(nets, critic, feature)
    return classify(logits, target, nets.bins) + slow_weight * classify(logits, slow, nets.bins)


def actor_loss(
    nets: Networks, actor: Params, policy: Policy, step: Dream, advantage: Array, entropy: Array | float
) -> tuple[Array, Array]:
    """-A log π(a|s) - η H(π(s)) of one imagined step, and H; the advantage [] is a constant, `entropy` is η."""
    out = outputs(nets, actor, step.feature)
    nats = policy.entropy(out)
    return -advantage * policy.log_prob(out, step.action) - entropy * nats, nats
