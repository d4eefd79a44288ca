"""MPPI in both forms: one update against NumPy, the effect of sigma, what init clears, and known optima."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import CHOICE, SPEC, WIDE, lock, quadratic, solve

from mbrl_jax.core import StepOut
from mbrl_jax.core.config import axes, replace
from mbrl_jax.planners.mpc import MPPI, MPPIElites, mppi, mppi_elites

mppi_file = importlib.import_module("mbrl_jax.planners.mpc.mppi")

SMALL = MPPI(horizon=3, population=64, iterations=2, particles=1)
ELITES = MPPIElites(horizon=3, population=32, elites=6, iterations=2, proposals=4)
STATE = jnp.zeros(1)
FLAT = quadratic([0.0, 0.0])._replace(step=lambda key, state, action: StepOut(state, jnp.zeros(()), jnp.ones(())))


def watch(monkeypatch, replaced=None):
    """Records the candidates of each iteration and their scores."""
    seen, score = [], mppi_file.score

    def recording(*args):
        scores = score(*args) if replaced is None else replaced(args[3])
        jax.debug.callback(lambda *x: seen.append([np.asarray(leaf) for leaf in x]), args[3], scores, ordered=True)
        return scores

    monkeypatch.setattr(mppi_file, "score", recording)
    return seen


def planned(planner, model, state=STATE, key=0, warm=None):
    warm = planner.init() if warm is None else warm
    out = jax.block_until_ready(jax.jit(lambda key: planner.plan(key, model, state, warm))(jax.random.key(key)))
    jax.effects_barrier()
    return out


def test_finds_optima_and_shuns_regions_without_scores():
    cfg = MPPI(horizon=2, population=500, iterations=8, particles=1, kappa=30.0, sigma=0.3, beta=1.0)
    planner = mppi(cfg, SPEC)
    action, _, _ = solve(planner, [0.3, -0.6])
    np.testing.assert_allclose(action, [0.3, -0.6], atol=0.05)
    action, _, _ = solve(planner, [5.0, -5.0])
    np.testing.assert_allclose(action, [1.0, -1.0], atol=0.05)
    for bad in (jnp.nan, jnp.inf):
        action, _, info = solve(planner, [0.9, 0.5], beyond=0.2, bad=bad)
        assert jnp.isfinite(info.score)
        assert 0.0 < action[0] <= 0.2


def test_updates_equal_numpy(monkeypatch):
    seen = watch(monkeypatch)
    planner = mppi(SMALL, WIDE)
    warm = planner.init()._replace(action=jnp.array([2.0, 1.0]))
    action, later, info = planned(planner, quadratic([2.5, 7.0]), warm=warm)
    assert len(seen) == 2
    first, second = ((samples - samples.mean(0)) / samples.std(0) for samples, _ in seen)
    assert abs((first * second).mean()) < 0.25, "iterations draw anew: the same noise would move with the mean"
    means = []
    for samples, scores in seen:
        np.testing.assert_allclose(scores, -np.square(samples - [2.5, 7.0]).sum((1, 2)), rtol=1e-4)
        weights = np.exp(scores - scores.max())
        means.append((weights[:, None, None] * samples).sum(0) / weights.sum())
    np.testing.assert_allclose(info.actions, means[-1], rtol=1e-4)
    np.testing.assert_allclose(action, means[-1][0], rtol=1e-4)
    np.testing.assert_allclose(later.mean, np.concatenate([means[-1][1:], means[-1][-1:]]), rtol=1e-4)
    np.testing.assert_allclose(later.action, means[-1][0], rtol=1e-4)


def test_smoothing_equals_a_loop():
    drawn = np.asarray(jax.random.normal(jax.random.key(0), (5, 4, 2)))
    last = np.array([1.0, -2.0])
    got = mppi_file.smoothed(jnp.asarray(last, jnp.float32), drawn, 0.7)
    for n in range(5):
        before = last
        for t in range(4):
            before = 0.7 * drawn[n, t] + 0.3 * before
            np.testing.assert_allclose(got[n, t], before, rtol=1e-5, atol=1e-6)


def test_sigma_sets_how_far_candidates_lie(monkeypatch):
    seen = watch(monkeypatch)

    @jax.jit
    def plan(sigma):
        cfg = MPPI(horizon=2, population=2000, iterations=1, particles=1, sigma=sigma, beta=1.0)
        planner = mppi(cfg, WIDE)
        return planner.plan(jax.random.key(0), quadratic([1.5, 5.0]), STATE, planner.init())[0]

    moved = []
    for sigma in (0.01, 0.1, 0.5):
        moved.append(float(plan(sigma)[0]) - 1.0)
        jax.effects_barrier()
        drawn = (seen[-1][0] - [1.0, 5.0]) / [2.0, 5.0]
        if sigma < 0.4:  # beyond, the bounds cut it
            np.testing.assert_allclose(drawn.std((0, 1)), sigma, rtol=0.06)
    assert moved[0] < 0.01 < 0.02 < moved[1] < 0.1 < moved[2]


def test_init_clears_the_mean_and_the_last_action():
    planner = mppi(SMALL, WIDE)
    plan = jax.jit(lambda warm: planner.plan(jax.random.key(0), quadratic([2.5, 7.0]), STATE, warm))
    first, warm, _ = plan(planner.init())
    again, _, _ = plan(planner.init())
    later, _, _ = plan(warm)
    np.testing.assert_array_equal(first, again)
    assert (first != later).all()
    np.testing.assert_array_equal(planner.init().mean, np.tile([1.0, 5.0], (3, 1)))
    np.testing.assert_array_equal(planner.init().action, [1.0, 5.0])


def test_without_any_finite_score_the_plan_stays():
    nothing = quadratic([0.0, 0.0], beyond=-2.0)
    planner = mppi(SMALL, SPEC)
    warm = planner.init()._replace(mean=jnp.full((3, 2), 0.25))
    action, _, info = planned(planner, nothing, warm=warm)
    np.testing.assert_array_equal(action, [0.25, 0.25])
    assert info.score == -jnp.inf
    planner = mppi_elites(MPPIElites(population=32, elites=6, iterations=2, explore=0.0), SPEC)
    action, _, info = planned(planner, nothing, warm=jnp.full((3, 2), 0.25))
    np.testing.assert_array_equal(action, [0.25, 0.25])
    assert info.score == -jnp.inf


def test_discrete_actions_open_a_lock_and_one_update_equals_numpy(monkeypatch):
    cfg = MPPI(horizon=4, population=200, iterations=4, particles=1, kappa=2.0)
    action, warm, info = planned(mppi(cfg, CHOICE), lock([2, 0, 1, 1]), jnp.int32(0))
    np.testing.assert_array_equal(info.actions, [2, 0, 1, 1])
    assert (int(action), action.dtype) == (2, jnp.int32)
    seen = watch(monkeypatch)
    cfg = MPPI(horizon=4, population=2000, iterations=1, particles=1, kappa=0.5, explore=0.6)
    start = jnp.tile(jnp.array([0.0, 1.0, 0.0]), (4, 1))
    _, warm, _ = planned(mppi(cfg, CHOICE), lock([2, 0, 1, 1]), jnp.int32(0), warm=start)
    (samples, scores), *_ = seen
    shares = np.stack([(samples == a).mean(0) for a in range(3)], -1)
    np.testing.assert_allclose(shares, np.tile([0.2, 0.6, 0.2], (4, 1)), atol=0.05)
    np.testing.assert_array_equal(scores, (samples == [2, 0, 1, 1]).sum(1))
    weights = np.exp(0.5 * (scores - scores.max()))
    weights /= weights.sum()
    table = np.einsum("n,nha->ha", weights, np.eye(3)[samples])
    np.testing.assert_allclose(warm[:-1], table[1:], atol=1e-5)
    np.testing.assert_allclose(warm[-1], 1 / 3)


def test_the_form_of_elites_equals_numpy(monkeypatch):
    needle, target = np.array([0.9, 0.9]), np.array([0.2, -0.4])
    model = quadratic(target)._replace(
        prior=lambda key, state: jnp.asarray(needle), value=lambda key, state: 3.0 + state[0]
    )
    seen = watch(monkeypatch)
    cfg = MPPIElites(horizon=3, population=32, elites=6, iterations=2, proposals=4, kappa=2.0, min_std=0.3,
                     gamma=0.9)  # fmt: skip
    warm = jnp.full((3, 2), 0.1)

    @jax.jit
    def plan(explore):
        return mppi_elites(replace(cfg, {"explore": explore}), SPEC).plan(jax.random.key(0), model, STATE, warm)

    noisy = plan(1.0)
    jax.effects_barrier()
    seen.clear()
    action, later, info = plan(0.0)
    jax.effects_barrier()
    mean, std = np.full((3, 2), 0.1), np.full((3, 2), 2.0)
    for samples, scores in seen:
        np.testing.assert_allclose(samples[-4:], np.tile(needle, (4, 3, 1)), rtol=1e-6)
        own = -np.square(samples - target).sum(-1) @ (0.9 ** np.arange(3)) + 0.9**3 * 3.0
        np.testing.assert_allclose(scores, own, rtol=1e-4)
        best = np.argsort(-scores)[:6]
        weights = np.exp(2.0 * (scores[best] - scores.max()))
        weights /= weights.sum()
        mean = np.einsum("k,kha->ha", weights, samples[best])
        std = np.clip(np.sqrt(np.einsum("k,kha->ha", weights, np.square(samples[best] - mean))), 0.3, 2.0)
    assert (std == 0.3).any()
    assert (std > 0.3).any()
    np.testing.assert_allclose(later, np.concatenate([mean[1:], np.zeros((1, 2))]), atol=1e-5)
    assert any(np.allclose(info.actions, samples[i]) for i in best)
    np.testing.assert_array_equal(action, info.actions[0])
    np.testing.assert_array_equal(noisy[2].actions, info.actions)
    assert (noisy[0] != action).all()


def test_elites_are_drawn_by_weight_and_noise_has_the_plans_deviation():
    """One iteration on a constant reward: all elites have the same weight, and deviations are at their minimum."""
    cfg = MPPIElites(horizon=1, population=3, elites=2, iterations=1, proposals=0, min_std=0.1, max_std=0.1)
    planner = mppi_elites(cfg, SPEC)
    plan = jax.jit(jax.vmap(lambda key: planner.plan(key, FLAT, STATE, planner.init())))
    actions, _, infos = plan(jax.random.split(jax.random.key(0), 4000))
    noise = np.asarray(actions - infos.actions[:, 0])
    np.testing.assert_allclose(noise.std(0), 0.1, rtol=0.06)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.01)
    # a reward that prefers one elite by log 3 has it drawn in 3 of 4 plans
    scores = jnp.array([np.log(3.0), 0.0])
    model = FLAT._replace(
        step=lambda key, state, action: StepOut(state, jnp.where(action[0] > 0.0, scores[0], scores[1]), jnp.ones(()))
    )
    cfg = MPPIElites(
        horizon=1, population=40, elites=39, iterations=1, proposals=0, kappa=1.0, max_std=0.5, explore=0.0
    )
    planner = mppi_elites(cfg, SPEC)
    plan = jax.jit(jax.vmap(lambda key: planner.plan(key, model, STATE, planner.init())[0]))
    share = float((plan(jax.random.split(jax.random.key(1), 4000))[:, 0] > 0.0).mean())
    assert abs(share - 0.75) < 0.03


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        planned(mppi(SMALL, SPEC), quadratic([0.0, 0.0]))
        planned(mppi_elites(ELITES, SPEC), quadratic([0.0, 0.0]))


def test_vmap_and_a_traced_sweep_equal_single_plans():
    small = dict(population=32, iterations=2)
    sweeps = [
        (mppi, MPPI, dict(horizon=3, particles=1, **small), {"kappa": [1.0, 5.0], "sigma": [0.5, 0.1]}),
        (mppi_elites, MPPIElites, dict(elites=6, **small), {"kappa": [0.5, 5.0], "max_std": [2.0, 0.5]}),
    ]
    keys = jax.random.split(jax.random.key(3), 2)
    for make, record, base, values in sweeps:
        swept = record(**base, **{name: jnp.array(pair) for name, pair in values.items()})

        def one(cfg, key, make=make):
            planner = make(cfg, SPEC)
            return planner.plan(key, quadratic([0.3, -0.6]), STATE, planner.init())

        single = jax.jit(one)
        actions, _, infos = jax.jit(jax.vmap(one, (axes(record(**base), *values), 0)))(swept, keys)
        for i in range(2):
            cfg = record(**base, **{name: pair[i] for name, pair in values.items()})
            action, _, info = single(cfg, keys[i])
            np.testing.assert_allclose(actions[i], action, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(infos.score[i], info.score, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mppi(MPPI(sigma=0.0), SPEC), "sigma must be above 0, got 0.0"),
        (lambda: mppi(MPPI(kappa=-1.0), SPEC), "kappa must be above 0, got -1.0"),
        (lambda: mppi(MPPI(proposals=350), SPEC), r"proposals must be below population \(350\), got 350"),
        (lambda: mppi_elites(MPPIElites(elites=512), SPEC), r"elites must be below population \(512\), got 512"),
        (lambda: mppi_elites(MPPIElites(), CHOICE), "spec.action of choices must be a Box"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
