"""Tabular Q-learning.

Watkins & Dayan 1992; Sutton & Barto 2018, section 6.5. After each real step, with N visits of (s, a) so far,

    Q(s, a) <- Q(s, a) + α N^-ω [ r + γ d max_a' Q(s', a') - Q(s, a) ]

Actions are ε-greedy, ties broken at random. With ω = 0 the step size is the book's constant; with ω in (1/2, 1] it
falls as convergence asks for in a stochastic world.

Differs from the sources in: nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Discrete, Key, Metrics, Obs, Replay, Spec, Transition, Tree
from mbrl_jax.ops.losses import td_target
from mbrl_jax.ops.policies import epsilon_greedy, greedy


@config
class QLearningConfig:
    """Settings of tabular Q-learning, and of the agents that plan with its backups."""

    lr: float = setting(default=0.1, above=0, high=1, help="step size α of a backup")
    decay: float = setting(default=0.0, low=0, high=1, help="ω, the step size falls with the visits as N^-ω")
    gamma: float = setting(default=0.95, low=0, high=1, help="discount per step")
    epsilon: float = setting(default=0.1, low=0, high=1, help="share of random actions")
    first_value: float = setting(default=0.0, help="action values before anything is learned")


class Learner(NamedTuple):
    """What Q-learning has learned so far."""

    q: Array  # [S, A]
    visits: Array  # [S, A] int32


def make(cfg: QLearningConfig, spec: Spec) -> Agent:
    """Q-learning for one environment; its buffer is `latest`.

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
        return Learner(first_values(cfg, spec), jnp.zeros((states, actions), jnp.int32))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return choose(cfg, key, learner.q, obs, explore), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        row = newest(key, replay)
        visits = learner.visits.at[row.obs, row.action].add(1)
        q, error = backup(cfg, learner.q, visits, row)
        return Learner(q, visits), {"td_error": jnp.abs(error), "backups": jnp.ones(())}, ()

    return Agent(init, lambda: (), act, update)


def sizes(spec: Spec) -> tuple[int, int]:
    """The numbers of states and of actions.

    Raises:
      ValueError: observations or actions are not discrete.
    """
    if not isinstance(spec.obs, Discrete):
        raise ValueError(f"{spec.name}: observations must be numbered states (envs/discrete.py), got {spec.obs}")
    return spec.obs.n, spec.num_actions


def first_values(cfg: QLearningConfig, spec: Spec) -> Array:
    """Action values [S, A] before anything is learned."""
    return jnp.full(sizes(spec), cfg.first_value, jnp.float32)


def choose(cfg: QLearningConfig, key: Key, q: Array, state: Array, explore: bool) -> Array:
    """ε-greedy action [] in a state by the table q [S, A]; greedy where it shall not explore."""
    return epsilon_greedy(key, q[state], cfg.epsilon) if explore else greedy(q[state])


def newest(key: Key, replay: Replay) -> Transition:
    """The real step just taken, out of a `latest` buffer of one.

    Raises:
      ValueError: the buffer holds more than one step: tabular agents learn from each as it comes.
    """
    trajectory = replay.sample(key, 1)
    if trajectory.reward.shape != (1, 1):
        raise ValueError(f"unroll and num_envs must be 1 for tabular agents, got {trajectory.reward.shape}")
    return Transition(*(getattr(trajectory, name)[0, 0] for name in Transition._fields[:-1]))


def backup(cfg: QLearningConfig, q: Array, visits: Array, row: Transition) -> tuple[Array, Array]:
    """One Q-learning backup of a table.

    Args:
      cfg: settings.
      q: [S, A].
      visits: [S, A] int32 real visits so far, this one included.
      row: one real step, its observations and action [] integers.
    Returns:
      q with one entry changed; the temporal-difference error [].
    """
    at = row.obs, row.action
    error = td_target(row.reward, row.discount, jnp.max(q[row.next_obs]), cfg.gamma) - q[at]
    return q.at[at].add(step_size(cfg, visits[at]) * error), error


def step_size(cfg: QLearningConfig, visits: Array) -> Array:
    """α N^-ω after N visits [], at least one of which is assumed."""
    return cfg.lr * jnp.maximum(visits, 1).astype(jnp.float32) ** -jnp.asarray(cfg.decay, jnp.float32)
