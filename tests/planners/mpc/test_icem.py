"""iCEM: its schedule, the elites it keeps and clears, and known optima."""

from __future__ import annotations

import importlib
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import CHOICE, SPEC, WIDE, quadratic, solve

from mbrl_jax.core import Box, StepOut
from mbrl_jax.core.config import axes
from mbrl_jax.planners.mpc import ICEM, icem, model_steps
from mbrl_jax.planners.mpc.icem import populations

icem_file = importlib.import_module("mbrl_jax.planners.mpc.icem")

SMALL = ICEM(horizon=4, population=40, elites=8, kept=2, iterations=3, beta=0.5)
STATE = jnp.zeros(1)


def watch(monkeypatch, scores=None):
    """Records the candidates of each iteration."""
    seen, score = [], icem_file.score

    def recording(model, key, state, actions, gamma, particles):
        jax.debug.callback(lambda drawn: seen.append(np.asarray(drawn)), actions, ordered=True)
        return score(model, key, state, actions, gamma, particles) if scores is None else scores(actions)

    monkeypatch.setattr(icem_file, "score", recording)
    return seen


def planned(planner, model, key=0, warm=None):
    warm = planner.init() if warm is None else warm
    out = jax.jit(lambda key: planner.plan(key, model, STATE, warm))(jax.random.key(key))
    jax.effects_barrier()
    return jax.block_until_ready(out)


def test_population_schedule():
    assert populations(ICEM(population=40, decay=80, elites=10, iterations=3)) == (40, 32, 25)
    assert populations(ICEM(population=40, decay=80, elites=10, iterations=6)) == (40, 32, 25, 20, 20, 20)
    assert populations(ICEM(population=50, decay=100, elites=10, iterations=2)) == (50, 50)
    assert populations(ICEM(population=15, decay=80, elites=10, iterations=2)) == (15, 15)
    assert model_steps(ICEM(population=40, elites=10, iterations=3, horizon=30, particles=5)) == 97 * 150


def test_finds_optima_inside_and_at_the_bounds_and_shuns_regions_without_scores():
    planner = icem(ICEM(horizon=2, population=300, elites=15, iterations=4, beta=0.0, std=1.0), WIDE)
    action, _, info = solve(planner, [2.5, 7.0])
    np.testing.assert_allclose(action, [2.5, 7.0], atol=0.15)
    np.testing.assert_allclose(info.score, -np.square(info.actions - np.array([2.5, 7.0])).sum(), atol=1e-5)
    action, _, _ = solve(planner, [9.0, -9.0])
    np.testing.assert_allclose(action, [3.0, 0.0], atol=0.05)
    assert action[1] == 0.0, "clipped, so that it lies on the bound"
    action, _, info = solve(planner, [2.5, 7.0], beyond=1.2)
    assert jnp.isfinite(info.score)
    assert 1.0 < action[0] <= 1.2


def test_one_plan_equals_its_description(monkeypatch):
    """Sizes, kept elites, momentum and the mean as a candidate, recomputed from the candidates it scored."""
    target = np.array([0.4, -0.3])
    seen = watch(monkeypatch)
    action, warm, info = planned(icem(SMALL, SPEC), quadratic(target))
    assert [len(samples) for samples in seen] == [40, 32, 25]
    mean, best = np.zeros((4, 2)), None
    for i, samples in enumerate(seen):
        if best is not None:
            np.testing.assert_allclose(samples[:2], best[:2], atol=1e-6)
        if i == 2:
            np.testing.assert_allclose(samples[2], mean, atol=1e-5)
        scores = -np.square(samples - target).sum((1, 2))
        best = samples[np.argsort(-scores)[:8]]
        mean = 0.1 * mean + 0.9 * best.mean(0)
    np.testing.assert_allclose(info.actions, best[0], atol=1e-6)
    np.testing.assert_allclose(info.score, scores.max(), rtol=1e-5)
    np.testing.assert_allclose(action, best[0, 0], atol=1e-6)
    np.testing.assert_allclose(warm.mean, np.concatenate([mean[1:], mean[-1:]]), atol=1e-5)
    np.testing.assert_allclose(warm.elites[:, :-1], best[:2, 1:], atol=1e-6)
    assert warm.scored.all()


def test_elites_of_the_plan_before_are_tried_shifted_and_init_clears_them(monkeypatch):
    """A plan from a fresh memory has no candidates of the episode before: it equals the first plan."""
    planner = icem(SMALL, SPEC)
    seen = watch(monkeypatch)
    plan = jax.jit(lambda key, warm: planner.plan(key, quadratic([0.4, -0.3]), STATE, warm))
    _, warm, _ = plan(jax.random.key(0), planner.init())
    for memory in (warm, planner.init()):
        plan(jax.random.key(0), memory)
        jax.effects_barrier()
    first, second, cleared = seen[0], seen[3], seen[6]
    np.testing.assert_allclose(second[:2, :-1], warm.elites[:, :-1])
    np.testing.assert_array_less(1e-4, np.abs(second[:2, -1] - warm.elites[:, -1]))
    np.testing.assert_array_equal(cleared, first)
    assert (second[:2] != first[:2]).any()
    assert not planner.init().scored.any()
    assert (planner.init().mean == 0.0).all()


def test_elites_without_a_score_are_not_kept(monkeypatch):
    planner = icem(SMALL, SPEC)
    seen = watch(monkeypatch, scores=lambda actions: jnp.full(len(actions), -jnp.inf))
    action, warm, info = planned(planner, quadratic([0.0, 0.0]))
    assert not warm.scored.any()
    assert info.score == -jnp.inf
    np.testing.assert_array_equal(action, [0.0, 0.0])
    for before, after in pairwise(seen):
        assert not any((np.abs(before - kept).max((1, 2)) < 1e-6).any() for kept in after[:2])


def test_iterations_draw_anew(monkeypatch):
    seen = watch(monkeypatch, scores=lambda actions: jnp.full(len(actions), -jnp.inf))
    cfg = ICEM(horizon=4, population=20, decay=100, elites=1, kept=0, iterations=2)
    planned(icem(cfg, SPEC), quadratic([0.0, 0.0]))
    assert np.abs(seen[1][1:] - seen[0][1:]).mean() > 0.2
    with jax.debug_key_reuse(True):
        planned(icem(SMALL, SPEC), quadratic([0.0, 0.0]))


def test_noise_is_coloured_over_time_and_of_the_set_size(monkeypatch):
    seen = watch(monkeypatch)

    @jax.jit
    def plan(beta, std):
        cfg = ICEM(horizon=20, population=2000, elites=2, kept=0, iterations=1, beta=beta, std=std)
        return icem(cfg, WIDE).plan(jax.random.key(0), quadratic([0.0, 0.0]), STATE, icem(cfg, WIDE).init())

    for beta, std, correlation in ((0.0, 0.2, 0.0), (3.0, 0.1, 0.9)):
        plan(beta, std)
        jax.effects_barrier()
        drawn = (seen[-1][1:] - [1.0, 5.0]) / [2.0, 5.0]  # the first candidate is the mean
        np.testing.assert_allclose(drawn.std((0, 1)), std, rtol=0.05)
        np.testing.assert_allclose((drawn[:, 1:] * drawn[:, :-1]).mean() / std**2, correlation, atol=0.08)


def test_vmap_and_a_traced_sweep_equal_single_plans():
    values = {"beta": [0.5, 2.0], "std": [0.5, 0.2], "alpha": [0.1, 0.3]}
    base = dict(horizon=4, population=20, elites=4, kept=2, iterations=2)
    swept = ICEM(**base, **{name: jnp.array(pair) for name, pair in values.items()})
    states = jnp.zeros((2, 1))

    def one(cfg, key, state):
        planner = icem(cfg, SPEC)
        return planner.plan(key, quadratic([0.3, -0.6]), state, planner.init())

    keys = jax.random.split(jax.random.key(3), 2)
    single = jax.jit(one)
    actions, warms, _ = jax.jit(jax.vmap(one, (axes(ICEM(**base), *values), 0, 0)))(swept, keys, states)
    for i in range(2):
        cfg = ICEM(**base, **{name: pair[i] for name, pair in values.items()})
        action, warm, _ = single(cfg, keys[i], states[i])
        np.testing.assert_allclose(actions[i], action, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(warms.mean[i], warm.mean, rtol=1e-4, atol=1e-5)


def test_the_prior_is_tried_among_the_candidates():
    needle = jnp.array([0.123, -0.456])

    def step(key, state, action):
        return StepOut(state, jnp.all(jnp.abs(action - needle) < 1e-4).astype(jnp.float32), jnp.ones(()))

    model = quadratic([0.0, 0.0])._replace(step=step, prior=lambda key, state: needle)
    cfg = ICEM(horizon=3, population=20, elites=4, kept=2, iterations=2, proposals=2)
    action, _, info = planned(icem(cfg, SPEC), model)
    np.testing.assert_allclose(action, needle, rtol=1e-5)
    assert float(info.score) == 3.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: icem(ICEM(), CHOICE), "icem needs continuous actions, choices has discrete ones; use cem"),
        (lambda: icem(ICEM(kept=11), SPEC), r"kept must be at most elites \(10\), got 11"),
        (lambda: icem(ICEM(population=10), SPEC), r"elites must be below population \(10\), got 10"),
        (lambda: icem(ICEM(proposals=30), SPEC), r"kept \+ proposals \+ 1 must be below the smallest population"),
        (lambda: icem(ICEM(beta=-1.0), SPEC), "beta must be at least 0, got -1.0"),
        (lambda: icem(ICEM(), SPEC._replace(action=Box((1,)), name="open")), "spec.action of open must be bounded"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
