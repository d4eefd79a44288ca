"""Imagined replay: what its batches hold, and what a refresh writes; MBPO and deep Dyna test it at work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import imagined_replay
from mbrl_jax.buffers.uniform import Ring, append
from mbrl_jax.core import Box, Discrete, Replay, Spec, StepOut, Transition, WorldModel, tree
from mbrl_jax.models.dynamics.fit import FitState, Trainer


def rows(value: float, n: int) -> Transition:
    x = jnp.full(n, value)
    return Transition(x[:, None], x[:, None], x, x, x[:, None], x > 0)


def always(value: float) -> Replay:
    return Replay(lambda key, n: rows(value, n), lambda index: rows(value, 1), jnp.int32(9), 9)


@pytest.mark.parametrize(("ratio", "real"), [(0.05, 12), (0.0, 0), (1.0, 256), (0.5, 128)])
def test_real_and_imagined_rows_are_mixed_within_each_batch(ratio, real):
    imagined = Ring(rows(2.0, 30), jnp.int32(0), jnp.int32(30))

    def draw(key):
        return imagined_replay.mixed_batch(key, always(1.0), imagined, 256, real_ratio=ratio)

    batch = jax.jit(draw)(jax.random.key(0))
    assert int(jnp.sum(batch.reward == 1)) == real
    assert int(jnp.sum(batch.reward == 2)) == 256 - real
    assert all(leaf.shape[0] == 256 for leaf in jax.tree.leaves(batch))
    mixed = imagined_replay.mixed_batches(always(1.0), imagined, real_ratio=ratio)
    jax.tree.map(np.testing.assert_array_equal, mixed.sample(jax.random.key(0), 256), batch)


def test_a_share_just_below_a_whole_row_in_binary_loses_no_row():
    imagined = Ring(rows(2.0, 30), jnp.int32(0), jnp.int32(30))
    batch = imagined_replay.mixed_batch(jax.random.key(0), always(1.0), imagined, 100, real_ratio=0.29)
    assert int(jnp.sum(batch.reward == 1)) == 29


def test_no_batch_holds_a_row_from_the_empty_part_of_the_ring():
    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0))
    ring = imagined_replay.empty_ring(spec, 100)._replace(size=jnp.int32(3))
    written = jax.tree.map(
        lambda x: jnp.where(jnp.arange(100).reshape(-1, *[1] * (x.ndim - 1)) < 3, jnp.ones_like(x), x), ring.rows
    )
    ring = ring._replace(rows=written)
    batch = imagined_replay.mixed_batch(jax.random.key(0), always(5.0), ring, 300, real_ratio=0.0)
    np.testing.assert_array_equal(batch.reward, 1)
    alone = imagined_replay.imagined_batches(always(5.0), ring).sample(jax.random.key(0), 300)
    np.testing.assert_array_equal(alone.reward, 1)


def test_an_empty_ring_is_like_the_environments_transitions():
    ring = imagined_replay.empty_ring(Spec(Box((2, 3)), Discrete(4)), 7)
    assert (ring.rows.obs.shape, ring.rows.action.shape, ring.rows.action.dtype) == ((7, 2, 3), (7,), jnp.int32)
    assert (int(ring.head), int(ring.size)) == (0, 0)


def test_a_refresh_fits_then_rolls_the_policy_out_in_the_elites():
    """Members add their parameter, the fit makes it 10 times as large, and only the elites, 20 and 40, are used."""
    member = WorldModel(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, key, data: (params, {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(state + params, params + action, jnp.ones(())),
    )
    fit = lambda key, state, replay: (state._replace(params=10 * state.params), {"epochs": jnp.int32(1)})  # noqa: E731
    before = FitState(jnp.array([1.0, 2.0, 3.0, 4.0]), (), jnp.array([3, 1]), jnp.zeros(4))
    ring = imagined_replay.empty_ring(Spec(Box((1,)), Discrete(2)), 40)

    def refresh(key, capacity):
        return imagined_replay.refresh(
            key, before, ring, always(0.5), model=Trainer(lambda key: before, fit), member=member,
            policy=lambda key, obs: jnp.int32(1), rollouts=6, horizon=3, capacity=capacity,
        )  # fmt: skip

    fitted, imagined, metrics = jax.jit(refresh, static_argnums=1)(jax.random.key(0), None)
    np.testing.assert_array_equal(fitted.params, [10, 20, 30, 40])
    assert (int(imagined.size), int(imagined.head), int(metrics["epochs"])) == (18, 18, 1)
    written = jax.tree.map(lambda x: np.asarray(x[:18]), imagined.rows)
    moved = written.next_obs[:, 0] - written.obs[:, 0]
    np.testing.assert_array_equal(np.unique(moved, return_counts=True), [[20, 40], [9, 9]])
    np.testing.assert_array_equal(written.reward, moved + 1)
    np.testing.assert_array_equal(written.obs[:6, 0], 0.5)
    np.testing.assert_array_equal(np.sort(written.obs[6:12, 0]), np.sort(written.next_obs[:6, 0]))
    assert int(jax.jit(refresh, static_argnums=1)(jax.random.key(0), 12)[1].size) == 12


def test_imagined_rewards_have_a_bonus_where_the_elites_disagree():
    """Elites 3 and 1 say o' = w o with w 4 and 2 and expect a reward of w a, about which they disagree likewise."""
    member = WorldModel(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, key, data: (params, {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(params * state, params * action, jnp.ones(())),
        moments=lambda params, obs, action: (jnp.append(params * obs, params * action), jnp.ones(2)),
    )
    before = FitState(jnp.array([1.0, 2.0, 90.0, 4.0]), (), jnp.array([3, 1]), jnp.zeros(4))
    rng = np.random.default_rng(0)
    obs, new = rng.normal(size=(2, 50, 1)).astype(np.float32)
    reward = rng.normal(size=50).astype(np.float32)
    real = Transition(*map(jnp.asarray, (obs, obs[:, 0], reward, reward, new, reward > 9)))
    replay = Replay(lambda key, n: jax.tree.map(lambda x: x[:n], real), lambda i: tree.take(real, i), jnp.int32(50), 50)

    def refresh(key, bonus):
        return imagined_replay.refresh(
            key, before, imagined_replay.empty_ring(Spec(Box((1,)), Box((), -1.0, 1.0)), 40), replay,
            model=Trainer(lambda key: before, lambda key, state, replay: (state, {})), member=member,
            policy=lambda key, obs: jnp.sin(obs[0]), rollouts=6, horizon=3, bonus=bonus,
        )[1]  # fmt: skip

    ring = jax.jit(refresh)(jax.random.key(0), 0.5)
    rows = jax.tree.map(lambda x: np.asarray(x[:18], np.float64), ring.rows)
    weights = np.round(rows.next_obs[:, 0] / rows.obs[:, 0])
    assert set(weights) == {2.0, 4.0}
    unsure = 0.5 * (rows.obs[:, 0] ** 2 / np.var(new - obs) + rows.action**2 / np.var(reward))  # Var(2, 4) = 1
    np.testing.assert_allclose(rows.reward, weights * rows.action + 0.5 * unsure, rtol=2e-4)
    plain = jax.jit(lambda key: refresh(key, None))(jax.random.key(0))
    np.testing.assert_allclose(plain.rows.reward[:18], weights * rows.action, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("written", "keep"), [(5, 3), (9, 4), (10, 10), (23, 10), (7, 0)])
def test_the_newest_rows_of_a_ring_are_the_last_ones_written(written, keep):
    ring = imagined_replay.empty_ring(Spec(Box((1,)), Box((1,), -1.0, 1.0)), 10)
    for i in range(written):
        ring = append(ring, rows(float(i), 1))
    kept = jax.jit(imagined_replay.newest)(ring, jnp.int32(keep))
    assert int(kept.size) == keep
    np.testing.assert_array_equal(kept.rows.reward[:keep], np.arange(written - keep, written))
    more = append(kept, rows(99.0, 1))
    assert float(more.rows.reward[keep % 10]) == 99


def test_steps_are_trusted_where_members_disagree_no_more_than_on_most_real_rows():
    """Members 1 and 3 of the form  o' = w o  are the elites: they disagree in proportion to |o|."""
    member = WorldModel(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, key, data: (params, {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(params * state, jnp.zeros(()), jnp.ones(())),
        moments=lambda params, obs, action: (params * obs, jnp.ones(1)),
    )
    fitted = FitState(jnp.array([1.0, 2.0, 50.0, 4.0]), (), jnp.array([3, 1]), jnp.zeros(4))
    obs = jnp.linspace(-1.0, 1.0, 201)[:, None]
    real = Transition(obs, obs, obs[:, 0], obs[:, 0], obs, obs[:, 0] > 0)

    def trusted(quantile):
        spend = imagined_replay.disagreement_cut(member, fitted, real, quantile=quantile).spend
        return np.asarray(jax.vmap(lambda o: spend((), o[None], jnp.zeros(1))[1])(jnp.linspace(-2, 2, 401)))

    for quantile in (0.5, 0.9, 1.0):  # of |o|, uniform on [0, 1]
        np.testing.assert_allclose(trusted(quantile).mean(), quantile / 2, atol=0.01)
    with pytest.raises(ValueError, match="cut needs a member with moments"):
        imagined_replay.disagreement_cut(member._replace(moments=None), fitted, real, quantile=0.5)
    with pytest.raises(ValueError, match="cut needs a member with moments"):
        imagined_replay.information_cut(member._replace(moments=None), fitted, real, quantile=0.5, budget=1.0)


def test_rollouts_end_with_the_bits_that_they_may_lose_in_one_step_and_in_all():
    """Elites 1 and 3 of the form  o' = w o  differ by |o| about their mean: w = o², with noise of variance 1."""
    member = WorldModel(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, key, data: (params, {}),
        encode=lambda params, key, obs: obs,
        step=lambda params, key, state, action: StepOut(params * state, jnp.zeros(()), jnp.ones(())),
        moments=lambda params, obs, action: (params * obs, jnp.ones(1)),
    )
    fitted = FitState(jnp.array([1.0, 2.0, 50.0, 4.0]), (), jnp.array([3, 1]), jnp.zeros(4))
    obs = jnp.linspace(-1.0, 1.0, 201)[:, None]
    real = Transition(obs, obs, obs[:, 0], obs[:, 0], obs, obs[:, 0] > 0)
    cut = imagined_replay.information_cut(member, fitted, real, quantile=0.9, budget=4.0)

    def entropy(o):
        return 0.5 * np.log2(2 * np.pi * np.e * o**2 / (1 + o**2))

    low, high = np.quantile(entropy(np.abs(np.linspace(-1, 1, 201)) + 1e-30), [0.1, 0.9])
    for o in (0.05, 0.3, 0.8, 0.91, 2.0):
        spent, fine = cut.spend(cut.start, jnp.full(1, o), jnp.zeros(1))
        bits = max(0.0, entropy(o) - low + 1)
        np.testing.assert_allclose(spent, bits, rtol=1e-4)
        assert bool(fine) == (bits <= high - low + 1 and bits <= 4)
        again, fine = cut.spend(spent, jnp.full(1, 0.1), jnp.zeros(1))  # at the lower quantile: one bit
        np.testing.assert_allclose(again, bits + max(0.0, entropy(0.1) - low + 1), rtol=1e-4)
        assert bool(fine) == (bits + 1 <= 4)


def test_uneven_rollouts_are_refused():
    imagined_replay.check_rollouts(40, 4)
    with pytest.raises(ValueError, match=r"rollouts must be a multiple of fit.elites \(4\), got 41"):
        imagined_replay.check_rollouts(41, 4)
