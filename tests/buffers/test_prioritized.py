"""Priorities against a plain dictionary of masses by window, and draws against their exact probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.histories import ITEM, History, as_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_jax.buffers.prioritized import _find, prioritized
from mbrl_jax.buffers.sequence import Feedback

ENVS, STEPS, LENGTH, ROWS, BATCH, ALPHA, BETA = 2, 2, 3, 7, 5, 0.5, 0.7
BUFFER = prioritized(ENVS * ROWS, LENGTH, ENVS, ALPHA, BETA)
add, revise = jax.jit(BUFFER.add), jax.jit(BUFFER.revise)
sample = jax.jit(BUFFER.sample, static_argnums=2)
FEW = 5  # so few rows that a window can be completed and overwritten within one call of `add`
TIGHT = prioritized(ENVS * FEW, LENGTH, ENVS, ALPHA, BETA)
add_tight, revise_tight = jax.jit(TIGHT.add), jax.jit(TIGHT.revise)
sample_tight = jax.jit(TIGHT.sample, static_argnums=2)

ends = st.sampled_from(["on", "on", "terminal", "limit"])
blocks = st.lists(st.lists(st.tuples(ends, ends), min_size=STEPS, max_size=STEPS), min_size=1, max_size=9)
priorities = st.lists(st.floats(0, 50, width=32), min_size=BATCH, max_size=BATCH)


def place(env: int, start: int, rows: int = ROWS) -> int:
    return env * rows + start % rows


@settings(max_examples=12, deadline=None)
@given(blocks, st.data())
def test_masses_are_those_of_a_dictionary(ends_of_steps, data):
    """A new window has the largest mass given so far; an overwritten one is gone, whatever mass it had."""
    history, ring, masses, peak = History(), TIGHT.init(ITEM), {}, 1.0
    for i, now in enumerate(ends_of_steps):
        ring = add_tight(ring, history.trajectory(now))
        possible = history.windows(LENGTH, FEW)
        masses = {key: masses.get(key, peak) for key in possible}
        stored = np.asarray(ring.mass).reshape(-1)
        expected = np.zeros(len(stored))
        for key, mass in masses.items():
            expected[place(*key, FEW)] = mass
        np.testing.assert_allclose(stored, expected, rtol=1e-6)

        batch = sample_tight(jax.random.key(i), ring, BATCH)
        if not possible:
            np.testing.assert_array_equal(batch.weight, np.zeros(BATCH))
            continue
        by_place = {place(*key, FEW): key for key in possible}
        drawn = [by_place[int(index)] for index in batch.index]  # a window that cannot be made is no key
        assert [as_rows(batch.steps, b) for b in range(BATCH)] == [possible[key] for key in drawn]
        probability = np.array([masses[key] for key in drawn]) / sum(masses.values())
        weight = (len(possible) * probability) ** -BETA
        np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-4)

        given = data.draw(priorities)
        ring = revise_tight(ring, Feedback(batch.index, jnp.asarray(given, jnp.float32)))
        for b, (key, priority) in enumerate(zip(drawn, given, strict=True)):
            mass = max(priority, 1e-8) ** ALPHA
            if drawn.index(key) == b == len(drawn) - 1 - drawn[::-1].index(key):  # given once
                masses[key] = mass
            else:
                masses[key] = float(np.asarray(ring.mass).reshape(-1)[place(*key, FEW)])
                assert any(
                    np.isclose(masses[key], max(p, 1e-8) ** ALPHA)
                    for k, p in zip(drawn, given, strict=True)
                    if k == key
                )
            peak = max(peak, mass)


def with_priorities():
    """Two environments of unequal length, with priorities 1 to 9 for their windows."""
    history, ring = History(), BUFFER.init(ITEM)
    for now in [[("on", "limit")] * STEPS] * 2 + [[("on", "terminal")] * STEPS]:
        ring = add(ring, history.trajectory(now))
    keys = list(history.windows(LENGTH, ROWS))
    index = jnp.array([place(*key) for key in keys])
    return revise(ring, Feedback(index, jnp.arange(1.0, len(keys) + 1))), np.asarray(index)


def test_draws_follow_the_priorities():
    ring, places = with_priorities()
    assert len(places) == 9
    n = 9000
    batch = sample(jax.random.key(0), ring, n)
    mass = np.arange(1.0, 10.0) ** ALPHA
    expected = n * mass / mass.sum()
    counts = np.array([np.sum(np.asarray(batch.index) == at) for at in places])
    assert counts.sum() == n
    np.testing.assert_allclose(counts, expected, atol=1.5)  # stratified: off by the two ends alone
    few = np.concatenate([np.asarray(sample(jax.random.key(i), ring, 3).index) for i in range(600)])
    counts = np.array([np.sum(few == at) for at in places])
    np.testing.assert_allclose(counts, 1800 * mass / mass.sum(), atol=5 * np.sqrt(1800 / 9))


def test_weights_make_up_for_the_draws():
    """With β = 1 the weighted batch is uniform over windows."""
    ring, places = with_priorities()
    whole = prioritized(ENVS * ROWS, LENGTH, ENVS, ALPHA, jnp.float32(1.0))
    batch = jax.jit(whole.sample, static_argnums=2)(jax.random.key(0), ring, 4000)
    share = np.array([np.asarray(batch.weight)[np.asarray(batch.index) == at].sum() for at in places])
    np.testing.assert_allclose(share / share.sum(), np.full(9, 1 / 9), rtol=0.02)


def test_a_mass_far_from_the_others_is_never_missed_nor_an_empty_row_hit():
    """Sums of very different masses round; what is drawn must still be a window, and the rare one rarely."""
    buffer = prioritized(5000, LENGTH, 1, 1.0)
    step = jax.jit(buffer.add)
    ring, history = buffer.init(ITEM), History(1)
    for _ in range(4):
        ring = step(ring, history.trajectory([("on",)] * STEPS))
    keys = list(history.windows(LENGTH, 5000))
    priority = jnp.array([1e-8, 3e7, 1e-3, 1.0, 7e-7, 2e7])
    ring = jax.jit(buffer.revise)(ring, Feedback(jnp.array([start for _, start in keys]), priority))
    batch = jax.jit(buffer.sample, static_argnums=2)(jax.random.key(0), ring, 10_000)
    counts = np.bincount(np.asarray(batch.index), minlength=6)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, [0, 6000, 0, 0, 0, 4000], atol=2)


def test_a_point_that_rounding_puts_on_no_mass_goes_to_the_largest():
    masses = jnp.array([0.0, 2.0, 0.0, 1.0, 0.0])
    upto = jnp.array([0.0, 2.0, 2.25, 3.25, 3.5])  # sums with errors
    find = lambda point: [float(x) for x in _find(masses, upto, jnp.float32(point))]  # noqa: E731
    assert find(1.5)[0] == 1
    assert find(1.5)[1] == 1.5
    assert find(2.1)[0] == 1
    assert find(2.5)[0] == 3
    assert [find(point)[0] for point in (3.4, 9.0)] == [1, 1]


def test_a_row_where_no_window_starts_gets_no_priority():
    ring, places = with_priorities()
    empty = sorted(set(range(ENVS * ROWS)) - set(places.tolist()))
    after = revise(ring, Feedback(jnp.array([empty[0], empty[-1], ENVS * ROWS]), jnp.full(3, 1e6)))
    jax.tree.map(np.testing.assert_array_equal, ring, after)


def test_extras_are_written_as_in_the_plain_buffer():
    ring, places = with_priorities()
    ring = revise(ring, Feedback(jnp.asarray(places[:1]), None, {"h": jnp.array([[[5.0]], [[6.0]]])}))
    np.testing.assert_array_equal(BUFFER.replay(ring).take(jnp.array([0, 1, 2])).extras["h"][1:, 0], [5, 6])
    assert float(BUFFER.replay(ring).take(jnp.array([0])).extras["h"][0, 0]) not in (5.0, 6.0)
    assert BUFFER.revise(ring, ()) is ring


def test_refuses_what_sequence_refuses():
    with pytest.raises(ValueError, match="capacity must be at least"):
        prioritized(5, 3, 2)
