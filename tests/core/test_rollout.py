"""Rollouts against a hand-written loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Cut, Model, StepOut, branch, discounted_return, imagine, spread, unroll


def count_up(key, state, action):
    """s' = s + a, reward s; terminates at 5 and above."""
    del key
    new = state + action
    return StepOut(new, state, jnp.where(new >= 5, 0.0, 1.0))


def drift(i):
    def step(key, state, action):
        del key
        return StepOut(state + action + 10.0 * i, 1.0 * i, jnp.float32(1))

    return Model(step)


def test_unroll_equals_a_loop():
    end, rollout = jax.jit(lambda: unroll(count_up, jax.random.key(0), jnp.float32(1), jnp.array([1.0, 2.0, 3.0])))()
    assert float(end) == 7
    np.testing.assert_array_equal(rollout.states, [1, 2, 4])
    np.testing.assert_array_equal(rollout.rewards, [1, 2, 4])
    np.testing.assert_array_equal(rollout.discounts, [1, 1, 0])


def test_imagine_asks_the_policy_in_each_imagined_state():
    end, rollout = imagine(count_up, lambda key, s: 2 * s, jax.random.key(0), jnp.float32(1), 3)
    np.testing.assert_array_equal(rollout.actions, [2, 6, 18])
    assert float(end) == 27


def test_imagine_gives_every_step_its_own_keys():
    noisy = lambda key, s, a: StepOut(jax.random.normal(key), a, jnp.float32(1))  # noqa: E731
    _, rollout = imagine(noisy, lambda key, s: jax.random.normal(key), jax.random.key(0), jnp.float32(0), 20)
    drawn = np.concatenate([rollout.states[1:], rollout.actions])
    assert len(np.unique(drawn)) == 39


def test_imagine_refuses_an_empty_horizon():
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        imagine(count_up, lambda key, s: s, jax.random.key(0), jnp.float32(0), 0)


def test_rewards_after_termination_count_nothing():
    rewards, discounts = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.5, 0.0, 0.5])
    assert float(discounted_return(rewards, discounts, 100.0)) == 1 + 0.5 * 2
    assert float(discounted_return(rewards, jnp.full(3, 0.5), 8.0)) == 1 + 1 + 1 + 1


def test_spread_gives_each_member_an_equal_part_of_the_batch():
    model = Model(drift(0).step, members=2, at=drift)
    out = spread(model, jax.random.key(0), jnp.arange(4.0), jnp.zeros(4))
    np.testing.assert_array_equal(out.state, [0, 1, 12, 13])
    np.testing.assert_array_equal(out.reward, [0, 0, 1, 1])
    with pytest.raises(ValueError, match="multiple of the model's 2 members"):
        spread(model, jax.random.key(0), jnp.arange(3.0), jnp.zeros(3))


def collect_rows(model, horizon, batch, cut=None):
    """All rows of a branch, as NumPy arrays [horizon, batch]."""

    def store(data, rows, alive):
        at, out = data
        write = lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new.astype(old.dtype), at, 0)  # noqa: E731
        return at + 1, jax.tree.map(write, out, (rows.obs, rows.next_obs, rows.reward, rows.discount, alive))

    data = (jnp.int32(0), tuple(jnp.zeros((horizon, batch)) for _ in range(5)))
    run = jax.jit(
        lambda h: branch(
            model, lambda k, s: jnp.float32(1), jax.random.key(3), jnp.arange(batch) * 1.0, h, store, data, cut
        )
    )
    return [np.asarray(x) for x in run(horizon)[1]]


def test_branch_continues_rollouts_until_they_terminate():
    obs, new, reward, discount, alive = collect_rows(Model(count_up), 3, 6)
    np.testing.assert_array_equal(new, obs + 1)
    np.testing.assert_array_equal(reward, obs)
    for t in range(3):
        kept = np.sort(obs[t][alive[t] == 1])
        np.testing.assert_array_equal(kept, np.arange(t, 5) if t else np.arange(6))
    assert discount[0][obs[0] == 4] == 0


def test_branch_is_cut_before_a_step_that_is_not_trusted_but_never_before_the_first():
    obs, _, _, _, alive = collect_rows(Model(count_up), 4, 6, Cut((), lambda spent, state, action: (spent, state < 3)))
    for t, expected in enumerate(([0, 1, 2, 3, 4, 5], [1, 2], [2], [])):  # of starts 0 to 5
        np.testing.assert_array_equal(np.sort(obs[t][alive[t] == 1]), expected)


def test_branch_that_trusts_all_is_the_same_to_the_bit():
    whole = collect_rows(Model(count_up), 3, 6)
    cut = Cut((), lambda spent, state, action: (spent, state > -1))
    jax.tree.map(np.testing.assert_array_equal, whole, collect_rows(Model(count_up), 3, 6, cut))


def test_branch_is_cut_before_the_step_that_spends_too_much_in_all():
    """Each step spends its state, the first too: from 0 that is 0, 1, 3 and 6, from 1 1, 3 and 6, from 2 2 and 5."""

    def spend(spent, state, action):
        return spent + state, spent + state <= 4

    obs, _, _, _, alive = collect_rows(Model(count_up), 4, 5, Cut(jnp.zeros(()), spend))
    for t, expected in enumerate(([0, 1, 2, 3, 4], [1, 2], [2], [])):  # of starts 0 to 4
        np.testing.assert_array_equal(np.sort(obs[t][alive[t] == 1]), expected)


def test_branch_goes_on_where_the_player_to_move_changes():
    def alternate(key, state, action):
        out = count_up(key, state, action)
        return out._replace(discount=-out.discount)

    *_, alive = collect_rows(Model(alternate), 3, 6)
    np.testing.assert_array_equal(alive, collect_rows(Model(count_up), 3, 6)[-1])
    assert 0 < alive[2].sum() < 6


def test_branch_draws_every_member_for_every_rollout():
    _, _, member, _, _ = collect_rows(Model(drift(0).step, members=2, at=drift), 200, 10)
    np.testing.assert_array_equal(member.sum(axis=1), 5)  # an even split at each step
    obs, new, _, _, _ = collect_rows(Model(drift(0).step, members=2, at=drift), 1, 10)
    first = {float(o): round(float(n - o - 1) / 10) for o, n in zip(obs[0], new[0], strict=True)}
    assert set(first.values()) == {0, 1}
    assert [first[i] for i in range(10)] != [0] * 5 + [1] * 5  # shuffled, not in order
