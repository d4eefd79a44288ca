"""Windows against a plain list of rows per environment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.histories import ITEM, History, as_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_jax.buffers.prioritized import prioritized
from mbrl_jax.buffers.sequence import Feedback, need_window, queue, sequence, windows, write_extras
from mbrl_jax.core import Agent, Transition
from mbrl_jax.envs import wrappers
from mbrl_jax.envs.probes import observation_action_reward
from mbrl_jax.train.loop import LoopConfig, make_loop

ENVS, STEPS, LENGTH, ROWS = 2, 2, 3, 7
BUFFER = sequence(ENVS * ROWS + 1, LENGTH, ENVS)
ONLINE = sequence(ENVS * ROWS, LENGTH, ENVS, online=4)
add = jax.jit(BUFFER.add)
sample = jax.jit(BUFFER.sample, static_argnums=2)
sample_online = jax.jit(ONLINE.sample, static_argnums=2)
revise = jax.jit(BUFFER.revise)
revise_online = jax.jit(ONLINE.revise)


ends = st.sampled_from(["on", "on", "terminal", "limit"])
blocks = st.lists(st.lists(st.tuples(ends, ends), min_size=STEPS, max_size=STEPS), min_size=1, max_size=9)


def filled(ends_of_steps):
    history, data = History(), BUFFER.init(ITEM)
    for now in ends_of_steps:
        data = add(data, history.trajectory(now))
    return history, data


@settings(max_examples=12, deadline=None)
@given(blocks)
def test_every_window_holds_what_happened_in_order(ends_of_steps):
    """Every window that can be made is there, and nothing else is ever drawn."""
    history, data = filled(ends_of_steps)
    assert [len(rows) for rows in history.rows] == list(data.written)
    expected = history.windows(LENGTH, ROWS)
    places = list(expected)
    index = jnp.array([env * ROWS + start % ROWS for env, start in places] or [0])
    steps = windows(data, jnp.resize(index, 10), LENGTH)
    for b, place in enumerate(places[:10]):
        assert as_rows(steps, b) == expected[place]
    batch = sample(jax.random.key(len(ends_of_steps)), data, 16)
    np.testing.assert_array_equal(batch.weight, np.full(16, float(bool(expected))))
    assert set(np.asarray(batch.index)) <= (set(np.asarray(index)) if expected else {ENVS * ROWS})
    if expected:
        contents = [tuple(rows) for rows in expected.values()]
        assert all(tuple(as_rows(batch.steps, b)) in contents for b in range(16))
    replay = BUFFER.replay(data)
    stored = [row for rows in history.rows for row in rows[-ROWS:]]
    assert int(replay.size) == len(stored)
    taken = replay.take(jnp.arange(ENVS * ROWS) % len(stored))
    assert sorted(as_rows(jax.tree.map(lambda x: x[:, None], taken), 0)[: len(stored)]) == sorted(stored)


def test_the_rows_of_two_episodes_by_hand():
    """One episode that terminates and one that is truncated: three rows and two, with the last reward of each."""
    buffer = sequence(8, 5, 1)
    vector = lambda x: jnp.full((1, 1, 1), float(x))  # noqa: E731
    data = buffer.init(
        Transition(jnp.zeros(1), jnp.zeros(1), jnp.float32(0), jnp.float32(0), jnp.zeros(1), jnp.bool_(0))
    )
    one, add = jnp.ones((1, 1)), jax.jit(buffer.add)
    for obs, action, reward, discount, following, last in [
        (1, 10, 0.5, 1, 2, 0),
        (2, 20, 7, 0, 3, 1),
        (4, 30, 9, 1, 5, 1),
    ]:
        data = add(
            data,
            Transition(vector(obs), vector(action), reward * one, discount * one, vector(following), one * last > 0),
        )
    steps = windows(data, jnp.zeros(1, jnp.int32), 5)
    np.testing.assert_array_equal(steps.obs[:, 0, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(steps.action[:, 0, 0], [10, 20, 0, 30, 0])
    np.testing.assert_array_equal(steps.reward[:, 0], [0, 0.5, 7, 0, 9])
    np.testing.assert_array_equal(steps.discount[:, 0], [1, 1, 0, 1, 1])
    np.testing.assert_array_equal(steps.first[:, 0], [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(steps.last[:, 0], [0, 0, 1, 0, 1])


def test_windows_are_drawn_evenly_over_environments_of_unequal_length():
    """Environment 1 ends an episode in every step and so wraps; environment 0 holds fewer rows."""
    history, data = filled([[("on", "limit")] * STEPS] * 2 + [[("on", "terminal")] * STEPS])
    expected = history.windows(LENGTH, ROWS)
    assert len(expected) == 4 + 5
    index = np.asarray(sample(jax.random.key(1), data, 4500).index)
    counts = [np.sum(index == env * ROWS + start % ROWS) for env, start in expected]
    assert sum(counts) == 4500
    assert min(counts) > 400  # 500 of each expected; below and above by five standard deviations
    assert max(counts) < 605


def test_without_a_complete_window_weights_are_0_and_feedback_changes_nothing():
    _, data = filled([[("on", "on")] * STEPS])
    batch = sample(jax.random.key(0), data, 4)
    np.testing.assert_array_equal(batch.weight, np.zeros(4))
    after = revise(data, Feedback(batch.index, extras={"h": jnp.full((LENGTH, 4, 1), 9.0)}))
    jax.tree.map(np.testing.assert_array_equal, data, after)
    need_window(3, 3)
    with pytest.raises(ValueError, match="must be at least the 3 rows of a window, got 2"):
        need_window(3, 2)


def test_fresher_extras_are_written_to_the_rows_of_the_window():
    """Of a window that wraps, the last two rows change; the first one and the other environment keep theirs."""
    history, data = filled([[("on", "on")] * STEPS] * 4)
    place = (1, 5)  # rows 5, 6, 7: the last lies at the ring's start
    index = jnp.array([ROWS + 5])
    data = revise(data, Feedback(index, extras={"h": jnp.array([[[70.0]], [[80.0]]])}))
    expected = history.windows(LENGTH, ROWS)
    new = [expected[place][0], expected[place][1]._replace(h=70.0), expected[place][2]._replace(h=80.0)]
    assert as_rows(windows(data, index, LENGTH), 0) == new
    others = [k for k in expected if k[0] == 0]
    steps = windows(data, jnp.array([env * ROWS + start % ROWS for env, start in others]), LENGTH)
    assert [as_rows(steps, b) for b in range(len(others))] == [expected[k] for k in others]
    with pytest.raises(ValueError, match="at most 3 rows"):
        write_extras(data, index, {"h": jnp.zeros((4, 1, 1))}, LENGTH)
    with pytest.raises(ValueError, match="samples uniformly"):
        BUFFER.revise(data, Feedback(index, priority=jnp.ones(1)))
    assert BUFFER.revise(data, ()) is data


@settings(max_examples=8, deadline=None)
@given(blocks, st.integers(1, 4), st.data())
def test_the_queue_gives_every_new_window_once_and_first(ends_of_steps, take, data):
    """Against lists: adjacent windows per environment, removed when fed back or overwritten."""
    history, ring = History(), ONLINE.init(ITEM)
    used = [0] * ENVS
    for now in ends_of_steps:
        ring = add(ring, history.trajectory(now))
        waiting = []
        for env, rows in enumerate(history.rows):
            used[env] = max(used[env], len(rows) - ROWS)
            starts = range(used[env], len(rows) - LENGTH + 1, LENGTH)
            waiting += [(place, env, start) for place, start in enumerate(starts)]
        waiting = sorted(waiting)[:4]
        batch = sample_online(jax.random.key(3), ring, 6)
        possible = history.windows(LENGTH, ROWS)
        for b, (_, env, start) in enumerate(waiting):
            assert as_rows(batch.steps, b) == possible[env, start]
        if possible:
            contents = [tuple(rows) for rows in possible.values()]
            assert all(tuple(as_rows(batch.steps, b)) in contents for b in range(6))
            np.testing.assert_array_equal(batch.weight, np.ones(6))
        if data.draw(st.booleans()):
            ring = revise_online(ring, Feedback(batch.index))
            for _, env, start in waiting:
                used[env] = start + LENGTH
    had = revise_online(ring, Feedback(jnp.full(6, ENVS * ROWS)))  # feedback for no window of the queue
    np.testing.assert_array_equal(queue(had, LENGTH, 4)[0], queue(ring, LENGTH, 4)[0])
    again = queue(ring, LENGTH, take)[0]  # a shorter queue is the beginning of a longer one
    np.testing.assert_array_equal(again, queue(ring, LENGTH, 4)[0][:take])


@pytest.mark.parametrize("kind", ["queue", "priorities"])
def test_in_the_compiled_loop_feedback_arrives_and_nothing_changes_its_shape(kind):
    """An agent counts in the extras how often a row was in the last two of a window; two seeds under vmap."""
    make = sequence if kind == "queue" else prioritized
    buffer = make(40, 3, 2, 2) if kind == "queue" else make(40, 3, 2)

    def update(key, learner, replay):
        window = replay.sample(key, 4)
        more = jax.tree.map(lambda x: x[1:] + 1, window.steps.extras)
        priority = None if kind == "queue" else window.steps.reward[0] + 2.0
        return learner, {"weight": jnp.mean(window.weight)}, Feedback(window.index, priority, more)

    act = lambda key, learner, carry, obs, explore: (jnp.int32(0), carry, jnp.float32(0))  # noqa: E731
    follow = lambda key, learner, carry, obs, action: (carry, jnp.float32(0))  # noqa: E731
    agent = Agent(lambda key: jnp.zeros(()), lambda: (), act, update, follow=follow)
    env = wrappers.time_limit(observation_action_reward(), 4)
    cfg = LoopConfig(num_envs=2, unroll=1, updates=1, inner=5, cycles=1, warmup=3, eval_episodes=0)
    loop = make_loop(agent, env, buffer, cfg)
    state = jax.jit(jax.vmap(loop.init))(jax.random.split(jax.random.key(0), 2))
    after, report = jax.jit(jax.vmap(loop.chunk))(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state.buffer) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after.buffer
    )
    np.testing.assert_array_equal(report.metrics["weight"] > 0.3, [True, True])
    ring = after.buffer if kind == "queue" else after.buffer.ring
    counts = np.asarray(ring.steps.extras)
    assert (counts.sum(1) > 5).all()
    assert (counts.sum(1) <= 5 * 4 * 2).all()
    assert (np.asarray(ring.used).sum() > 0) == (kind == "queue")


def test_adds_in_place_when_donated():
    buffer = sequence(64, 4, 2)
    data = buffer.init(ITEM)
    step = jax.jit(buffer.add, donate_argnums=0)
    before = data.steps.obs.unsafe_buffer_pointer()
    assert step(data, History().trajectory([("on", "limit")])).steps.obs.unsafe_buffer_pointer() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((5, 3, 2), "capacity must be at least num_envs x length, 6, got 5"),
        ((5, 0, 2), "at least 1, got 0 and 2"),
        ((50, 3, 2, -1), "online must be at least 0"),
    ],
)
def test_refuses_sizes_that_do_not_fit(args, message):
    with pytest.raises(ValueError, match=message):
        sequence(*args)


def test_refuses_more_steps_at_once_than_fit():
    buffer = sequence(6, 3, 2)
    with pytest.raises(ValueError, match="2 x 2 rows"):
        buffer.add(buffer.init(ITEM), History().trajectory([("on", "on")] * 2))
