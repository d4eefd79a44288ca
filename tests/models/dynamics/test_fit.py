"""Fitting: rows held out, bootstraps, early stopping and snapshots against a plain Python account of them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.core import Box, Replay, Spec, StepOut, Transition, WorldModel
from mbrl_jax.models.dynamics import fit as fitting
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic
from mbrl_jax.models.dynamics.ensemble import ensemble
from mbrl_jax.models.dynamics.fit import FitConfig, random_order, shuffled, trainer
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian


def replay_of(rows, size, capacity):
    """A buffer of `capacity` rows, NaN (integers: 0) from row `size` on."""

    def pad(leaf):
        filler = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
        return jnp.full((capacity, *leaf.shape[1:]), filler, leaf.dtype).at[:size].set(leaf[:size])

    data = jax.tree.map(pad, rows)
    return Replay(
        lambda key, n: None, lambda i: jax.tree.map(lambda leaf: leaf[i], data), jnp.asarray(size, jnp.int32), capacity
    )


# The order of places ------------------------------------------------------------------------------------------------


def test_shuffled_is_a_permutation_for_every_length():
    places = jax.jit(lambda key, n: shuffled(random_order(key), jnp.minimum(jnp.arange(1000), n - 1), n))
    for n in [*range(1, 40), 63, 64, 65, 1000]:
        np.testing.assert_array_equal(np.sort(places(jax.random.key(n), n)[:n]), np.arange(n))


@pytest.mark.parametrize("n", [6, 8, 13])
def test_shuffled_puts_every_place_everywhere_equally_often_and_pairs_too(n):
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(random_order(key), jnp.arange(n), n)))(keys))
    places = np.stack([np.bincount(orders[:, i], minlength=n) for i in range(n)])
    assert np.abs(places / draws - 1 / n).max() < 0.02
    pairs = np.bincount(orders[:, 0] * n + orders[:, 1], minlength=n * n).reshape(n, n) / draws
    assert np.abs(pairs - (1 - np.eye(n)) / (n * (n - 1))).max() < 0.02


# Early stopping: members whose hold-out error follows a script ------------------------------------------------------


class Scripted(NamedTuple):
    clock: jax.Array  # grows by the rate at every gradient step: Adam under a constant gradient
    script: jax.Array  # [1 + T] error before the fit and after each epoch


def scripted(length):
    def errors(params, batch):
        epoch = jnp.round(params.clock).astype(jnp.int32)  # rate 1, one batch an epoch
        return jnp.full(batch.reward.shape, jax.lax.stop_gradient(params.script)[epoch])

    return WorldModel(
        init=lambda key: Scripted(jnp.zeros(()), jnp.zeros(1 + length)),
        loss=lambda params, key, data: (-params.clock, {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(state, jnp.zeros(()), jnp.ones(())),
        errors=errors,
    )


def plain_account(scripts, patience, improvement, cap):
    """Early stopping as the paper's code keeps it, from twice the error of the weights before the fit."""
    start, scripts = [2.0 * min(script[0], 1e10) for script in scripts], scripts[:, 1:]
    best, kept, flat, epochs = list(start), [0] * len(scripts), 0, 0
    while True:
        improved = False
        for i, script in enumerate(scripts):
            if (best[i] - script[epochs]) / best[i] > improvement:
                best[i], kept[i], improved = script[epochs], epochs + 1, True
        flat = 0 if improved else flat + 1
        epochs += 1
        if flat > patience or epochs >= cap:
            return [b / 2 if epoch == 0 else b for b, epoch in zip(best, kept, strict=True)], kept, epochs


RNG = np.random.default_rng(0)
SCRIPTS = {
    "flat from the first epoch": np.ones((3, 30)),
    "members improve one after another": np.stack(
        [[1.0] * 5 + [0.5] * 25, [2.0] * 10 + [0.2] * 20, [3.0] * 12 + [2.99] * 18]
    ),
    "improvements too small to count": 1.0 - 0.001 * np.tile(np.arange(30.0), (3, 1)),
    "noise": RNG.uniform(0.5, 1.5, (3, 30)) * np.exp(-0.1 * np.arange(30)),
    "NaN never counts": np.where(np.arange(3)[:, None] == 1, np.nan, RNG.uniform(0.5, 1.5, (3, 30))),
    "capped": np.exp(-0.3 * np.arange(30.0)) * np.array([[1.0], [2.0], [3.0]]),
}
SCRIPTS = {name: np.concatenate([np.full((3, 1), 9.0), script], 1) for name, script in SCRIPTS.items()}
SCRIPTS["a member is spoiled"] = np.concatenate([[[0.1], [0.6], [np.inf]], np.ones((3, 30))], 1)


def test_early_stopping_and_snapshots_follow_the_plain_account():
    rows = Transition(*[jnp.zeros(20)] * 6)
    cfg = FitConfig(members=3, elites=2, lr=1.0, batch=16, max_epochs=25)
    fitter = trainer(scripted(30), cfg)

    @jax.jit
    def fit(script):
        state = fitter.init(jax.random.key(0))
        state = state._replace(params=state.params._replace(script=script))
        return fitter.fit(jax.random.key(1), state, replay_of(rows, 20, 24))

    for name, scripts in SCRIPTS.items():
        state, metrics = fit(jnp.asarray(scripts, jnp.float32))
        best, kept, epochs = plain_account(np.asarray(scripts, np.float32), 5, 0.01, 25)
        assert metrics["epochs"] == epochs, name
        np.testing.assert_allclose(state.scores, best, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(state.params.clock, kept, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(state.elites, np.argsort(best, kind="stable")[:2], err_msg=name)
        np.testing.assert_array_equal(np.asarray(state.opt[0].mu.clock) != 0, np.asarray(kept) > 0, err_msg=name)
        np.testing.assert_allclose(metrics["elite_error"], np.sort(best)[:2].mean(), rtol=1e-5, err_msg=name)
    assert plain_account(SCRIPTS["flat from the first epoch"], 5, 0.01, 25)[2] == 7  # once better, six times flat


# Which rows are used: members that remember what they saw -----------------------------------------------------------


class Witness(NamedTuple):
    seen: jax.Array  # [N] grows where a row was trained on
    mask: jax.Array  # [capacity] rows the scales were set from


def test_held_out_rows_are_never_trained_on_and_bootstraps_are_each_members_own():
    n, capacity, members = 60, 100, 8
    witness = WorldModel(
        init=lambda key: Witness(jnp.zeros(n), jnp.zeros(capacity)),
        loss=lambda params, key, data: (-jnp.sum(params.seen[data.action]), {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(state, jnp.zeros(()), jnp.ones(())),
        calibrate=lambda params, rows, mask: params._replace(mask=mask.astype(jnp.float32)),
        errors=lambda params, batch: batch.reward,
    )
    blank = jnp.zeros(n)
    rows = Transition(blank, jnp.arange(n), jnp.arange(n) ** 2.0, blank, blank, blank)
    fitter = trainer(witness, FitConfig(members=members, elites=2, batch=16, holdout=0.25))

    @jax.jit
    def fit(key):
        return fitter.fit(key, fitter.init(jax.random.key(0)), replay_of(rows, n, capacity))

    state, metrics = fit(jax.random.key(1))
    used = np.asarray(state.params.mask[0]) == 1
    assert used[:n].sum() == 45
    assert not used[n:].any()
    held = ~used[:n]
    # The score is the mean over exactly the held-out rows, the same for all members.
    np.testing.assert_allclose(state.scores, np.full(members, np.mean(np.arange(n)[held] ** 2.0)), rtol=1e-5)
    seen = np.asarray(state.params.seen) > 0
    assert not seen[:, held].any()
    assert (seen.any(0) == ~held).all()
    assert len(np.unique(seen, axis=0)) == members
    assert abs(seen[:, ~held].mean() - (1 - 1 / np.e)) < 0.06  # what a bootstrap leaves of its rows
    assert metrics["epochs"] == 7
    # The bootstrap is drawn once a fit: epochs after the first show no row that the first did not. The kept
    # parameters are the first epoch's; Adam's second moments remember all seven.
    np.testing.assert_array_equal(np.asarray(state.opt[0].nu.seen) > 0, seen)
    other = fit(jax.random.key(2))[0]
    assert not np.array_equal(other.params.mask[0], state.params.mask[0])


# The pieces on their own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "held_out", "trained"), [(0, 1, 1), (1, 1, 1), (3, 1, 2), (50, 12, 38), (90, 15, 75)])
def test_a_holdout_split_is_a_quarter_of_the_rows_and_at_most_its_limit(size, held_out, trained):
    replay = replay_of(Transition(*[jnp.zeros(90)] * 6), size, 100)
    split = fitting.holdout_split(jax.random.key(0), replay, holdout=0.25, max_holdout=15)
    assert (split.rows, split.held_out, split.trained) == (max(size, 1), held_out, trained)
    places = fitting.row_at(split, jnp.arange(max(size, 1)))
    np.testing.assert_array_equal(np.sort(places), np.arange(max(size, 1)))


def test_bootstraps_and_batches_of_an_epoch():
    """In an epoch a member's batches hold its bootstrap once, then start over to fill the last batch."""
    rows = Transition(*[jnp.arange(20)] * 6)
    replay = replay_of(rows, 20, 24)
    split = fitting.holdout_split(jax.random.key(0), replay, holdout=0.3, max_holdout=99)
    drawn = fitting.bootstrap(jax.random.key(1), split, members=2, capacity=24)
    assert drawn.shape == (2, 24)
    assert ((drawn >= 0) & (drawn < 14)).all()
    orders = jax.vmap(random_order)(jax.random.split(jax.random.key(2), 2))
    batches = [fitting.member_batches(replay, split, drawn, orders, jnp.int32(i), batch=4).obs for i in range(4)]
    seen = np.concatenate(batches, 1)
    assert seen.shape == (2, 16)
    for w in range(2):
        own = np.asarray(fitting.row_at(split, split.held_out + drawn[w, :14]))
        np.testing.assert_array_equal(np.sort(seen[w, :14]), np.sort(own))
    np.testing.assert_array_equal(seen[:, 14:], seen[:, :2])


def test_one_epoch_is_a_gradient_step_per_batch_and_the_best_is_kept():
    rows = Transition(*[jnp.arange(1.0, 11.0)] * 6)
    replay = replay_of(rows, 10, 10)
    split = fitting.holdout_split(jax.random.key(0), replay, holdout=0.2, max_holdout=99)
    member = WorldModel(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, key, data: (params * jnp.mean(jnp.ones_like(data.reward)), {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(state, jnp.zeros(()), jnp.ones(())),
        errors=lambda params, batch: params * batch.reward,
    )
    whole, sgd, start = ensemble(member, 2), optax.sgd(0.5), jnp.array([10.0, 20.0])
    drawn = fitting.bootstrap(jax.random.key(1), split, members=2, capacity=10)
    params, _, loss = fitting.epoch(
        jax.random.key(2), start, sgd.init(start), replay, split, drawn, model=whole, optimizer=sgd, batch=3
    )
    np.testing.assert_allclose(params, [8.5, 18.5])  # 8 training rows are three batches, of slope 1
    np.testing.assert_allclose(loss, (10 + 9.5 + 9 + 20 + 19.5 + 19) / 6)
    held_out = np.asarray(rows.reward[fitting.row_at(split, jnp.arange(2))])
    errors = fitting.holdout_errors(params, replay, split, model=member, batch=3)
    np.testing.assert_allclose(errors, np.array([8.5, 18.5]) * held_out.mean(), rtol=1e-6)

    zero = jnp.int32(0)
    before = fitting.Progress(start, (), start, jnp.array([100.0, 10.0]), zero + 2, zero, jnp.zeros(()))
    after = fitting.keep_best(before, params, jnp.array([50.0, 9.95]), improvement=0.01)
    np.testing.assert_array_equal(after.kept, [8.5, 20.0])  # the second fell by less than a hundredth
    np.testing.assert_array_equal(after.best, [50.0, 10.0])
    assert after.flat == 0
    assert fitting.keep_best(after, params, jnp.array([50.0, jnp.nan]), improvement=0.01).flat == 1


# Real members -------------------------------------------------------------------------------------------------------


def true_std(obs):
    return 0.05 + 0.3 / (1 + np.exp(-4 * obs[..., 0]))


def noisy_rows(n, seed):
    """o' = o + A [o, a] + noise whose deviation depends on o_0; r = 3 o_1 - a; ends where o_0 > 0.6."""
    rng = np.random.default_rng(seed)
    obs, action = rng.uniform(-1, 1, (n, 2)), rng.uniform(-1, 1, (n, 1))
    change = np.concatenate([obs, action], 1) @ np.array([[0.2, -0.5], [0.4, 0.1], [1.0, 0.3]])
    clean = obs + change
    next_obs = clean + true_std(obs)[:, None] * rng.normal(size=(n, 2))
    reward, end = 3 * obs[:, 1] - action[:, 0], obs[:, 0] > 0.6
    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return Transition(f32(obs), f32(action), f32(reward), f32(1.0 - end), f32(next_obs), jnp.asarray(end)), clean


def test_gaussian_members_learn_mean_variance_and_termination():
    model = gaussian(GaussianConfig(hidden=(32,)), Spec(Box((2,)), Box((1,))))
    cfg = FitConfig(members=2, elites=1, batch=64, lr=5e-3, patience=20, max_epochs=40)
    fitter = trainer(model, cfg)
    rows, _ = noisy_rows(2000, 0)

    @jax.jit
    def fit(key, state):
        return fitter.fit(key, state, replay_of(rows, 2000, 2100))

    with jax.debug_key_reuse(True):
        init = jax.jit(fitter.init)(jax.random.key(0))
        state, metrics = fit(jax.random.key(1), init)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))

    # The score each member is ranked by is the error of just the parameters that came back, on the same rows.
    held = jax.jit(shuffled)(random_order(jax.random.split(jax.random.key(1), 3)[0]), jnp.arange(400), 2000)
    assert model.errors is not None
    errors = jax.jit(jax.vmap(model.errors, (0, None)))
    again = errors(state.params, jax.tree.map(lambda leaf: leaf[held], rows)).mean(1)
    np.testing.assert_allclose(again, state.scores, rtol=1e-4)
    assert state.elites[0] == np.argmin(state.scores)

    fresh, clean = noisy_rows(200, 1)
    params = jax.tree.map(lambda leaf: leaf[state.elites[0]], state.params)
    keys = jax.random.split(jax.random.key(2), (200, 200))
    step = jax.vmap(jax.vmap(model.step, (None, 0, None, None)), (None, 0, 0, 0))
    out = jax.jit(step)(params, keys, fresh.obs, fresh.action)
    std, expected = np.asarray(out.state).std(1).mean(1), true_std(np.asarray(fresh.obs))
    assert np.abs(np.asarray(out.state).mean(1) - clean).mean() < 0.06  # noise alone is 0.2, the change 0.5
    assert np.abs(std / expected - 1).mean() < 0.2  # over deviations from 0.06 to 0.34
    assert np.corrcoef(std, expected)[0, 1] > 0.95
    np.testing.assert_allclose(np.asarray(out.reward).mean(1), fresh.reward, atol=0.25)
    clear = np.abs(np.asarray(fresh.obs)[:, 0] - 0.6) > 0.05
    assert ((out.discount[:, 0] > 0.5) == (fresh.discount == 1))[clear].mean() > 0.99

    # A second fit goes on from the first one's weights and optimiser.
    later, after = fit(jax.random.key(3), state)
    assert after["holdout_error"] < 1.5 * metrics["holdout_error"]
    assert later.opt[0].count > state.opt[0].count > init.opt[0].count


def test_deterministic_members_learn_a_linear_system_and_stop_after_the_sixth_flat_epoch():
    model = deterministic(DeterministicConfig(hidden=(16,), weight_decay=0.0), Spec(Box((2,)), Box((1,)), None, False))
    rows, clean = noisy_rows(300, 0)
    rows = rows._replace(next_obs=jnp.asarray(clean, jnp.float32), discount=jnp.ones(300))

    @jax.jit
    def run(lr, size):
        fitter = trainer(model, FitConfig(members=2, elites=2, batch=32, lr=lr, max_epochs=60))
        replay = replay_of(rows, 300, 340)._replace(size=size)
        return fitter.fit(jax.random.key(1), fitter.init(jax.random.key(0)), replay)

    # Nothing moves at rate 0: the first epoch improves on the start value and six flat ones follow.
    state, metrics = run(0.0, 300)
    assert metrics["epochs"] == 7
    assert metrics["holdout_error"] > 0.5
    state, metrics = run(1e-2, 300)
    assert metrics["holdout_error"] < 5e-3  # of targets scaled to variance 1
    assert metrics["elite_error"] == metrics["holdout_error"]
    for size in (1, 2, 3, 10):
        state, metrics = run(1e-2, size)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics))), size


def same(got, expected):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-4)
    jax.tree.map(close, (got.params, got.scores), (expected.params, expected.scores))


def test_vmapped_seeds_rates_and_sizes_are_the_single_fits():
    model = deterministic(DeterministicConfig(hidden=(4,)), Spec(Box((2,)), Box((1,)), None, False))
    rows, _ = noisy_rows(40, 0)

    def run(key, size, lr):
        fitter = trainer(model, FitConfig(members=2, elites=1, batch=8, lr=lr, max_epochs=20))
        return fitter.fit(key, fitter.init(key), replay_of(rows, 40, 40)._replace(size=size))

    cases = jax.random.split(jax.random.key(0), 3), jnp.array([40, 12, 40]), jnp.array([1e-2, 1e-2, 0.0])
    many, metrics = jax.jit(jax.vmap(run))(*cases)
    np.testing.assert_array_equal(metrics["epochs"], [20, 20, 7])  # a fit that is done waits and keeps its result
    one = jax.jit(run)
    for i in range(3):
        state, single = one(*(case[i] for case in cases))
        assert single["epochs"] == metrics["epochs"][i]
        np.testing.assert_array_equal(state.elites, many.elites[i])
        same(state, jax.tree.map(lambda leaf, i=i: leaf[i], many))


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"members": 3, "elites": 4}, "elites"), ({"batch": 0}, "batch"), ({"holdout": 1.0}, "holdout")],
)
def test_settings_are_checked(setting, words):
    with pytest.raises(ValueError, match=words):
        trainer(scripted(1), FitConfig(**setting))


def test_a_model_without_errors_is_refused():
    with pytest.raises(ValueError, match="errors"):
        trainer(scripted(1)._replace(errors=None), FitConfig())
