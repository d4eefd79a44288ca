"""A model of a finite world by counting (Sutton & Barto 2018, section 8.2; Moore & Atkeson 1993).

    p(s' | s, a) = N(s, a, s') / N(s, a),   r(s, a, s') and d(s, a, s'): means over the N(s, a, s') visits

What was never tried is taken to lead back to the same state, with reward 0 and discount 1. Counts never forget: where
the world changes, the last outcome follows at once and the counts only in time.

Three tables of [S, A, S] make 12 S² A bytes, for each of the seeds side by side: 140 kB for the Dyna maze (54 states,
4 actions), 36 MB for the same grown by 4, 573 MB grown by 8.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.core import Array, Key, Model, StepOut, Transition
from mbrl_jax.envs.mdp import MDP

FORMS = ("sample", "expectation", "last")


class Table(NamedTuple):
    """What was seen of the world."""

    counts: Array  # [S, A, S] int32
    rewards: Array  # [S, A, S] mean reward
    discounts: Array  # [S, A, S] mean discount: the share of visits after which the episode went on
    last_tried: Array  # [S, A] int32 time of the last visit, -1 for never
    last_state: Array  # [S, A] int32 where the last visit led
    last_reward: Array  # [S, A]
    last_discount: Array  # [S, A]


def init(states: int, actions: int) -> Table:
    """Nothing seen yet.

    Raises:
      ValueError: a number below 1.
    """
    for name, value in (("states", states), ("actions", actions)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    pairs, triples = (states, actions), (states, actions, states)
    return Table(
        counts=jnp.zeros(triples, jnp.int32),
        rewards=jnp.zeros(triples),
        discounts=jnp.ones(triples),
        last_tried=jnp.full(pairs, -1, jnp.int32),
        last_state=jnp.tile(jnp.arange(states, dtype=jnp.int32)[:, None], (1, actions)),
        last_reward=jnp.zeros(pairs),
        last_discount=jnp.ones(pairs),
    )


def update(params: Table, transition: Transition, time: Array | int) -> Table:
    """Counts one real step.

    Args:
      params: what was seen before.
      transition: one step, its observations and action [] integers.
      time: [] int32 real steps so far, at least 0.
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
    """[S, A] bool: which actions were ever taken in which states."""
    return params.last_tried >= 0


def sample(params: Table, key: Key, state: Array, action: Array) -> StepOut:
    """A successor drawn by its counts, with the mean reward and discount of going there.

    Args:
      state, action: [] integers.
    Returns:
      StepOut with the state [] int32 and, as discount, the probability that the episode goes on.
    """
    ahead = jnp.cumsum(params.counts[state, action])
    # One number below N(s, a) and its place among the counts: exact in integers, where a categorical draw takes S.
    drawn = jax.random.randint(key, (), 0, jnp.maximum(ahead[-1], 1))
    successor = jnp.where(ahead[-1] > 0, jnp.argmax(ahead > drawn), state).astype(jnp.int32)
    at = state, action, successor
    return StepOut(successor, params.rewards[at], params.discounts[at])


def last(params: Table, state: Array, action: Array) -> StepOut:
    """The outcome of the last visit; all there is to know of a deterministic world.

    Args:
      state, action: [] integers.
    Returns:
      StepOut with the state [] int32.
    """
    at = state, action
    return StepOut(params.last_state[at], params.last_reward[at], params.last_discount[at])


def expected(params: Table, state: Array, action: Array) -> tuple[Array, Array]:
    """What an expected backup needs: Q(s, a) <- r + γ Σ_s' w(s') V(s').

        r = Σ_s' p(s' | s, a) r(s, a, s'),   w(s') = p(s' | s, a) d(s, a, s')

    Args:
      state, action: [] integers.
    Returns:
      r [] and w [S], which sums to the probability that the episode goes on.
    """
    counts = params.counts[state, action]
    total = jnp.sum(counts)
    itself = jnp.arange(counts.shape[0]) == state
    chances = jnp.where(total > 0, counts / jnp.maximum(total, 1), itself)
    return jnp.sum(chances * params.rewards[state, action]), chances * params.discounts[state, action]


def model(params: Table, form: str) -> Model:
    """The table as what a planner sees.

    Args:
      params: what was seen.
      form: "sample": successors drawn by their counts; "last": the outcome of the last visit; "expectation": a state is
        a distribution over states [S] (a `one_hot` of the first), the reward and the discount are expectations under
        it, and the next state is the distribution given that the episode goes on, so that the return of a sequence of
        actions is its exact expectation.
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
        following = state @ onward
        discount = jnp.sum(following)
        given = jnp.where(discount > 0.0, following / jnp.where(discount > 0.0, discount, 1.0), state)
        return StepOut(given, jnp.sum(state * rewards), discount)

    return Model(step)


def tables(params: Table) -> MDP:
    """The means as a decision process, for exact planning.

    Whether a step ends an episode may depend on where it came from, so all endings lead to one more state, S, the only
    terminal one: values [:S] are those of the world's states.

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
        rewards=jnp.concatenate([rewards, jnp.zeros((1, actions))]),
        terminal=jnp.arange(states + 1) == states,
        start=jnp.where(jnp.arange(states + 1) < states, 1.0 / states, 0.0),
    )
