"""Dyna-Q, and Dyna-Q+: Q-learning that also learns from what a table remembers of the world.

Sutton 1990; Sutton & Barto 2018, sections 8.2 and 8.3. After each real step its Q-learning backup, the table's update,
and then n times

    (s, a) uniformly from the pairs that may be planned,   (r, d, s') from the table
    Q(s, a) <- Q(s, a) + α [ r + κ √τ(s, a) + γ d max_a' Q(s', a') - Q(s, a) ]

with τ the real steps since (s, a) was last tried. Dyna-Q has κ = 0 and plans the pairs it has tried; Dyna-Q+ has κ > 0
and plans every action of the states it has been in, taking one never tried to lead back to the same state, reward 0.

The table answers in one of three forms: "last", the last outcome, all there is to know of a deterministic world and
the quickest to follow a change; "sample", an outcome drawn by its counts; "expected", the expectation over them.

Differs from the book in: pairs are drawn uniformly, not states and then actions; counts beside the last outcome.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.q_learning import QLearningConfig, backup, choose, first_values, newest, sizes, step_size
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Tree
from mbrl_jax.models import tabular
from mbrl_jax.models.tabular import Table


@config
class DynaQConfig:
    """Settings of Dyna-Q; with `bonus` and `untried`, of Dyna-Q+."""

    policy: QLearningConfig = QLearningConfig()
    planning: int = setting(default=10, low=0, help="n, planned backups per real step")
    form: str = setting(default="sample", choices=("last", "sample", "expected"), help="how the table answers")
    bonus: float = setting(default=0.0, low=0, help="κ, reward per root of the real steps since an action was tried")
    untried: bool = setting(default=False, help="plan also what was never tried in the states visited")


def dyna_q_plus() -> DynaQConfig:
    """Settings of Dyna-Q+: Dyna-Q with a bonus for pairs not tried for long, those never tried included."""
    return DynaQConfig(bonus=1e-3, untried=True)


class Learner(NamedTuple):
    """What Dyna-Q has learned so far."""

    q: Array  # [S, A]
    table: Table
    visits: Array  # [S, A] int32
    pairs: Array  # [S A] int32: what may be planned, s A + a, in the order found
    found: Array  # [] int32: how many of them
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
    states, actions = sizes(spec)
    outcome = {"last": _last, "sample": _sample, "expected": _expected}[cfg.form]
    ahead = _mean_ahead if cfg.form == "expected" else _one_ahead

    def init(key: Key) -> Learner:
        del key
        zero, pairs = jnp.zeros((), jnp.int32), jnp.zeros(states * actions, jnp.int32)
        visits = jnp.zeros((states, actions), jnp.int32)
        return Learner(first_values(cfg.policy, spec), tabular.init(states, actions), visits, pairs, zero, zero)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return choose(cfg.policy, key, learner.q, obs, explore), carry, ()

    def remember(learner: Learner, state: Array, action: Array) -> Learner:
        """The pairs that may be planned, one more where this one, or this state, is new."""
        here = learner.visits[state]
        if cfg.untried:
            new, added = jnp.sum(here) == 0, state * actions + jnp.arange(actions)
        else:
            new, added = here[action] == 0, (state * actions + action)[None]
        written = jax.lax.dynamic_update_slice(learner.pairs, added.astype(jnp.int32), (learner.found,))
        # Written in any case: what lies behind the last pair is not read, and the last of all is never overwritten.
        full = learner.found + added.size > states * actions
        return learner._replace(
            pairs=jnp.where(full, learner.pairs, written),
            found=learner.found + jnp.where(new, added.size, 0),
            visits=learner.visits.at[state, action].add(1),
        )

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        key_row, key_pairs, key_outcomes = jax.random.split(key, 3)
        row = newest(key_row, replay)
        learner = remember(learner, row.obs, row.action)
        q, error = backup(cfg.policy, learner.q, learner.visits, row)
        table = tabular.update(learner.table, row, learner.time)
        learner = learner._replace(table=table, time=learner.time + 1)

        # All that does not depend on q is read before the scan, for all n at once.
        drawn = jax.random.uniform(key_pairs, (cfg.planning,)) * learner.found
        pairs = learner.pairs[jnp.minimum(drawn.astype(jnp.int32), learner.found - 1)]
        at = pairs // actions, pairs % actions
        reward, *follows = jax.vmap(outcome, (None, 0, 0, 0))(table, jax.random.split(key_outcomes, cfg.planning), *at)
        waited = (learner.time - 1 - table.last_tried[at]).astype(jnp.float32)
        reward = reward + cfg.bonus * jnp.sqrt(waited)
        size = step_size(cfg.policy, learner.visits[at])

        def one(flat: Array, at: tuple) -> tuple[Array, None]:
            pair, reward, follows, size = at
            target = reward + cfg.policy.gamma * ahead(flat.reshape(states, actions), *follows)
            # One flat index: writing an entry of a table costs twice as much with two.
            return flat.at[pair].add(size * (target - flat[pair])), None

        flat, _ = jax.lax.scan(one, q.reshape(-1), (pairs, reward, follows, size))
        metrics = {"td_error": jnp.abs(error), "backups": jnp.float32(1 + cfg.planning)}
        return learner._replace(q=flat.reshape(states, actions)), metrics, ()

    return Agent(init, lambda: (), act, update)


# What the table says of (s, a): the reward [], then what `ahead` makes d max Q(s', ·) of.


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


def _one_ahead(q: Array, discount: Array, after: Array) -> Array:
    return discount * jnp.max(q[after])


def _mean_ahead(q: Array, weights: Array) -> Array:
    return weights @ jnp.max(q, axis=1)
