"""Dyna-Q, and Dyna-Q+: Q-learning that also backs up transitions from a tabular model.

Sutton 1990; Sutton & Barto 2018, sections 8.2 and 8.3. After each real step: its Q-learning backup, an update of the
table, and then n times

    (s, a) uniformly from the pairs that may be planned,   (r, d, s') from the table
    Q(s, a) <- Q(s, a) + α [ r + κ √τ(s, a) + γ d max_a' Q(s', a') - Q(s, a) ]

with τ the real steps since (s, a) was last tried. Dyna-Q has κ = 0 and plans the pairs it has tried; Dyna-Q+ has κ > 0
and plans every action of the states it has visited; an action never tried leads back to the same state with reward 0.

The table predicts in one of three forms: "last", the last outcome, which is exact in a deterministic environment and
the quickest to follow a change; "sample", an outcome drawn by its counts; "expected", the expectation over the counts.

Differs from the book in: pairs are drawn uniformly, not states and then actions; the table also keeps counts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.learned_model import LearnedModel, state_model
from mbrl_jax.agents.q_learning import (
    QLearningConfig,
    initial_q,
    latest_transition,
    q_backup,
    select_action,
    step_size,
)
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Tree
from mbrl_jax.envs.spaces import num_states
from mbrl_jax.models import tabular
from mbrl_jax.models.tabular import Table

FORMS = ("last", "sample", "expected")
"""What the table predicts for a planned pair."""


@config
class DynaQConfig:
    """Settings of Dyna-Q; with `bonus` and `untried`, of Dyna-Q+."""

    policy: QLearningConfig = QLearningConfig()
    planning: int = setting(default=10, low=0, help="planned backups n per real step")
    form: str = setting(default="sample", choices=FORMS, help="outcome that the table predicts")
    bonus: float = setting(default=0.0, low=0, help="bonus κ per square root of the real steps since the last try")
    untried: bool = setting(default=False, help="planning of actions never tried in visited states")


def dyna_q_plus() -> DynaQConfig:
    """Settings of Dyna-Q+: Dyna-Q with a bonus for pairs not tried recently, those never tried included."""
    return DynaQConfig(bonus=1e-3, untried=True)


class Learner(NamedTuple):
    """What Dyna-Q has learned so far."""

    q: Array  # [S, A]
    table: Table
    visits: Array  # [S, A] int32
    pairs: Array  # [S A] int32: pairs that may be planned, s A + a, in the order they were added
    found: Array  # [] int32: number of those pairs
    time: Array  # [] int32 real steps


def make(cfg: DynaQConfig, spec: Spec) -> Agent:
    """Dyna-Q for one environment; its buffer is `latest`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations and actions must be discrete.
    Raises:
      ValueError: a setting out of range, or spaces that are not discrete.
    """
    check(cfg)
    states, actions = num_states(spec), spec.num_actions
    policy = cfg.policy

    def init(key: Key) -> Learner:
        del key
        zero, pairs = jnp.zeros((), jnp.int32), jnp.zeros(states * actions, jnp.int32)
        visits = jnp.zeros((states, actions), jnp.int32)
        q = initial_q(spec, value=policy.first_value)
        return Learner(q, tabular.init(states, actions), visits, pairs, zero, zero)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return select_action(key, learner.q[obs], epsilon=policy.epsilon, explore=explore), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_transition, key_pairs, key_outcomes = jax.random.split(key, 3)
        transition = latest_transition(key_transition, replay)
        state, action = transition.obs, transition.action
        old = learner.visits[state]
        pairs, found = add_pairs(learner.pairs, learner.found, old, state, action, untried=cfg.untried)
        visits = learner.visits.at[state, action].add(1)
        rates = {"lr": policy.lr, "decay": policy.decay, "gamma": policy.gamma}
        q, error = q_backup(learner.q, visits, transition, **rates)
        table = tabular.update(learner.table, transition, learner.time)
        drawn = sample_pairs(key_pairs, pairs, found, cfg.planning)
        q = plan(key_outcomes, q, table, visits, drawn, time=learner.time, form=cfg.form, bonus=cfg.bonus, **rates)
        metrics = {"td_error": jnp.abs(error), "backups": jnp.float32(1 + cfg.planning)}
        return Learner(q, table, visits, pairs, found, learner.time + 1), metrics, ()

    return Agent(init, lambda: (), act, update)


def add_pairs(
    pairs: Array, found: Array, visits: Array, state: Array, action: Array, *, untried: bool
) -> tuple[Array, Array]:
    """Adds a real step's pair to those that may be planned, where it is new.

    Args:
      pairs: [S A] int32 pairs s A + a, the first `found` of them in use.
      found: [] int32.
      visits: [A] int32 of the state's actions, this step not counted.
      state, action: [] integers.
      untried: static; True adds all actions of a new state at once (Dyna-Q+), False only the action taken.
    Returns:
      pairs [S A] and found [] with the new ones.
    """
    actions = visits.shape[0]
    if untried:
        new, added = jnp.sum(visits) == 0, state * actions + jnp.arange(actions)
    else:
        new, added = visits[action] == 0, (state * actions + action)[None]
    written = jax.lax.dynamic_update_slice(pairs, added.astype(jnp.int32), (found,))
    # Written in any case: entries from `found` on are not read. A full list has no such entry, so it stays as it is.
    full = found + added.size > pairs.shape[0]
    return jnp.where(full, pairs, written), found + jnp.where(new, added.size, 0)


def sample_pairs(key: Key, pairs: Array, found: Array, n: int) -> Array:
    """Draws pairs to plan, uniformly and with replacement.

    Args:
      key: used once.
      pairs: [S A] int32 pairs s A + a, the first `found` of them in use.
      found: [] int32, at least 1.
      n: how many to draw, at least 0.
    Returns:
      [n] int32.
    """
    drawn = jax.random.uniform(key, (n,), jnp.float32) * found
    return pairs[jnp.minimum(drawn.astype(jnp.int32), found - 1)]


def plan(
    key: Key,
    q: Array,
    table: Table,
    visits: Array,
    pairs: Array,
    *,
    time: Array,
    form: str,
    bonus: Array | float,
    lr: Array | float,
    decay: Array | float,
    gamma: Array | float,
) -> Array:
    """Planned backups, one after the other (Sutton & Barto 2018, section 8.2; the bonus: section 8.3).

        Q(s, a) <- Q(s, a) + α N(s, a)^-ω [ r + κ √τ(s, a) + γ d max_a' Q(s', a') - Q(s, a) ]

    Args:
      key: used once; draws the outcomes of the form "sample".
      q: [S, A] action values.
      table: the model that predicts r, d and s'.
      visits: [S, A] int32 real visits.
      pairs: [n] int32 pairs s A + a to back up, in this order.
      time: [] int32 of the latest real step, as given to `tabular.update`; τ = time - last_tried.
      form: static, one of `FORMS`: what the table predicts.
      bonus: κ, at least 0.
      lr: α in (0, 1].
      decay: ω in [0, 1].
      gamma: γ in [0, 1], per step.
    Returns:
      q [S, A] after n backups.
    """
    states, actions = q.shape
    outcome = {"last": _last, "sample": _sample, "expected": _expected}[form]
    next_value = _expected_value if form == "expected" else _value
    # All that does not depend on q is read before the scan, for all n at once.
    at = pairs // actions, pairs % actions
    keys = jax.random.split(key, pairs.shape[0])
    rewards, *successors = jax.vmap(outcome, (None, 0, 0, 0))(table, keys, *at)
    waited = (time - table.last_tried[at]).astype(jnp.float32)
    rewards = rewards + bonus * jnp.sqrt(waited)
    sizes = step_size(visits[at], lr=lr, decay=decay)

    def backup(flat: Array, at: tuple) -> tuple[Array, None]:
        pair, reward, successor, size = at
        target = reward + gamma * next_value(flat.reshape(states, actions), *successor)
        # One flat index: writing an entry of a table costs twice as much with two.
        return flat.at[pair].add(size * (target - flat[pair])), None

    flat, _ = jax.lax.scan(backup, q.reshape(-1), (pairs, rewards, successors, sizes))
    return flat.reshape(states, actions)


# What the table predicts for (s, a): the reward [], then the arguments from which `next_value` computes
# d max Q(s', ·).


def _last(table: Table, key: Key, state: Array, action: Array) -> tuple[Array, Array, Array]:
    del key
    out = tabular.last(table, state, action)
    return out.reward, out.discount, out.state


def _sample(table: Table, key: Key, state: Array, action: Array) -> tuple[Array, Array, Array]:
    out = tabular.sample(table, key, state, action)
    return out.reward, out.discount, out.state


def _expected(table: Table, key: Key, state: Array, action: Array) -> tuple[Array, Array]:
    del key
    return tabular.expected(table, state, action)


def _value(q: Array, discount: Array, next_state: Array) -> Array:
    return discount * jnp.max(q[next_state])


def _expected_value(q: Array, weights: Array) -> Array:
    return weights @ jnp.max(q, axis=1)


def learned_model(cfg: DynaQConfig, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model: successors are drawn by their counts.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    del cfg, spec
    return state_model(tabular.model(learner.table, "sample"))
