"""A tabular model of numbered states: counts and means (Sutton & Barto 2018, section 8.2; Moore & Atkeson 1993).

    p(s' | s, a) = N(s, a, s') / N(s, a),   r(s, a, s') and d(s, a, s'): means over the N(s, a, s') visits

A pair never tried leads back to the same state, with reward 0 and discount 1. Counts never forget: when the
environment changes, the last outcome follows at once and the counts only slowly.

Three tables of [S, A, S] take 12 S² A bytes, for each seed under `vmap`: 140 kB for the Dyna maze (54 states, 4
actions), 36 MB for the same maze grown by 4, 573 MB grown by 8.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Key, Model, StepOut, Transition
from mbrl_jax.envs.mdp import MDP

FORMS = ("sample", "expectation", "last")


class Table(NamedTuple):
    """The counts and means of all real steps so far."""

    counts: Array  # [S, A, S] int32
    rewards: Array  # [S, A, S] mean reward
    discounts: Array  # [S, A, S] mean discount: the share of visits that did not end the episode
    last_tried: Array  # [S, A] int32 time of the last visit, -1 for never
    last_state: Array  # [S, A] int32 successor at the last visit
    last_reward: Array  # [S, A]
    last_discount: Array  # [S, A]


def init(states: int, actions: int) -> Table:
    """An empty table.

    Args:
      states: S, at least 1.
      actions: A, at least 1.
    Raises:
      ValueError: a number below 1.
    """
    for name, value in (("states", states), ("actions", actions)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    pairs, triples = (states, actions), (states, actions, states)
    return Table(
        counts=jnp.zeros(triples, jnp.int32),
        rewards=jnp.zeros(triples, jnp.float32),
        discounts=jnp.ones(triples, jnp.float32),
        last_tried=jnp.full(pairs, -1, jnp.int32),
        last_state=jnp.tile(jnp.arange(states, dtype=jnp.int32)[:, None], (1, actions)),
        last_reward=jnp.zeros(pairs, jnp.float32),
        last_discount=jnp.ones(pairs, jnp.float32),
    )


def update(params: Table, transition: Transition, time: Array | int) -> Table:
    """Adds one real step.

    Args:
      params: the table before.
      transition: one step, its observations and action [] integers.
      time: [] int32 number of real steps before this one.
    Returns:
      the table with the step in its counts, means and last outcomes.
    """
    s, a, t = transition.obs, transition.action, transition.next_obs
    reward, discount = transition.reward, transition.discount
    counts = params.counts.at[s, a, t].add(1)
    share = 1.0 / counts[s, a, t]
    return Table(
        counts=counts,
        rewards=params.rewards.at[s, a, t].add(share * (reward - params.rewards[s, a, t])),
        discounts=params.discounts.at[s, a, t].add(share * (discount - params.discounts[s, a, t])),
        last_tried=params.last_tried.at[s, a].set(time),
        last_state=params.last_state.at[s, a].set(t),
        last_reward=params.last_reward.at[s, a].set(reward),
        last_discount=params.last_discount.at[s, a].set(discount),
    )


def tried(params: Table) -> Array:
    """The pairs that were ever tried, [S, A] bool.

    Args:
      params: the table.
    """
    return params.last_tried >= 0


def sample(params: Table, key: Key, state: Array, action: Array) -> StepOut:
    """A successor drawn in proportion to its counts, with the mean reward and discount of that successor.

    Args:
      params: the table.
      key: used once.
      state, action: [] integers.
    Returns:
      StepOut with the state [] int32; the discount is the probability that the episode continues.
    """
    ahead = jnp.cumsum(params.counts[state, action])
    # One integer below N(s, a), located among the cumulative counts: exact, and one draw instead of S.
    drawn = jax.random.randint(key, (), 0, jnp.maximum(ahead[-1], 1))
    successor = jnp.where(ahead[-1] > 0, jnp.argmax(ahead > drawn), state).astype(jnp.int32)
    at = state, action, successor
    return StepOut(successor, params.rewards[at], params.discounts[at])


def last(params: Table, state: Array, action: Array) -> StepOut:
    """The outcome of the last visit, which is exact in a deterministic environment.

    Args:
      params: the table.
      state, action: [] integers.
    Returns:
      StepOut with the state [] int32.
    """
    at = state, action
    return StepOut(params.last_state[at], params.last_reward[at], params.last_discount[at])


def expected(params: Table, state: Array, action: Array) -> tuple[Array, Array]:
    """The terms of an expected backup, Q(s, a) <- r + γ Σ_s' w(s') V(s').

        r = Σ_s' p(s' | s, a) r(s, a, s'),   w(s') = p(s' | s, a) d(s, a, s')

    Args:
      params: the table.
      state, action: [] integers.
    Returns:
      r []; w [S], which sums to the probability that the episode continues.
    """
    counts = params.counts[state, action]
    total = jnp.sum(counts)
    itself = jnp.arange(counts.shape[0]) == state
    probabilities = jnp.where(total > 0, counts / jnp.maximum(total, 1), itself)
    return jnp.sum(probabilities * params.rewards[state, action]), probabilities * params.discounts[state, action]


def model(params: Table, form: str) -> Model:
    """The table as a model for planners.

    Args:
      params: the table.
      form: "sample": successors drawn by their counts; "last": the outcome of the last visit; "expectation": a state is
        a distribution over states [S] (initially a one-hot vector), the reward and the discount are expectations under
        it, and the next state is the distribution given that the episode continues, so that the return of an action
        sequence is its exact expectation.
    Raises:
      ValueError: an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if form == "sample":
        return Model(lambda key, state, action: sample(params, key, state, action))
    if form == "last":
        return Model(lambda key, state, action: last(params, state, action))

    def step(key: Key, state: Array, action: Array) -> StepOut:
        del key
        everywhere = jnp.arange(state.shape[0])
        rewards, onward = jax.vmap(lambda s: expected(params, s, action))(everywhere)
        reached = state @ onward
        discount = jnp.sum(reached)
        given = jnp.where(discount > 0.0, reached / jnp.where(discount > 0.0, discount, 1.0), state)
        return StepOut(given, jnp.sum(state * rewards), discount)

    return Model(step)


def tables(params: Table) -> MDP:
    """The means as a decision process, for exact planning.

    Whether a step terminates may depend on the state before, so all terminations lead to one additional state, S, the
    only terminal one; the values [:S] are those of the environment's states.

    Args:
      params: the table.
    Returns:
      MDP of S + 1 states, with rewards [S + 1, A]; `start` is uniform over the first S.
    """
    states, actions, _ = params.counts.shape
    one = jax.vmap(jax.vmap(lambda s, a: expected(params, s, a), (None, 0)), (0, None))
    rewards, onward = one(jnp.arange(states), jnp.arange(actions))
    ending = jnp.maximum(1.0 - jnp.sum(onward, -1, keepdims=True), 0.0)
    sink = jnp.broadcast_to(jnp.arange(states + 1) == states, (1, actions, states + 1)).astype(onward.dtype)
    return MDP(
        transitions=jnp.concatenate([jnp.concatenate([onward, ending], -1), sink]),
        rewards=jnp.concatenate([rewards, jnp.zeros((1, actions), jnp.float32)]),
        terminal=jnp.arange(states + 1) == states,
        start=jnp.where(jnp.arange(states + 1) < states, 1.0 / states, 0.0),
    )
