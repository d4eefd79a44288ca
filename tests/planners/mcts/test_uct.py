"""UCT against a search in NumPy, its rollouts against sums by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import search_problems as made

from mbrl_jax.core import Discrete, Model, Spec, StepOut
from mbrl_jax.planners.mcts import UCT, uct
from mbrl_jax.planners.mcts.uct import rollout


@pytest.mark.parametrize("normalise", [True, False])
def test_against_numpy(normalise, monkeypatch):
    """With values instead of rollouts, and untried actions in order of their numbers."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    p, simulations = made.problems(jax.random.key(3), 12, 4), 40
    cfg = UCT(simulations=simulations, max_depth=4, gamma=made.GAMMA, normalise=normalise, c=0.7)
    action, info = made.searched(uct(cfg, made.spec(4)))(jax.random.split(jax.random.key(0), 12), p)
    for i in range(12):
        one = made.one_of(p, i)
        root, seen = made.Plain(one, 0), [np.inf, -np.inf]

        def choose(node, seen=seen):
            untried = np.flatnonzero(node.legal & (node.visits == 0))
            if len(untried):
                return int(untried[0])
            with np.errstate(divide="ignore", invalid="ignore"):
                q = (node.q - seen[0]) / max(seen[1] - seen[0], 1e-8) if normalise else node.q
                score = q + 0.7 * np.sqrt(np.log(node.total) / node.visits)
            return int(np.argmax(np.where(node.legal, score, -np.inf)))

        for _ in range(simulations):
            root.simulate(one, choose, max_depth=4)
            known = root.all_q()
            seen[:] = min(seen[0], *known), max(seen[1], *known)
        np.testing.assert_array_equal(info.visits[i], root.visits)
        np.testing.assert_allclose(info.value[i], root.value, rtol=1e-5, atol=1e-5)
        most = root.visits == root.visits.max()
        assert int(action[i]) == int(np.argmax(np.where(most, root.q, -np.inf)))


def countdown(key, state, action):
    """Pays the number it stands at, and ends at 0."""
    del key, action
    left = state - 1
    return StepOut(left, state.astype(jnp.float32), (left > 0).astype(jnp.float32))


def test_a_rollout_ends_where_the_episode_or_its_depth_does():
    run = jax.jit(jax.vmap(lambda key, s: rollout(Model(countdown), key, s, 2, 0.5, 3)), static_argnums=())
    returns = run(jax.random.split(jax.random.key(0), 4), jnp.array([1, 2, 3, 6]))
    np.testing.assert_allclose(returns, [1.0, 2 + 0.5, 3 + 1 + 0.25, 6 + 2.5 + 1.0], rtol=1e-6)


def test_a_rollout_takes_allowed_actions_evenly():
    """Each action pays its number: the mean return of one step is the mean of the allowed numbers."""
    model = Model(
        lambda key, s, a: StepOut(s, a.astype(jnp.float32), jnp.zeros(())),
        legal=lambda s: jnp.array([True, False, True, True]),
    )
    run = jax.jit(jax.vmap(lambda key: rollout(model, key, jnp.int32(0), 4, 1.0, 5)))
    returns = np.asarray(run(jax.random.split(jax.random.key(0), 6000)))
    np.testing.assert_allclose([(returns == a).mean() for a in (0, 1, 2, 3)], [1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)


def test_leaf_values_are_rollouts():
    """One action, a known sum: every return is exact, so is the value."""
    planner = uct(UCT(simulations=5, gamma=0.5, rollouts=3), Spec(Discrete(9), Discrete(1)))
    _, _, info = jax.jit(lambda key: planner.plan(key, Model(countdown), jnp.int32(4), ()))(jax.random.key(0))
    np.testing.assert_allclose(info.value, 4 + 0.5 * 3 + 0.25 * 2 + 0.125, rtol=1e-6)
    np.testing.assert_allclose(info.raw_value, info.value, rtol=1e-6)
