"""Gumbel MuZero's search against mctx (serial) and against Sequential Halving in NumPy (parallel)."""

from __future__ import annotations

import functools
import importlib
import math

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from helpers import search_problems as made

from mbrl_jax.planners.mcts import Gumbel, gumbel, tree

module = importlib.import_module("mbrl_jax.planners.mcts.gumbel")

MANY = 60


def draws(keys, actions):
    """The root's Gumbel numbers of plans with these keys."""
    return jax.vmap(lambda key: jax.random.gumbel(jax.random.split(key)[0], (actions,)))(keys)


@pytest.mark.parametrize(
    ("actions", "simulations", "max_depth", "considered", "least"),
    [(3, 14, 2, 16, 1e-8), (3, 14, 2, 16, 2.0), pytest.param(10, 24, 0, 6, 1e-8, marks=pytest.mark.slow)],
)
def test_serial_is_mctx(actions, simulations, max_depth, considered, least, monkeypatch):
    p, keys = made.problems(jax.random.key(actions), MANY, actions), jax.random.split(jax.random.key(1), MANY)
    settings = dict(simulations=simulations, max_depth=max_depth, considered=considered, gamma=made.GAMMA)
    planner = gumbel(Gumbel(schedule="serial", least_range=least, **settings), made.spec(actions))
    action, info = made.searched(planner)(keys, p)
    drawn = draws(keys, actions)
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape, dtype: drawn)
    transform = functools.partial(mctx.qtransform_completed_by_mix_value, epsilon=least)
    policy = functools.partial(mctx.gumbel_muzero_policy, max_num_considered_actions=considered, qtransform=transform)
    theirs = jax.jit(lambda p: made.with_mctx(policy, p, simulations, max_depth))(p)
    summary = theirs.search_tree.summary()
    np.testing.assert_array_equal(info.visits, summary.visit_counts)
    np.testing.assert_array_equal(action, theirs.action)
    np.testing.assert_allclose(info.policy, theirs.action_weights, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(info.value, summary.value, rtol=1e-5, atol=1e-5)
    # Completed values: mctx's own, scaled, hold the same once scaled the same way.
    scaled = jax.vmap(transform, (0, None))(theirs.search_tree, 0)
    ours = jax.vmap(module.scaled, (0, 0, None))(info.q, info.visits, module.Weight(50.0, 0.1, least))
    np.testing.assert_allclose(ours, scaled, rtol=1e-4, atol=1e-4)
    tried = np.asarray(info.visits) > 0
    np.testing.assert_allclose(np.asarray(info.q)[tried], np.asarray(summary.qvalues)[tried], rtol=1e-5, atol=1e-5)


# Sequential Halving as the paper has it, in NumPy --------------------------------------------------------------------


def completed(node):
    tried = node.visits > 0
    if not tried.any():
        return np.full(len(tried), node.raw)
    chances = np.exp(node.logits[tried])
    mean = (chances * node.q[tried]).sum() / chances.sum()
    mixed = (node.raw + node.visits.sum() * mean) / (1 + node.visits.sum())
    return np.where(tried, node.q, mixed)


def sigma(node):
    q = completed(node)
    return (50 + node.visits.max()) * 0.1 * (q - q.min()) / max(q.max() - q.min(), 1e-8)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def inner(node):
    return int(np.argmax(softmax(node.logits + sigma(node)) - node.visits / (1 + node.visits.sum())))


def halving(p, drawn, simulations, considered):
    """The root after a search."""
    root, left = made.Plain(p, 0), simulations

    def best_first(actions):
        return sorted(actions, key=lambda a: -(drawn[a] + root.logits[a] + sigma(root)[a]))

    alive = best_first(np.flatnonzero(root.legal).tolist())[:considered]
    phases = math.ceil(math.log2(len(alive))) if len(alive) > 1 else 1
    while left:
        for _ in range(max(1, simulations // (phases * len(alive)))):
            # A round that cannot be paid for in full goes to the best.
            for a in best_first(alive)[: min(left, len(alive))]:
                root.simulate(p, inner, first=a)
                left -= 1
        alive = best_first(alive)[: max(len(alive) // 2, min(2, len(alive)))]
    most = [a for a in range(len(drawn)) if root.visits[a] == root.visits.max()]
    return root, best_first(most)[0]


@pytest.mark.parametrize(
    ("actions", "simulations", "considered", "masked"),
    [
        (7, 24, 16, True),
        pytest.param(18, 40, 16, True, marks=pytest.mark.slow),
        pytest.param(6, 21, 4, False, marks=pytest.mark.slow),
    ],
)
def test_parallel_is_sequential_halving(actions, simulations, considered, masked):
    p = made.problems(jax.random.key(actions), MANY, actions, all_legal=not masked)
    if masked:  # also one, two, three ... allowed actions
        few = jnp.arange(actions) <= (jnp.arange(MANY) % actions)[:, None]
        p = p._replace(legal=p.legal.at[:, 0].set(few))
    keys = jax.random.split(jax.random.key(2), MANY)
    cfg = Gumbel(simulations=simulations, considered=considered, gamma=made.GAMMA)
    action, info = made.searched(gumbel(cfg, made.spec(actions)), masked)(keys, p)
    drawn = np.asarray(draws(keys, actions), float)
    assert (np.asarray(info.visits).sum(-1) == simulations).all()
    assert not np.asarray(info.visits)[~np.asarray(p.legal[:, 0])].any()
    for i in range(MANY):
        root, best = halving(made.one_of(p, i), drawn[i], simulations, considered)
        np.testing.assert_array_equal(info.visits[i], root.visits, str(i))
        assert int(action[i]) == best, i
        np.testing.assert_allclose(info.value[i], root.value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.asarray(info.policy[i]), softmax(root.logits + sigma(root)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.asarray(info.q[i])[root.legal], completed(root)[root.legal], rtol=1e-3, atol=1e-4)


def test_rounds_by_hand():
    assert module.round_widths(16, 50) == [16, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2]
    assert module.round_widths(16, 16) == [16]
    assert module.round_widths(4, 16) == [4, 4, 2, 2, 2, 2]
    assert module.round_widths(3, 7) == [3, 2, 2]
    assert module.round_widths(1, 3) == [1, 1, 1]
    assert module.round_widths(16, 5) == [5]
    for considered in range(1, 17):
        assert sum(module.round_widths(considered, 37)) == 37
    np.testing.assert_array_equal(module.considered_visits(2, 4), [[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 1, 1]])


@pytest.mark.parametrize("masked", [False, True])
def test_the_improved_policy_is_a_softmax_of_logits_and_values(masked):
    keys = jax.random.split(jax.random.key(0), 4)
    legal = jax.random.bernoulli(keys[0], 0.7, (50, 6)).at[:, 2].set(True) | (not masked)
    logits = jax.nn.log_softmax(jnp.where(legal, 3.0 * jax.random.normal(keys[1], (50, 6)), module.FORBIDDEN))
    visits = jnp.where(legal, jnp.arange(50.0)[:, None] % 7, 0.0)
    q = jnp.where(visits > 0, jax.random.normal(keys[2], (50, 6)), 0.0)
    raw = 3.0 * jax.random.normal(keys[3], (50,))  # what an action not allowed is taken for may lie above all the rest
    node = tree.Node(visits, q, 0.0 * q, module.probabilities(logits), raw, 1.0 + jnp.sum(visits, -1), raw, raw, raw)
    node = jax.tree.map(jnp.transpose, node)
    weight = module.Weight(50.0, 1.0, 1e-8)
    found = np.asarray(module.improved(node, weight, masked)).T
    sigma = np.asarray(module.scaled(module.completed(node), node.visits, weight), np.float64).T
    total = np.where(legal, np.asarray(logits, np.float64) + sigma, -np.inf)
    weights = np.exp(total - total.max(-1, keepdims=True))
    found = found / found.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, weights / weights.sum(-1, keepdims=True), rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_without_noise_the_plan_does_not_depend_on_the_key():
    p = made.problems(jax.random.key(5), 8, 7)
    run = made.searched(gumbel(Gumbel(simulations=12, gumbel_scale=0.0), made.spec(7)))
    a, b = (run(jax.random.split(jax.random.key(i), 8), p) for i in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
