"""What MuZero's model learns from a window of experience: targets, and the loss of an unroll.

Schrittwieser et al. 2020 (arXiv 1911.08265), appendix G. From the first row of a window the model is unrolled over K
recorded actions. After k of them its predictions are trained towards the search policy π, the n-step return z and the
reward u recorded there:

    L = Σ_{k=0..K} w_k [ H(π_k, p^k) + c H(z_k, v^k) + H(u_k, r^k) ] + c' L_consistency
        w_0 = 1,  w_k = 1/K,  no reward for k = 0

    z_t = Σ_{i=1..n} (Π_{j<i} γ d_{t+j}) u_{t+i}  +  (Π_{j<=n} γ d_{t+j}) ν_{t+n}

with the root values ν of searches, and d = 0 on arriving at a terminal state, -1 where the player to move changes. A
return is cut at a random action and bootstraps with ν there: what follows is not what the search would do (Watkins 1989
cuts the returns of Q(λ) for the same reason). The gradient is halved at each step of the dynamics. Rows are those of
`buffers.sequence`: `reward` and `discount` are received on arriving at `obs`.

A terminal state is absorbing: past it reward and value are 0 for every action, and no policy is learned. Past a time
limit the future is unknown: nothing is learned of it, and n-step returns bootstrap from the last search before it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mbrl_jax.buffers.sequence import Step
from mbrl_jax.core.sharding import vmap_shares
from mbrl_jax.core.types import Action, Array, Key, Metrics, Obs, Params
from mbrl_jax.models.muzero.networks import Networks
from mbrl_jax.ops.transforms import signed_hyperbolic
from mbrl_jax.ops.two_hot import two_hot_cross_entropy


class SearchTargets(NamedTuple):
    """What a search at one observation found; all 0 where there was none.

    There is none at the last observation of an episode, where no action is taken, and in the warm-up, whose actions are
    random. What is all 0 is no target of policy or value.
    """

    policy: Array  # [A] improved policy, probabilities
    value: Array  # [] of the root, ν
    from_search: Array  # [] bool: the action taken there was the search's, not a random one


class Targets(NamedTuple):
    """Targets of an unroll over K steps; masks are 1 or 0."""

    action: Action  # [K]
    policy: Array  # [K + 1, A] π
    value: Array  # [K + 1] z
    reward: Array  # [K] u, received on arriving at step k + 1
    policy_mask: Array  # [K + 1]
    value_mask: Array  # [K + 1]
    reward_mask: Array  # [K]
    same_episode: Array  # [K] 1 where the observation after k + 1 steps belongs to the episode of the first


class Unrolled(NamedTuple):
    """What the model predicts along K actions."""

    latent: Array  # [K + 1, ...] s^k
    policy: Array  # [K + 1, A] logits of p^k
    value: Array  # [K + 1, bins] logits of v^k
    reward: Array  # [K, bins] logits of r^k


def n_step_returns(
    reward: Array, discount: Array, last: Array, from_search: Array, value: Array, *, gamma: Array | float, n: int
) -> Array:
    """n-step returns z_t of the first rows of a window, each within its own episode (see the module's formula).

    Args:
      reward: [L] received on arriving at each row.
      discount: [L] of arriving there: 0 where the row is terminal, -1 where the player to move changed, else 1.
      last: [L] bool: the row ends its episode, by termination or by a time limit.
      from_search: [L] bool: the action taken there was the search's. Ignored at last rows.
      value: [L] search values ν to bootstrap from. Ignored at last rows.
      gamma: discount per step.
      n: steps, in 1..L-1.
    Returns:
      [L - n] returns. Where the episode reaches its time limit within n steps, the sum ends before the last row and
      bootstraps there; the return of the row just before it is its own `value`. Likewise at a row with a random
      action. The returns of last rows have no meaning.
    """
    chex.assert_rank([reward, discount, last, from_search, value], 1)
    chex.assert_equal_shape([reward, discount, last, from_search, value])
    rows = reward.shape[0] - n
    total, weight, running = jnp.zeros(rows, jnp.float32), jnp.ones(rows, jnp.float32), jnp.ones(rows, bool)
    for i in range(1, n + 1):
        at, to = slice(i - 1, rows + i - 1), slice(i, rows + i)
        cut = running & (~from_search[at] | (last[to] & (discount[to] != 0.0)))
        total = total + jnp.where(cut, weight * value[at], 0.0)
        running = running & ~cut
        total = total + jnp.where(running, weight * reward[to], 0.0)
        running = running & ~last[to]  # a terminal row: the return is complete
        weight = weight * gamma * discount[to]
    return total + jnp.where(running, weight * value[n:], 0.0)


def make_targets(
    key: Key, steps: Step, searched: SearchTargets, *, gamma: Array | float, n: int, unroll: int
) -> Targets:
    """Targets of one window whose first row starts an unroll.

    Args:
      key: for the actions past the end of an episode, drawn uniformly.
      steps: [L, ...] rows, L = K + n + 1.
      searched: [L, ...] searches at these rows, as stored or searched anew.
      gamma: discount per step.
      n: steps of the returns.
      unroll: K, at least 1.
    Returns:
      The targets. A window that starts at the last row of an episode has all masks 0.
    """
    last, discount = steps.last, steps.discount
    rows = unroll + 1
    value = n_step_returns(steps.reward, discount, last, searched.from_search, searched.value, gamma=gamma, n=n)[:rows]
    ends = jnp.cumsum(last[:rows])
    past = ends - last[:rows] > 0  # the row belongs to a later episode
    terminal = discount[jnp.argmax(last[:rows])] == 0.0  # whether the first end, if any, was a termination
    known = (~past | terminal) & ~last[0]
    inside = ~past & known
    acting = inside & ~last[:rows]
    searched_there = acting & was_searched(searched.policy[:rows])
    random = jax.random.randint(key, (unroll,), 0, searched.policy.shape[-1], steps.action.dtype)
    as_float = lambda mask: mask.astype(jnp.float32)  # noqa: E731
    return Targets(
        action=jnp.where(acting[:-1], steps.action[:unroll], random),
        policy=searched.policy[:rows],
        value=jnp.where(acting, value, 0.0),
        reward=jnp.where(inside, steps.reward[:rows], 0.0)[1:],
        policy_mask=as_float(searched_there),
        value_mask=as_float(searched_there | (known & terminal & (ends > 0))),
        reward_mask=as_float(known)[1:],
        same_episode=as_float(inside)[1:],
    )


def was_searched(policy: Array) -> Array:
    """Whether there was a search, [...] bool, from the policies [..., A] of `SearchTargets`."""
    return jnp.sum(policy, -1) > 0.0


def scale_gradient(x: Array, scale: float) -> Array:
    """x, with its gradient multiplied by `scale`."""
    return scale * x + jax.lax.stop_gradient((1.0 - scale) * x)


def unroll_model(params: Params, obs: Obs, action: Action, *, nets: Networks) -> Unrolled:
    """The model along K recorded actions from one observation; the gradient is halved on entering every step.

    Args:
      params: the networks'.
      obs: the first observation.
      action: [K].
      nets: the networks.
    """
    start = nets.represent(params, obs)

    def one(latent: Array, action: Action) -> tuple[Array, tuple[Array, Array]]:
        after, reward = nets.advance(params, scale_gradient(latent, 0.5), action)
        return after, (after, reward)

    _, (later, reward) = jax.lax.scan(one, start, action)
    latent = jnp.concatenate([start[None], later])
    policy, value = jax.vmap(nets.predict, (None, 0))(params, latent)
    return Unrolled(latent, policy, value, reward)


def unroll_terms(unrolled: Unrolled, targets: Targets, *, bins: Array) -> dict[str, Array]:
    """The cross-entropies of one unroll, before the value's weight c.

    Args:
      unrolled: predictions along K steps.
      targets: for the same steps.
      bins: [2n + 1] classes of transformed rewards and values.
    Returns:
      "policy", "value" and "reward", each Σ_k w_k H_k [] in nats.
    """
    steps = targets.reward.shape[0]
    weights = jnp.full(steps + 1, 1.0 / steps, jnp.float32).at[0].set(1.0)
    of_policy = -jnp.sum(targets.policy * jax.nn.log_softmax(unrolled.policy), axis=-1)
    of_number = jax.vmap(partial(two_hot_cross_entropy, bins=bins, transform=signed_hyperbolic))
    return {
        "policy": jnp.sum(weights * targets.policy_mask * of_policy),
        "value": jnp.sum(weights * targets.value_mask * of_number(unrolled.value, targets.value)),
        "reward": jnp.sum(weights[1:] * targets.reward_mask * of_number(unrolled.reward, targets.reward)),
    }


def consistency_loss(
    params: Params, latent: Array, obs: Obs, same_episode: Array, *, nets: Networks
) -> tuple[Array, Metrics]:
    """Predicted latents of one window should match those of what was then observed (Ye et al. 2021, section 4.1).

        L = - 1/K Σ_k m_k cos( q(p(s^k)), sg p(h(o_k)) )       projector p, predictor q

    Args:
      params: the networks'.
      latent: [K, ...] s^k after 1..K steps of the dynamics.
      obs: [K, ...] o_k observed then.
      same_episode: [K] m_k, 0 where o_k belongs to another episode.
      nets: with projections.
    Returns:
      loss [], in [-1, 1]; metrics "consistency_loss".
    Raises:
      ValueError: the networks have no projections.
    """
    if nets.project is None:
        raise ValueError("project must be above 0 for the consistency loss")
    project = nets.project

    def unit(x: Array) -> Array:
        return x / jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-8)

    def one(latent: Array, obs: Obs) -> Array:
        predicted = project(params, latent)[1]
        observed = jax.lax.stop_gradient(project(params, nets.represent(params, obs))[0])
        return -jnp.sum(unit(predicted) * unit(observed))

    loss = jnp.mean(same_episode * jax.vmap(one)(latent, obs))
    return loss, {"consistency_loss": loss}


def muzero_loss(
    params: Params,
    obs: Obs,
    targets: Targets,
    *,
    nets: Networks,
    weight: Array | float = 1.0,
    value_weight: Array | float = 0.25,
    consistency_weight: Array | float = 2.0,
) -> tuple[Array, Metrics]:
    """MuZero's loss of a batch of windows, with the consistency loss where the networks have projections.

        L = mean_b weight_b (L_policy + c L_value + L_reward + c' L_consistency)_b

    Args:
      params: the networks'.
      obs: [K + 1, B, ...] time-major, without masks of legal actions.
      targets: [B, ...] from `make_targets`.
      nets: the networks.
      weight: [B] importance weights.
      value_weight: c.
      consistency_weight: c'.
    Returns:
      loss []; metrics "policy_loss", "value_loss", "reward_loss" and perhaps "consistency_loss", weighted means over
      the batch without c and c'.
    """

    def one(params: Params, obs: Obs, targets: Targets) -> dict[str, Array]:
        first = jax.tree.map(lambda leaf: leaf[0], obs)
        unrolled = unroll_model(params, first, targets.action, nets=nets)
        terms = unroll_terms(unrolled, targets, bins=nets.bins)
        if nets.project is not None:
            later = jax.tree.map(lambda leaf: leaf[1:], obs)
            terms["consistency"], _ = consistency_loss(
                params, unrolled.latent[1:], later, targets.same_episode, nets=nets
            )
        return terms

    terms = vmap_shares(one, params, (obs, targets), (1, 0))
    means = {name: jnp.mean(weight * term) for name, term in terms.items()}
    weights = {"value": value_weight, "consistency": consistency_weight}
    loss = sum((weights.get(name, 1.0) * mean for name, mean in means.items()), jnp.zeros((), jnp.float32))
    return loss, {f"{name}_loss": mean for name, mean in means.items()}
