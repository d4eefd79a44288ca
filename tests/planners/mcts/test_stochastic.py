"""Search with chance nodes against exact expectimax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Discrete, Spec, StepOut
from mbrl_jax.planners.mcts import PUCT, ChanceModel, chance

ACTIONS, OUTCOMES, STATES, GAMMA = 2, 3, 6, 0.9
keys = jax.random.split(jax.random.key(7), 3)
CHANCES = jax.nn.softmax(1.5 * jax.random.normal(keys[0], (STATES, ACTIONS, OUTCOMES)))
REWARDS = jax.random.uniform(keys[1], (STATES, ACTIONS, OUTCOMES))
FOLLOWING = jax.random.randint(keys[2], (STATES, ACTIONS, OUTCOMES), 0, STATES)


def expectimax(state, steps):
    """The best expected return of that many steps, for each first action."""
    if steps == 0:
        return np.zeros(ACTIONS)
    q = np.zeros(ACTIONS)
    for a in range(ACTIONS):
        for c in range(OUTCOMES):
            ahead = expectimax(int(FOLLOWING[state, a, c]), steps - 1).max()
            q[a] += float(CHANCES[state, a, c]) * (float(REWARDS[state, a, c]) + GAMMA * ahead)
    return q


def process():
    """A state is (where, steps left); an afterstate also holds the action."""

    def decide(state, action):
        where, left = state
        return (where, left, action), jnp.zeros(()), jnp.log(CHANCES[where, action])

    def happen(afterstate, outcome):
        where, left, action = afterstate
        at = where, action, outcome
        return StepOut((FOLLOWING[at], left - 1), REWARDS[at], (left > 1).astype(jnp.float32))

    return ChanceModel(decide, happen, lambda state: jnp.zeros(()), lambda state: jnp.zeros(ACTIONS))


def test_against_expectimax():
    """With strong exploration, so that all actions become known. With one step to go values are exact but for the first
    visit; with two they also include the cost of exploring."""

    def run(key, state, steps, c1):
        cfg = PUCT(simulations=1500, gamma=GAMMA, c1=c1, dirichlet_fraction=0.0, temperature=0.0)
        planner = chance(cfg, Spec(Discrete(STATES), Discrete(ACTIONS)), OUTCOMES)
        return planner.plan(key, process(), (state, steps), ())[::2]

    runs = jax.jit(jax.vmap(run, (0, 0, None, None)))
    for steps, c1, near, below in ((1, 20.0, 0.01, 0.01), (2, 5.0, 0.08, 0.2)):
        exact = np.array([expectimax(s, steps) for s in range(STATES)])
        actions, info = runs(jax.random.split(jax.random.key(0), STATES), jnp.arange(STATES), jnp.int32(steps), c1)
        taken = np.take_along_axis(exact, np.asarray(actions)[:, None], 1)[:, 0]
        np.testing.assert_allclose(taken, exact.max(1), atol=near)
        best = np.take_along_axis(np.asarray(info.q), exact.argmax(1)[:, None], 1)[:, 0]
        assert (best < exact.max(1) + 0.01).all()
        assert (best > exact.max(1) - below).all()
        assert info.visits.shape == (STATES, ACTIONS)
        assert (np.asarray(info.visits).sum(1) == 1500).all()


def test_outcomes_are_followed_in_proportion():
    """One action and one step: the edge's value is the expectation, to within one visit in all."""
    chances = jnp.array([0.5, 0.3, 0.15, 0.05])
    model = ChanceModel(
        lambda s, a: (s, jnp.zeros(()), jnp.log(chances)),
        lambda s, c: StepOut(s, jnp.array([1.0, 10.0, 100.0, 1000.0])[c], jnp.zeros(())),
        lambda s: jnp.zeros(()),
        lambda s: jnp.zeros(1),
    )
    cfg = PUCT(simulations=1001, dirichlet_fraction=0.0)
    planner = chance(cfg, Spec(Discrete(1), Discrete(1)), 4)
    _, _, info = jax.jit(lambda key: planner.plan(key, model, jnp.zeros(()), ()))(jax.random.key(0))
    np.testing.assert_allclose(info.q[0], 0.5 + 3.0 + 15.0 + 50.0, rtol=0.02)


def test_what_is_refused():
    spec = Spec(Discrete(1), Discrete(2))
    with pytest.raises(ValueError, match="outcomes must be at least 1"):
        chance(PUCT(), spec, 0)
    with pytest.raises(ValueError, match="reuse must be False"):
        chance(PUCT(reuse=True), spec, 2)
