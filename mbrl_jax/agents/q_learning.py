"""Tabular Q-learning.

Watkins & Dayan 1992; Sutton & Barto 2018, section 6.5. After each real step, with N visits of (s, a) so far,

    Q(s, a) <- Q(s, a) + α N^-ω [ r + γ d max_a' Q(s', a') - Q(s, a) ]

Actions are ε-greedy, ties broken at random. With ω = 0 the step size is the book's constant; with ω in (1/2, 1] it
falls fast enough for convergence in a stochastic environment.

Differs from the sources in: nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mbrl_jax.core.config import check, config, setting
from mbrl_jax.core.types import Agent, Array, Key, Metrics, Obs, Replay, Spec, Transition, Tree
from mbrl_jax.envs.spaces import num_states
from mbrl_jax.ops.losses import td_target
from mbrl_jax.ops.policies import epsilon_greedy, greedy


@config
class QLearningConfig:
    """Settings of tabular Q-learning, and of the agents that plan with its backups."""

    lr: float = setting(default=0.1, above=0, high=1, help="step size α of a Q backup")
    decay: float = setting(default=0.0, low=0, high=1, help="exponent ω by which the step size falls, α N^-ω")
    gamma: float = setting(default=0.95, low=0, high=1, help="discount factor per step")
    epsilon: float = setting(default=0.1, low=0, high=1, help="probability of a uniformly random action in training")
    first_value: float = setting(default=0.0, help="initial value of every action")


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
    states, actions = num_states(spec), spec.num_actions

    def init(key: Key) -> Learner:
        del key
        return Learner(initial_q(spec, value=cfg.first_value), jnp.zeros((states, actions), jnp.int32))

    def act(key: Key, learner: Learner, carry: Tree, obs: Obs, explore: bool) -> tuple[Array, Tree, Tree]:
        return select_action(key, learner.q[obs], epsilon=cfg.epsilon, explore=explore), carry, ()

    def update(key: Key, learner: Learner, replay: Replay) -> tuple[Learner, Metrics, Tree]:
        transition = latest_transition(key, replay)
        visits = learner.visits.at[transition.obs, transition.action].add(1)
        q, error = q_backup(learner.q, visits, transition, lr=cfg.lr, decay=cfg.decay, gamma=cfg.gamma)
        return Learner(q, visits), {"td_error": jnp.abs(error), "backups": jnp.ones((), jnp.float32)}, ()

    return Agent(init, lambda: (), act, update)


def initial_q(spec: Spec, *, value: Array | float) -> Array:
    """The action values before anything is learned.

    Args:
      spec: discrete observations (S states) and actions (A).
      value: [] of every action in every state.
    Returns:
      [S, A] float32.
    Raises:
      ValueError: observations or actions are not discrete.
    """
    return jnp.full((num_states(spec), spec.num_actions), value, jnp.float32)


def select_action(key: Key, q: Array, *, epsilon: Array | float, explore: bool) -> Array:
    """The ε-greedy action in one state while exploring, else the greedy one.

    Args:
      key: used once.
      q: [A] action values of the state; ties between the best are broken at random while exploring.
      epsilon: [] probability of a uniformly random action, in [0, 1].
      explore: static; False in evaluation.
    Returns:
      [] int32.
    """
    return epsilon_greedy(key, q, epsilon) if explore else greedy(q)


def latest_transition(key: Key, replay: Replay) -> Transition:
    """The last real step, read from a `latest` buffer that holds one.

    Args:
      key: used once.
      replay: of a `latest` buffer with 1 step of 1 environment.
    Returns:
      the transition, without batch axes and without extras.
    Raises:
      ValueError: the buffer holds more than one step: tabular agents learn from every step once.
    """
    trajectory = replay.sample(key, 1)
    if trajectory.reward.shape != (1, 1):
        raise ValueError(f"unroll and num_envs must be 1 for tabular agents, got {trajectory.reward.shape}")
    return Transition(*(getattr(trajectory, name)[0, 0] for name in Transition._fields[:-1]))


def q_backup(
    q: Array,
    visits: Array,
    transition: Transition,
    *,
    lr: Array | float,
    decay: Array | float = 0.0,
    gamma: Array | float,
) -> tuple[Array, Array]:
    """One Q-learning backup (Watkins & Dayan 1992; Sutton & Barto 2018, eq. 6.8).

        Q(s, a) <- Q(s, a) + α N(s, a)^-ω [ r + γ d max_a' Q(s', a') - Q(s, a) ]

    Args:
      q: [S, A] action values.
      visits: [S, A] int32 real visits so far, this one included.
      transition: one real step, its observations and action [] integers.
      lr: α in (0, 1].
      decay: ω in [0, 1].
      gamma: γ in [0, 1], per step.
    Returns:
      q [S, A] with one entry changed; the temporal-difference error [] before the backup.
    """
    at = transition.obs, transition.action
    target = td_target(transition.reward, transition.discount, jnp.max(q[transition.next_obs]), gamma)
    error = target - q[at]
    return q.at[at].add(step_size(visits[at], lr=lr, decay=decay) * error), error


def step_size(visits: Array, *, lr: Array | float, decay: Array | float) -> Array:
    """The step size of a backup after N visits, α N^-ω.

    Args:
      visits: [...] int32 N; 0 counts as 1.
      lr: α in (0, 1].
      decay: ω in [0, 1].
    Returns:
      [...] in (0, 1].
    """
    return lr * jnp.maximum(visits, 1).astype(jnp.float32) ** -jnp.asarray(decay, jnp.float32)
