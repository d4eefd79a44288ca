"""Prioritized sweeping: the planned backups go where the values are most wrong.

Moore & Atkeson 1993; Sutton & Barto 2018, section 8.4, with expected backups from counts. With N visits of (s, a), its
mean reward r and w(s') = (visits that led to s' and went on) / N,

    T(s, a) = r(s, a) + γ Σ_s' w(s') max_a' Q(s', a')                expected target
    a pair's priority is |T - Q|, 0 below θ

and after each real step, whose pair gets its priority, n times: the pair of the largest priority is backed up,
Q <- Q + α (T - Q), and it and every pair that has led to its state get their priorities anew.

The targets are kept, not computed: where max Q(s', ·) moves by Δ, those that lead to s' move by γ w(s') Δ, one row of a
table ordered by the state reached. Priorities are a dense array, and the largest is found by looking at all: that is a
few microseconds for ten thousand pairs. The table takes 4 S² A bytes for each of the seeds side by side: 47 kB for the
Dyna maze, 191 MB for the same grown by 8.

Differs from the book in: expected backups instead of the last outcome, the same in a deterministic world; a pair that
is in the queue already has its priority replaced by its present error; so has the one backed up, which with α < 1 would
else keep (1 - α) of its error for good.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.q_learning import QLearningConfig, choose, first_values, newest, sizes, step_size
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Transition, Tree


@config
class SweepingConfig:
    """Settings of prioritized sweeping."""

    policy: QLearningConfig = QLearningConfig()
    planning: int = setting(default=10, low=1, help="n, backups per real step at most")
    theta: float = setting(default=1e-4, low=0, help="θ, errors up to this are left alone")


class Learner(NamedTuple):
    """What prioritized sweeping has learned so far."""

    q: Array  # [S, A]
    visits: Array  # [S, A] int32
    rewards: Array  # [S, A] mean
    onward: Array  # [S', S A] visits of (s, a) that led to s' and went on
    targets: Array  # [S A] T
    priorities: Array  # [S A]


def make(cfg: SweepingConfig, spec: Spec) -> Agent:
    """Prioritized sweeping for one environment; its buffer is `latest`.

    Args:
      cfg: settings; floats may be traced.
      spec: observations and actions must be discrete.
    Raises:
      ValueError: a setting out of range, or spaces that are not discrete.
    """
    check(cfg)
    states, actions = sizes(spec)

    def init(key: Key) -> Learner:
        del key
        table, row = jnp.zeros((states, actions)), jnp.zeros(states * actions)
        onward = jnp.zeros((states, states * actions))
        return Learner(first_values(cfg.policy, spec), table.astype(jnp.int32), table, onward, row, row)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return choose(cfg.policy, key, learner.q, obs, explore), carry, ()

    def urgency(error: Array) -> Array:
        size = jnp.abs(error)
        return jnp.where(size > cfg.theta, size, 0.0)

    def observe(learner: Learner, row: Transition) -> tuple[Learner, Array]:
        """The tables after one real step, whose pair is in the queue; and its error []."""
        at = row.obs, row.action
        pair = row.obs * actions + row.action
        visits = learner.visits.at[at].add(1)
        count = visits[at].astype(jnp.float32)
        rewards = learner.rewards.at[at].add((row.reward - learner.rewards[at]) / count)
        onward = learner.onward.at[row.next_obs, pair].add(row.discount)
        value = onward[:, pair] @ jnp.max(learner.q, axis=1) / count
        target = rewards[at] + cfg.policy.gamma * value
        error = target - learner.q[at]
        targets, priorities = learner.targets.at[pair].set(target), learner.priorities.at[pair].set(urgency(error))
        return Learner(learner.q, visits, rewards, onward, targets, priorities), error

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        learner, error = observe(learner, newest(key, replay))
        visits = learner.visits.reshape(-1)
        per_visit = 1.0 / jnp.maximum(visits, 1)

        def waiting(at: tuple[Array, Array, Array, Array]) -> Array:
            done, _, _, priorities = at
            return (done < cfg.planning) & jnp.any(priorities > 0)

        def one(at: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            done, q, targets, priorities = at
            pair = jnp.argmax(priorities)
            state = pair // actions
            before = jnp.max(q[state])
            moved = step_size(cfg.policy, visits[pair]) * (targets[pair] - q.reshape(-1)[pair])
            q = q.reshape(-1).at[pair].add(moved).reshape(states, actions)
            share = learner.onward[state] * per_visit
            targets = targets + cfg.policy.gamma * share * (jnp.max(q[state]) - before)
            changed = (share > 0) | (jnp.arange(share.size) == pair)
            return done + 1, q, targets, jnp.where(changed, urgency(targets - q.reshape(-1)), priorities)

        # The queue is empty most of the time: a loop that looks, where a scan would go on.
        start = jnp.int32(0), learner.q, learner.targets, learner.priorities
        done, q, targets, priorities = jax.lax.while_loop(waiting, one, start)
        metrics = {
            "td_error": jnp.abs(error),
            "backups": done.astype(jnp.float32),
            "queue": jnp.mean((priorities > 0).astype(jnp.float32)),
        }
        return learner._replace(q=q, targets=targets, priorities=priorities), metrics, ()

    return Agent(init, lambda: (), act, update)
