"""Prioritized sweeping: planned backups go where the values are most wrong.

Moore & Atkeson 1993; Sutton & Barto 2018, section 8.4, with expected backups from counts. With N visits of (s, a), its
mean reward r and w(s') = (visits that led to s' without ending the episode) / N,

    T(s, a) = r(s, a) + γ Σ_s' w(s') max_a' Q(s', a')                expected target
    priority(s, a) = |T - Q|, or 0 where that is at most θ

Each real step updates the target and the priority of its pair. Then, up to n times, the pair with the largest priority
is backed up, Q <- Q + α (T - Q), and the priorities of that pair and of every pair that has led to its state are
recomputed.

The targets are kept, not recomputed: where max Q(s', ·) changes by Δ, the targets of the pairs that lead to s' change
by γ w(s') Δ, one row of a table ordered by successor. Priorities are a dense array and the largest is found by a scan
of all of them: a few microseconds for ten thousand pairs. The table takes 4 S² A bytes for each seed under `vmap`:
47 kB for the Dyna maze, 191 MB for the same maze grown by 8.

Differs from the book in: expected backups instead of the last outcome, the same in a deterministic environment; a pair
that is already in the queue gets its current error as priority, not the larger of the two; so does the pair just backed
up, which with α < 1 would otherwise keep (1 - α) of its error forever.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mbrl_jax.agents.learned_model import LearnedModel, state_model
from mbrl_jax.agents.q_learning import QLearningConfig, initial_q, latest_transition, select_action, step_size
from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Model, Obs, Replay, Spec, StepOut, Transition, Tree
from mbrl_jax.envs.spaces import num_states


@config
class SweepingConfig:
    """Settings of prioritized sweeping."""

    policy: QLearningConfig = QLearningConfig()
    planning: int = setting(default=10, low=1, help="maximum number n of backups per real step")
    theta: float = setting(default=1e-4, low=0, help="error threshold θ up to which a pair is not queued")


class Learner(NamedTuple):
    """What prioritized sweeping has learned so far."""

    q: Array  # [S, A]
    visits: Array  # [S, A] int32
    rewards: Array  # [S, A] mean
    onward: Array  # [S', S A] visits of (s, a) that led to s' without ending the episode
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
    states, actions = num_states(spec), spec.num_actions
    policy = cfg.policy

    def init(key: Key) -> Learner:
        del key
        table, row = jnp.zeros((states, actions), jnp.float32), jnp.zeros(states * actions, jnp.float32)
        onward = jnp.zeros((states, states * actions), jnp.float32)
        q = initial_q(spec, value=policy.first_value)
        return Learner(q, table.astype(jnp.int32), table, onward, row, row)

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return select_action(key, learner.q[obs], epsilon=policy.epsilon, explore=explore), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        transition = latest_transition(key, replay)
        learner, error = observe_transition(learner, transition, gamma=policy.gamma, theta=cfg.theta)
        learner, backups = sweep(
            learner,
            planning=cfg.planning,
            lr=policy.lr,
            decay=policy.decay,
            gamma=policy.gamma,
            theta=cfg.theta,
        )
        metrics = {
            "td_error": jnp.abs(error),
            "backups": backups.astype(jnp.float32),
            "queue": jnp.mean((learner.priorities > 0).astype(jnp.float32)),
        }
        return learner, metrics, ()

    return Agent(init, lambda: (), act, update)


def observe_transition(
    learner: Learner, transition: Transition, *, gamma: Array | float, theta: Array | float
) -> tuple[Learner, Array]:
    """Updates the model, the target and the priority of one real step's pair.

    Args:
      learner: S states, A actions.
      transition: one real step, its observations and action [] integers.
      gamma: γ in [0, 1], per step.
      theta: θ, at least 0.
    Returns:
      the learner, its action values unchanged; the pair's error T - Q [].
    """
    at = transition.obs, transition.action
    pair = transition.obs * learner.q.shape[1] + transition.action
    visits = learner.visits.at[at].add(1)
    count = visits[at].astype(jnp.float32)
    rewards = learner.rewards.at[at].add((transition.reward - learner.rewards[at]) / count)
    onward = learner.onward.at[transition.next_obs, pair].add(transition.discount)
    value = onward[:, pair] @ jnp.max(learner.q, axis=1) / count
    target = rewards[at] + gamma * value
    error = target - learner.q[at]
    targets, priorities = learner.targets.at[pair].set(target), learner.priorities.at[pair].set(priority(error, theta))
    return Learner(learner.q, visits, rewards, onward, targets, priorities), error


def priority(error: Array, theta: Array | float) -> Array:
    """The priority of a pair: |T - Q|, or 0 where that is at most θ.

    Args:
      error: [...] T - Q.
      theta: θ, at least 0.
    Returns:
      [...] at least 0.
    """
    size = jnp.abs(error)
    return jnp.where(size > theta, size, 0.0)


def sweep(
    learner: Learner,
    *,
    planning: int,
    lr: Array | float,
    decay: Array | float,
    gamma: Array | float,
    theta: Array | float,
) -> tuple[Learner, Array]:
    """Backs up the pairs of largest priority, up to n of them (Sutton & Barto 2018, section 8.4, the inner loop).

        Q(s, a) <- Q(s, a) + α N(s, a)^-ω (T(s, a) - Q(s, a))

    Args:
      learner: S states, A actions.
      planning: n, the maximum number of backups, at least 0; fewer where the queue runs empty.
      lr: α in (0, 1].
      decay: ω in [0, 1].
      gamma: γ in [0, 1], per step.
      theta: θ, at least 0.
    Returns:
      the learner with new action values, targets and priorities; the number of backups [] int32.
    """
    states, actions = learner.q.shape
    visits = learner.visits.reshape(-1)
    per_visit = 1.0 / jnp.maximum(visits, 1)

    def not_done(at: tuple[Array, Array, Array, Array]) -> Array:
        done, _, _, priorities = at
        return (done < planning) & jnp.any(priorities > 0)

    def backup(at: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        done, q, targets, priorities = at
        pair = jnp.argmax(priorities)
        state = pair // actions
        before = jnp.max(q[state])
        change = step_size(visits[pair], lr=lr, decay=decay) * (targets[pair] - q.reshape(-1)[pair])
        q = q.reshape(-1).at[pair].add(change).reshape(states, actions)
        weights = learner.onward[state] * per_visit  # [S A] w(state) of every pair
        targets = targets + gamma * weights * (jnp.max(q[state]) - before)
        changed = (weights > 0) | (jnp.arange(weights.size) == pair)
        return done + 1, q, targets, jnp.where(changed, priority(targets - q.reshape(-1), theta), priorities)

    # The queue is mostly empty: a while loop stops then, a scan would run all n iterations.
    start = jnp.int32(0), learner.q, learner.targets, learner.priorities
    done, q, targets, priorities = jax.lax.while_loop(not_done, backup, start)
    return learner._replace(q=q, targets=targets, priorities=priorities), done


def learned_model(cfg: SweepingConfig, spec: Spec, learner: Learner) -> LearnedModel:
    """What was learned, as a planner's model: successors are drawn by their counts.

    Args:
      cfg: settings.
      spec: of the environment.
      learner: what was learned.
    """
    del cfg
    actions = spec.num_actions

    def step(key: Key, state: Array, action: Array) -> StepOut:
        visits = jnp.maximum(learner.visits[state, action], 1)
        onward = learner.onward[:, state * actions + action]
        total = jnp.sum(onward)
        drawn = jax.random.choice(key, onward.shape[0], p=jnp.where(total > 0, onward / jnp.maximum(total, 1e-9), 0.0))
        successor = jnp.where(total > 0, drawn, state).astype(jnp.int32)
        seen = learner.visits[state, action] > 0
        return StepOut(successor, learner.rewards[state, action], jnp.where(seen, total / visits, 1.0))

    return state_model(Model(step))
