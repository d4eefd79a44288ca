"""Random shooting and the cross-entropy method: known optima, bounds, NaN, and one iteration against NumPy."""

from __future__ import annotations

import importlib
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import CHOICE, SPEC, WIDE, lock, quadratic, solve

from mbrl_jax.core import Box, Spec, StepOut
from mbrl_jax.core.config import axes
from mbrl_jax.planners.mpc import CEM, Shooting, cem, common, model_steps, shooting

cem_file = importlib.import_module("mbrl_jax.planners.mpc.cem")

SMALL = CEM(horizon=3, population=64, elites=8, iterations=6, particles=1)
STATE = jnp.zeros(1)
GOOD = {
    spec.name: cem(CEM(horizon=2, population=200, elites=20, iterations=12, particles=1), spec) for spec in (SPEC, WIDE)
}


def planned(planner, model, state=STATE, key=0):
    return jax.jit(lambda key: planner.plan(key, model, state, planner.init()))(jax.random.key(key))


def test_finds_the_optimum_inside_the_bounds():
    for spec, target in ((SPEC, [0.3, -0.6]), (WIDE, [2.5, 7.0])):
        action, _, info = solve(GOOD[spec.name], target)
        np.testing.assert_allclose(action, target, atol=0.01)
        np.testing.assert_allclose(info.actions, [target, target], atol=0.01)
        np.testing.assert_allclose(info.score, 0.0, atol=1e-3)


def test_an_optimum_beyond_the_bounds_is_met_at_the_bound():
    action, _, info = solve(GOOD[SPEC.name], [5.0, -5.0])
    np.testing.assert_allclose(action, [1.0, -1.0], atol=0.02)
    assert (jnp.abs(info.actions) <= 1.0).all()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_never_plans_into_a_region_without_scores(bad):
    action, _, info = solve(GOOD[SPEC.name], [0.9, 0.5], beyond=0.2, bad=bad)
    assert jnp.isfinite(info.score)
    assert 0.1 < action[0] <= 0.2, "next to the region, not in it"
    assert abs(action[1] - 0.5) < 0.05


def test_without_any_finite_score_the_plan_stays():
    action, _, info = solve(GOOD[WIDE.name], [0.0, 0.0], beyond=-2.0)
    np.testing.assert_allclose(action, [1.0, 5.0], rtol=1e-6)
    assert info.score == -jnp.inf


def test_one_iteration_equals_numpy():
    """Of 7 samples, 3 elites of which one has no score."""
    samples = np.asarray(jax.random.uniform(jax.random.key(1), (7, 3, 2), minval=-1.0, maxval=1.0))
    mean, variance = np.full((3, 2), 0.2, np.float32), np.full((3, 2), 0.3, np.float32)
    scores = np.array([0.0, 4.0, -1.0, 2.0, 3.0, -np.inf, 1.0], np.float32)
    got_mean, got_variance = cem_file.refit(mean, variance, samples, jnp.asarray(scores), 3, 0.25)
    elites = samples[[1, 4, 3]]
    np.testing.assert_allclose(got_mean, 0.25 * mean + 0.75 * elites.mean(0), rtol=1e-5)
    np.testing.assert_allclose(got_variance, 0.25 * variance + 0.75 * elites.var(0), rtol=1e-5)
    few = np.where(np.arange(7) < 2, scores, -np.inf)
    got_mean, got_variance = cem_file.refit(mean, variance, samples, jnp.asarray(few), 3, 0.25)
    np.testing.assert_allclose(got_mean, 0.25 * mean + 0.75 * samples[:2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(got_variance, 0.25 * variance + 0.75 * samples[:2].var(0), rtol=1e-5)


def test_deviations_keep_draws_within_the_bounds():
    box = common.bounds(WIDE)
    mean = jnp.array([[1.0, 5.0], [2.8, 0.5], [3.0, 10.0]])
    got = cem_file.spread_within(mean, jnp.square(box.half / 2.0), box)
    np.testing.assert_allclose(got, [[1.0, 2.5], [0.1, 0.25], [0.0, 0.0]], atol=1e-6)


def test_the_first_draws_are_those_of_the_paper(monkeypatch):
    """A normal of a quarter of the range around the memory, cut at two deviations."""
    seen = []

    def score(model, key, state, actions, gamma, particles):
        jax.debug.callback(lambda drawn: seen.append(np.asarray(drawn)), actions)
        return jnp.zeros(actions.shape[0])

    monkeypatch.setattr(cem_file, "score", score)
    cfg = CEM(horizon=1, population=2000, elites=10, iterations=1, particles=1)
    cem(cfg, WIDE).plan(jax.random.key(0), quadratic([0.0, 0.0]), STATE, jnp.array([[1.0, 5.0]]))
    jax.effects_barrier()
    drawn = seen[0][:, 0]
    assert drawn.shape == (2000, 2)
    # a normal cut at two deviations has standard deviation 0.8796
    np.testing.assert_allclose(drawn.std(0), [0.8796 * 1.0, 0.8796 * 2.5], rtol=0.06)
    np.testing.assert_allclose(drawn.mean(0), [1.0, 5.0], atol=0.2)
    assert (np.abs(drawn - [1.0, 5.0]) <= [2.0, 5.0]).all()
    assert (np.abs(drawn - [1.0, 5.0]).max(0) > [1.8, 4.5]).all()


def test_iterations_draw_anew(monkeypatch):
    """Nothing scores, so the mean stays: candidates would repeat if keys did."""
    seen = []

    def score(model, key, state, actions, gamma, particles):
        jax.debug.callback(lambda drawn: seen.append(np.asarray(drawn)), actions, ordered=True)
        return jnp.full(actions.shape[0], -jnp.inf)

    planner = cem(SMALL, SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(cem_file, "score", score)
        planner.plan(jax.random.key(0), quadratic([0.0, 0.0]), STATE, planner.init())
        jax.effects_barrier()
    assert len(seen) == 6
    for before, after in pairwise(seen):
        assert np.abs(before - after).mean() > 0.2
    with jax.debug_key_reuse(True):
        planned(planner, quadratic([0.0, 0.0]))


def test_the_memory_is_the_plan_a_step_later_and_init_clears_it():
    planner = GOOD[WIDE.name]
    np.testing.assert_array_equal(planner.init(), np.tile([1.0, 5.0], (2, 1)))
    _, warm, info = solve(planner, [2.5, 7.0])
    np.testing.assert_allclose(warm[:-1], info.actions[1:])
    np.testing.assert_array_equal(warm[-1], [1.0, 5.0])


def test_vmap_and_a_traced_sweep_equal_single_plans():
    names = ("alpha", "gamma")
    swept = CEM(horizon=3, population=64, elites=8, iterations=6, particles=1, alpha=jnp.array([0.1, 0.5]),
                gamma=jnp.array([1.0, 0.5]))  # fmt: skip
    target = jnp.array([[0.3, -0.6], [-0.2, 0.1]])

    def one(cfg, target, key):
        planner = cem(cfg, SPEC)
        return planner.plan(key, quadratic(target), STATE, planner.init())

    keys = jax.random.split(jax.random.key(3), 2)
    single = jax.jit(one)
    actions, warms, infos = jax.jit(jax.vmap(one, (axes(SMALL, *names), 0, 0)))(swept, target, keys)
    for i in range(2):
        cfg = CEM(
            horizon=3, population=64, elites=8, iterations=6, particles=1, alpha=[0.1, 0.5][i], gamma=[1.0, 0.5][i]
        )
        action, warm, info = single(cfg, target[i], keys[i])
        np.testing.assert_allclose(actions[i], action, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(warms[i], warm, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(infos.score[i], info.score, rtol=1e-4, atol=1e-5)


def test_discrete_actions_open_a_lock():
    cfg = CEM(horizon=6, population=64, elites=8, iterations=5, particles=1)
    action, warm, info = planned(cem(cfg, CHOICE), lock([2, 0, 1, 1, 2, 0]), jnp.int32(0))
    np.testing.assert_array_equal(info.actions, [2, 0, 1, 1, 2, 0])
    assert (int(action), float(info.score), action.dtype) == (2, 6.0, jnp.int32)
    np.testing.assert_array_equal(jnp.argmax(warm[:-1], -1), [0, 1, 1, 2, 0])
    np.testing.assert_allclose(warm.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(warm[-1], 1 / 3)


def test_one_discrete_iteration_equals_numpy_and_no_action_is_ever_impossible():
    """With every score the same, the elites are the first draws."""
    flat = quadratic([0.0, 0.0])._replace(step=lambda key, state, action: StepOut(state, jnp.zeros(()), jnp.ones(())))
    cfg = CEM(horizon=2, population=50, elites=49, iterations=1, particles=1, alpha=0.2, floor=0.3)
    planner = cem(cfg, CHOICE)
    certain = jnp.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    plans = jax.jit(jax.vmap(lambda key: planner.plan(key, flat, jnp.int32(0), certain)[1]))
    tables = plans(jax.random.split(jax.random.key(0), 400))
    # The first row was shifted out: the table's mean is half the old one and half uniform, mixed with the floor.
    start = 0.5 * np.array([1.0, 0.0, 0.0]) + 0.5 / 3
    expected = 0.2 * start + 0.8 * (0.7 * start + 0.3 / 3)
    np.testing.assert_allclose(tables[:, 0].mean(0), expected, atol=0.01)
    drawn = common.draw(jax.random.key(1), common.mixed_with_uniform(certain, 0.3), 4000)
    shares = np.stack([(np.asarray(drawn) == a).mean(0) for a in range(3)], -1)
    np.testing.assert_allclose(shares, [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], atol=0.03)


@pytest.mark.parametrize("make", [lambda s: cem(CEM(horizon=2, population=32, elites=8, particles=1), s),
                                  lambda s: shooting(Shooting(horizon=2, population=32, particles=1), s)])  # fmt: skip
def test_illegal_first_actions_are_never_chosen(make):
    model = lock([2, 2])._replace(legal=lambda state: jnp.array([True, False, False]) | (state > 0))
    action, _, info = planned(make(CHOICE), model, jnp.int32(0))
    np.testing.assert_array_equal(info.actions, [0, 2])
    assert int(action) == 0


def test_shooting_takes_the_best_of_its_candidates():
    cfg = Shooting(horizon=2, population=400, particles=1)
    planner = shooting(cfg, WIDE)
    action, warm, info = solve(planner, [2.0, 3.0])
    assert warm == ()
    assert float(info.score) > -6.0
    np.testing.assert_allclose(-np.square(np.asarray(info.actions) - [2.0, 3.0]).sum(), info.score, rtol=1e-4)
    np.testing.assert_array_equal(action, info.actions[0])
    assert float(solve(planner, [2.0, 3.0], beyond=0.0)[0][0]) <= 0.0
    _, _, info = planned(shooting(Shooting(horizon=4, population=500, particles=1), CHOICE), lock([0, 2, 1, 0]),
                         jnp.int32(0))  # fmt: skip
    np.testing.assert_array_equal(info.actions, [0, 2, 1, 0])


def test_the_prior_is_tried_among_the_candidates():
    """A needle that no random candidate meets, and that the prior knows."""
    needle = jnp.array([0.123, -0.456])

    def step(key, state, action):
        hit = jnp.all(jnp.abs(action - needle) < 1e-4)
        return StepOut(state + 1.0, hit.astype(jnp.float32), jnp.ones(()))

    model = quadratic([0.0, 0.0])._replace(step=step)
    with_prior = model._replace(prior=lambda key, state: jnp.where(state[0] > 0.5, jnp.nan, needle))
    cfg = Shooting(horizon=2, population=20, particles=1, proposals=1)
    assert float(planned(shooting(cfg, SPEC), model)[2].score) == 0.0
    _, _, info = planned(shooting(cfg, SPEC), with_prior)
    np.testing.assert_allclose(info.actions, [[0.123, -0.456], [0.0, 0.0]])  # NaN becomes the centre
    assert float(info.score) == 1.0
    numbers = jnp.array([2, 0, 1, 1, 2, 0, 0, 1])
    knows = lock(numbers)._replace(prior=lambda key, state: 50.0 * jax.nn.one_hot(numbers[state], 3))
    cfg = CEM(horizon=8, population=8, elites=1, iterations=1, particles=1, proposals=2)
    np.testing.assert_array_equal(planned(cem(cfg, CHOICE), knows, jnp.int32(0))[2].actions, numbers)


def test_counts_its_model_steps():
    assert model_steps(CEM(horizon=15, population=500, iterations=5, particles=20)) == 750_000
    assert model_steps(Shooting(horizon=4, population=10, particles=2)) == 80


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cem(CEM(elites=500), SPEC), r"elites must be below population \(500\), got 500"),
        (lambda: cem(CEM(proposals=500), SPEC), r"proposals must be below population \(500\), got 500"),
        (lambda: cem(CEM(alpha=1.0), SPEC), "alpha must be at least 0 and below 1, got 1.0"),
        (lambda: shooting(Shooting(horizon=0), SPEC), "horizon must be at least 1, got 0"),
        (lambda: cem(CEM(), Spec(Box((1,)), Box((1,)), name="open")), "spec.action of open must be bounded"),
        (lambda: shooting(Shooting(), Spec(Box((1,)), Box((1,), -1.0), name="open")), "spec.action of open must be"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
