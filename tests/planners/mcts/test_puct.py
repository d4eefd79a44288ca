"""PUCT against mctx and a search in NumPy; the distributions of its draws."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from helpers import search_problems as made

from mbrl_jax.core import Box, Model, Spec
from mbrl_jax.planners.mcts import PUCT, nodes, puct

module = importlib.import_module("mbrl_jax.planners.mcts.puct")

QUIET = dict(gamma=made.GAMMA, dirichlet_fraction=0.0, tie_noise=0.0, temperature=0.0)


@pytest.mark.parametrize(
    ("actions", "simulations", "max_depth"),
    [(5, 24, 3), pytest.param(2, 12, 0, marks=pytest.mark.slow), pytest.param(18, 30, 0, marks=pytest.mark.slow)],
)
def test_visits_and_values_are_those_of_mctx(actions, simulations, max_depth, monkeypatch):
    p = made.problems(jax.random.key(actions), 67, actions)
    cfg = PUCT(simulations=simulations, max_depth=max_depth, **QUIET)
    action, info = made.searched(puct(cfg, made.spec(actions)))(jax.random.split(jax.random.key(0), 67), p)
    # mctx breaks ties by noise; without it the first of equals is taken, as here.
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.zeros(shape))
    theirs = jax.jit(lambda p: made.with_mctx(mctx.muzero_policy, p, simulations, max_depth, dirichlet_fraction=0.0))(p)
    summary = theirs.search_tree.summary()
    np.testing.assert_array_equal(info.visits, summary.visit_counts)
    np.testing.assert_allclose(info.value, summary.value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(info.policy, theirs.action_weights, rtol=1e-6)
    tried = np.asarray(info.visits) > 0
    np.testing.assert_allclose(np.asarray(info.q)[tried], np.asarray(summary.qvalues)[tried], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(info.raw_value, p.values[:, 0])
    assert (np.asarray(info.visits).sum(-1) == simulations).all()
    assert (np.take_along_axis(info.visits, action[:, None], 1)[:, 0] == info.visits.max(-1)).all()


def plain_choice(bounds, c1=1.25, c2=19652.0):
    """The rule with values scaled by all Q in the tree, `bounds()` at the start of the simulation."""

    def choose(node):
        low, high = bounds()
        scaled = np.where(node.visits > 0, (node.q - low) / max(high - low, 1e-8), 0.0)
        weight = np.sqrt(node.total) * (c1 + np.log((node.total + c2 + 1) / c2))
        score = scaled + weight * np.exp(node.logits) / (1 + node.visits)
        return int(np.argmax(np.where(node.legal, score, -np.inf)))

    return choose


@pytest.mark.slow
def test_values_scaled_by_the_whole_tree():
    """By a search in NumPy; its bounds hold every Q there ever was, as do those of the tree."""
    p, simulations = made.problems(jax.random.key(9), 12, 4), 25
    cfg = PUCT(simulations=simulations, normalise="tree", **QUIET)
    _, info = made.searched(puct(cfg, made.spec(4), keep_tree=True))(jax.random.split(jax.random.key(0), 12), p)
    for i in range(12):
        one = made.one_of(p, i)
        root, seen = made.Plain(one, 0), [np.inf, -np.inf]

        def bounds(seen=seen):
            return (seen[0], seen[1]) if seen[0] <= seen[1] else (0.0, 0.0)

        for _ in range(simulations):
            root.simulate(one, plain_choice(bounds))
            known = root.all_q()
            seen[:] = min(seen[0], *known), max(seen[1], *known)
        np.testing.assert_array_equal(info.visits[i], root.visits)
        np.testing.assert_allclose(info.value[i], root.value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose([info.tree.low[i], info.tree.high[i]], seen, rtol=1e-5)


def test_a_tree_can_be_read():
    p = made.problems(jax.random.key(9), 12, 4)
    cfg = PUCT(simulations=25, normalise="tree", **QUIET)
    _, info = made.searched(puct(cfg, made.spec(4), keep_tree=True))(jax.random.split(jax.random.key(0), 12), p)
    for i in range(12):
        one = made.one_of(p, i)
        found = nodes(made.one_of(info.tree, i), 4)
        assert found.visits[0] == 26
        np.testing.assert_allclose(found.value[0], info.value[i])
        states = [0]
        for place in range(1, len(found.parent)):
            above, action = found.parent[place], found.action[place]
            assert above < place
            assert found.depth[place] == found.depth[above] + 1
            state = states[above]
            states.append(int(one.following[state, action]))
            discount = made.GAMMA * one.discounts[state, action]
            assert discount != 0.0  # a terminal edge has no child
            np.testing.assert_allclose(
                found.q[place], one.rewards[state, action] + discount * found.value[place], rtol=1e-4, atol=1e-5
            )
            chances = np.where(one.legal[state], np.exp(one.logits[state]), 0.0)
            np.testing.assert_allclose(found.prior[place], chances[action] / chances.sum(), rtol=1e-5)


def test_noise_at_the_root_is_dirichlets():
    alpha, legal = 0.4, np.array([True, True, False, True, True])
    prior = jnp.where(legal, jnp.array([0.5, 0.2, 0.0, 0.2, 0.1]), -jnp.inf)
    drawn = jax.random.uniform(jax.random.key(0), (20_000, module.noise_rows(), 5), minval=1e-38)
    noise = np.asarray(jax.jit(jax.vmap(lambda d: module.with_noise(d, prior, 1.0, alpha)))(drawn))
    assert (noise[:, 2] == -np.inf).all()
    noise = noise[:, legal]
    np.testing.assert_allclose(noise.sum(-1), 1.0, rtol=1e-5)
    # Each entry has a beta distribution: mean 1/4, variance (1/4)(3/4) / (4 α + 1), and its third moment.
    a, total = alpha, 4 * alpha
    moments = [a / total, a * (a + 1) / (total * (total + 1))]
    moments.append(moments[1] * (a + 2) / (total + 2))
    for power, expected in enumerate(moments, 1):
        np.testing.assert_allclose((noise**power).mean(0), expected, atol=0.008)
    mixed = module.with_noise(drawn[0], prior, 0.25, alpha)
    np.testing.assert_allclose(np.asarray(mixed)[legal], 0.75 * np.asarray(prior)[legal] + 0.25 * noise[0], rtol=1e-5)


def test_actions_are_drawn_by_temperature():
    policy = jnp.array([0.0, 0.5, 0.2, 0.3])
    drawn = jax.random.uniform(jax.random.key(1), (20_000, 4), minval=1e-38)
    act = jax.jit(jax.vmap(module.draw, (0, None, None)))
    assert (np.asarray(act(drawn, policy, 0.0)) == 1).all()
    for temperature in (1.0, 0.5):
        expected = np.asarray(policy) ** (1 / temperature)
        frequency = np.bincount(act(drawn, policy, temperature), minlength=4) / 20_000
        np.testing.assert_allclose(frequency, expected / expected.sum(), atol=0.015)


def test_what_is_kept_is_the_tree_below_the_action_taken():
    """The kept nodes are those of the search before, below its action; the next search adds to them."""
    p = jax.tree.map(lambda leaf: leaf[0], made.problems(jax.random.key(4), 1, 3, all_legal=True))
    p = p._replace(discounts=jnp.ones_like(p.discounts))
    cfg = PUCT(simulations=30, reuse=True, **QUIET)
    planner = puct(cfg, made.spec(3), jnp.int32(0), keep_tree=True)
    plan = jax.jit(lambda key, s, warm: planner.plan(key, made.model(p), s, warm))
    action, kept, info = plan(jax.random.key(0), jnp.int32(0), planner.init())
    plain = puct(PUCT(simulations=30, **QUIET), made.spec(3))
    fresh = jax.jit(lambda key: plain.plan(key, made.model(p), jnp.int32(0), ()))(jax.random.key(0))[2]
    np.testing.assert_array_equal(info.visits, fresh.visits)
    np.testing.assert_allclose(info.value, fresh.value, rtol=1e-6)

    before, after = nodes(info.tree, 3), nodes(kept, 3)

    def branch(of, place):
        """All below, as nested dictionaries of action to visits, value and what is below."""
        below = np.flatnonzero(of.parent == place)
        return {int(of.action[b]): (int(of.visits[b]), float(of.value[b]), branch(of, b)) for b in below}

    top = branch(before, 0)[int(action)]
    assert (after.visits[0], after.value[0]) == top[:2]
    assert branch(after, 0) == top[2]
    assert len(after.parent) > 5
    then = p.following[0, action]
    _, _, more = plan(jax.random.key(1), then, kept)
    assert int(more.visits.sum()) == top[0] - 1 + 30
    assert int(more.raw_value == p.values[then])
    later = nodes(more.tree, 3)
    assert later.visits[0] == top[0] + 30
    # The mean of all returns, again from the edges: those of V(s) = (v + Σ N Q) / (1 + Σ N) at every node.
    np.testing.assert_allclose(
        more.value, (more.raw_value + np.sum(more.visits * more.q)) / (1 + np.sum(more.visits)), rtol=1e-4
    )
    assert jax.tree.map(jnp.shape, planner.init()) == jax.tree.map(jnp.shape, kept)


def test_what_is_refused():
    with pytest.raises(ValueError, match="simulations must be at least 1"):
        puct(PUCT(simulations=0), made.spec(3))
    with pytest.raises(ValueError, match="continuous actions"):
        puct(PUCT(), Spec(Box((1,)), Box((1,), -1.0, 1.0)))
    with pytest.raises(ValueError, match="reuse needs state"):
        puct(PUCT(reuse=True), made.spec(3))
    two = Model(lambda key, s, a: None, members=2, at=lambda w: None)
    planner = puct(PUCT(), made.spec(3))
    with pytest.raises(ValueError, match=r"model.members must be 1, got 2.*model.at\(i\)"):
        planner.plan(jax.random.key(0), two, jnp.int32(0), ())
