"""What MuZero's model learns from a window of experience: targets, and the loss of an unroll.

Schrittwieser et al. 2020 (arXiv 1911.08265), appendix G. From the first row of a window the model is unrolled over K
recorded actions; after k of them it is held against the search policy π, the n-step return z and the reward u there:

    L = Σ_{k=0..K} w_k [ H(π_k, p^k) + c H(z_k, v^k) + H(u_k, r^k) ],   w_0 = 1,  w_k = 1/K,  no reward for k = 0
    z_t = Σ_{i=1..n} (Π_{j<i} γ d_{t+j}) u_{t+i}  +  (Π_{j<=n} γ d_{t+j}) ν_{t+n}

with the root values ν of searches, and d = 0 on reaching a terminal state, -1 where the player to move changes. A
return ends with ν where an action was drawn at random: what follows is not what the search would do (Watkins 1989 cuts
the returns of Q(λ) for the same reason). Half of the gradient passes through each step of the dynamics. Rows are those
of `buffers.sequence`: `reward` and `discount` are those of arriving at `obs`.

Past a terminal state the episode is absorbed: reward and value are 0 whatever is done, and no policy is learned. What
lies past a time limit is not known: nothing is learned of it, and n-step returns end with the last search before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.core.types import Action, Array, Key, Obs, Params
from mbrl_jax.models.muzero.networks import Networks
from mbrl_jax.ops.transforms import signed_hyperbolic
from mbrl_jax.ops.two_hot import two_hot


class SearchTargets(NamedTuple):
    """What a search at one observation found; all 0 at the last observation of an episode, where nothing is done."""

    policy: Array  # [A] probabilities
    value: Array  # [] of the root
    followed: Array  # [] bool: the action taken there was the search's own


class Targets(NamedTuple):
    """What an unroll of K steps is held against; masks are 1 or 0."""

    action: Action  # [K]
    policy: Array  # [K + 1, A]
    value: Array  # [K + 1]
    reward: Array  # [K] received on reaching state k + 1
    policy_mask: Array  # [K + 1]
    value_mask: Array  # [K + 1]
    reward_mask: Array  # [K]
    seen: Array  # [K] 1 where the observation after k + 1 steps was made in this episode


class Unrolled(NamedTuple):
    """What the model predicts along K actions."""

    latent: Array  # [K + 1, ...]
    policy: Array  # [K + 1, A] logits
    value: Array  # [K + 1, bins] logits
    reward: Array  # [K, bins] logits


def n_step_returns(
    reward: Array, discount: Array, last: Array, followed: Array, value: Array, gamma: Array | float, n: int
) -> Array:
    """n-step returns of the first rows of a window, each within its own episode (see the module's z_t).

    Args:
      reward: [L] received on arriving at each row.
      discount: [L] of arriving there: 0 where the row is terminal, -1 where the player to move changed, else 1.
      last: [L] bool: the row ends its episode, by termination or by a time limit.
      followed: [L] bool: the action taken there was that of the search; those of last rows are not looked at.
      value: [L] search values to bootstrap from; those of last rows are not looked at.
      gamma: discount per step.
      n: steps, in 1..L-1.
    Returns:
      [L - n] returns. Where the episode runs out of time within n steps, the sum ends before its last row and
      bootstraps there; the return of the row just before it is its own `value`. Likewise at a row whose action was not
      the search's. Last rows have no meaning.
    """
    chex.assert_rank([reward, discount, last, followed, value], 1)
    chex.assert_equal_shape([reward, discount, last, followed, value])
    rows = reward.shape[0] - n
    total, weight, running = jnp.zeros(rows), jnp.ones(rows), jnp.ones(rows, bool)
    for i in range(1, n + 1):
        at, to = slice(i - 1, rows + i - 1), slice(i, rows + i)
        cut = running & (~followed[at] | (last[to] & (discount[to] != 0.0)))
        total = total + jnp.where(cut, weight * value[at], 0.0)
        running = running & ~cut
        total = total + jnp.where(running, weight * reward[to], 0.0)
        running = running & ~last[to]  # a terminal row: the return is complete
        weight = weight * gamma * discount[to]
    return total + jnp.where(running, weight * value[n:], 0.0)


def make_targets(key: Key, steps: Any, searched: SearchTargets, gamma: Array | float, n: int, unroll: int) -> Targets:
    """Targets of one window that starts an unroll at its first row.

    Args:
      key: for the actions past the end of an episode, drawn uniformly.
      steps: [L, ...] rows of `buffers.sequence`, L = K + n + 1.
      searched: [L, ...] searches at these rows, as stored or afresh.
      gamma: discount per step.
      n: steps of the returns.
      unroll: K, at least 1.
    Returns:
      The targets. A window that starts at the end of an episode has all masks 0.
    """
    last, discount = steps.last, steps.discount
    rows = unroll + 1
    value = n_step_returns(steps.reward, discount, last, searched.followed, searched.value, gamma, n)[:rows]
    ends = jnp.cumsum(last[:rows])
    past = ends - last[:rows] > 0  # the row belongs to a later episode
    terminal = discount[jnp.argmax(last[:rows])] == 0.0  # how the first end, if there is one, came about
    known = (~past | terminal) & ~last[0]
    inside = ~past & known
    deciding = inside & ~last[:rows]
    random = jax.random.randint(key, (unroll,), 0, searched.policy.shape[-1], steps.action.dtype)
    numbers = lambda mask: mask.astype(jnp.float32)  # noqa: E731
    return Targets(
        action=jnp.where(deciding[:-1], steps.action[:unroll], random),
        policy=searched.policy[:rows],
        value=jnp.where(deciding, value, 0.0),
        reward=jnp.where(inside, steps.reward[:rows], 0.0)[1:],
        policy_mask=numbers(deciding),
        value_mask=numbers(deciding | (known & terminal & (ends > 0))),
        reward_mask=numbers(known)[1:],
        seen=numbers(inside)[1:],
    )


def scale_gradient(x: Array, scale: float) -> Array:
    """x, with its gradient multiplied by `scale`."""
    return scale * x + jax.lax.stop_gradient((1.0 - scale) * x)


def unroll_model(nets: Networks, params: Params, obs: Obs, action: Action) -> Unrolled:
    """The model along K recorded actions from one observation, the gradient halved at the entrance of every step.

    Args:
      nets: the networks.
      params: theirs.
      obs: the first observation.
      action: [K].
    """
    start = nets.represent(params, obs)

    def one(latent: Array, action: Action) -> tuple[Array, tuple[Array, Array]]:
        after, reward = nets.advance(params, scale_gradient(latent, 0.5), action)
        return after, (after, reward)

    _, (later, reward) = jax.lax.scan(one, start, action)
    latent = jnp.concatenate([start[None], later])
    policy, value = jax.vmap(nets.predict, (None, 0))(params, latent)
    return Unrolled(latent, policy, value, reward)


def unrolled_losses(unrolled: Unrolled, targets: Targets, bins: Array) -> dict[str, Array]:
    """The cross-entropies of one unroll, before the value's weight c.

    Args:
      unrolled: K steps.
      targets: for them.
      bins: [2n + 1] classes of transformed rewards and values.
    Returns:
      "policy", "value" and "reward", each Σ_k w_k H_k [].
    """
    steps = targets.reward.shape[0]
    weights = jnp.full(steps + 1, 1.0 / steps).at[0].set(1.0)
    classes = jax.vmap(lambda x: two_hot(signed_hyperbolic(x), bins))

    def cross(target: Array, logits: Array) -> Array:
        return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)

    return {
        "policy": jnp.sum(weights * targets.policy_mask * cross(targets.policy, unrolled.policy)),
        "value": jnp.sum(weights * targets.value_mask * cross(classes(targets.value), unrolled.value)),
        "reward": jnp.sum(weights[1:] * targets.reward_mask * cross(classes(targets.reward), unrolled.reward)),
    }


def consistency_loss(nets: Networks, params: Params, latent: Array, obs: Obs, seen: Array) -> Array:
    """Latents foretold by the dynamics should be those of what was then observed (Ye et al. 2021, section 4.1).

        L = - 1/K Σ_k cos( q(p(s^k)), sg p(h(o_k)) )       projector p, predictor q

    Args:
      nets: with projections.
      params: theirs.
      latent: [K, ...] s^k after 1..K steps.
      obs: [K, ...] o_k observed then.
      seen: [K] 0 where o_k belongs to another episode.
    Returns:
      [], in [-1, 1].
    """
    if nets.project is None:
        raise ValueError("project must be above 0 for the consistency loss")
    project = nets.project

    def unit(x: Array) -> Array:
        return x / jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-8)

    def one(latent: Array, obs: Obs) -> Array:
        foretold = project(params, latent)[1]
        observed = jax.lax.stop_gradient(project(params, nets.represent(params, obs))[0])
        return -jnp.sum(unit(foretold) * unit(observed))

    return jnp.mean(seen * jax.vmap(one)(latent, obs))
