"""The training loop, with an agent and an environment whose every number is known."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Agent, Box, Discrete, Env, Spec
from mbrl_jax.core.config import replace
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.loop import LoopConfig, chunks_for, env_steps, make_loop, updates
from mbrl_jax.train.sweep import over_seeds


def counter(limit: int, terminal: bool) -> Env:
    """Observation and reward are the number of steps in the episode, which ends at `limit`, terminal or not."""

    def step(key, state, action):
        new = state + 1
        last = new >= limit
        return new, new, new, jnp.where(last & terminal, 0.0, 1.0), last

    start = lambda key: (jnp.zeros(1), jnp.zeros(1))  # noqa: E731
    squeeze = lambda key, s, a: (lambda o: (o[0], o[1], o[2][0], o[3][0], o[4][0]))(step(key, s, a))  # noqa: E731
    return Env(Spec(Box((1,)), Discrete(2), limit, terminal, "counter"), start, squeeze)


def recorder(revise: bool = False) -> Agent:
    """Counts its calls; its carry is the number of steps of the episode so far."""

    def act(key, learner, carry, obs, explore):
        return jnp.int32(explore), carry + 1, {"seen": carry}

    def update(key, learner, replay):
        new = {"updates": learner["updates"] + 1, "refreshes": learner["refreshes"]}
        return new, {"size": replay.size.astype(jnp.float32)}, jnp.int32(7) if revise else ()

    def refresh(key, learner, replay):
        return learner | {"refreshes": learner["refreshes"] + 1}, {"size_at_refresh": replay.size.astype(jnp.float32)}

    def follow(key, learner, carry, obs, action):
        return carry + 1, {"seen": carry}

    def init(key):
        return {"updates": jnp.int32(0), "refreshes": jnp.int32(0)}

    return Agent(init, lambda: jnp.int32(0), act, update, refresh, follow)


CFG = LoopConfig(num_envs=2, unroll=3, updates=4, inner=5, cycles=2, warmup=2, eval_episodes=3, capacity=200)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminated", "out-of-time"])
def test_rows_episodes_and_calls_are_counted(terminal):
    loop = make_loop(recorder(), counter(4, terminal), uniform(200), CFG)
    state, report = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    # 2 environments x 3 steps x (2 iterations of warm-up + 2 cycles x 5 iterations)
    assert int(state.buffer.size) == env_steps(CFG, 1) == 72
    assert int(state.learner["updates"]) == updates(CFG, 1) == 40
    assert int(state.learner["refreshes"]) == 2
    assert float(report.metrics["size_at_refresh"]) == (12 + 42) / 2
    assert float(report.metrics["size"]) == pytest.approx(np.mean([12 + 6 * i for i in range(1, 11)]))
    # steps 7 to 36 of each environment end the episodes at steps 8, 12, ..., 36
    assert float(report.metrics["episodes"]) == 16
    assert float(report.metrics["return"]) == 1 + 2 + 3 + 4
    rows = jax.tree.map(lambda x: np.asarray(x[:72]), state.buffer.rows)
    np.testing.assert_array_equal(rows.next_obs, rows.obs + 1)  # the true successor, at the end of an episode too
    np.testing.assert_array_equal(rows.last, rows.next_obs[:, 0] == 4)
    np.testing.assert_array_equal(rows.discount, np.where(rows.last & terminal, 0, 1))
    np.testing.assert_array_equal(rows.extras["seen"], rows.obs[:, 0])  # the carry is reset with the episode
    np.testing.assert_array_equal(rows.obs[::2, 0], np.arange(36) % 4)  # environments interleaved, in time order
    np.testing.assert_array_equal(report.returns, 10)
    np.testing.assert_array_equal(report.lengths, 4)


def test_the_warm_up_takes_random_actions_and_training_the_agents():
    loop = make_loop(recorder(), counter(4, True), uniform(200), replace(CFG, {"warmup": 20}))
    state, _ = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    actions = np.asarray(state.buffer.rows.action[:180])
    assert 30 < actions[:120].sum() < 90
    np.testing.assert_array_equal(actions[120:], 1)  # `explore` is True


def remembering() -> Agent:
    """Its carry and extras are 10 + the last action taken; `act` marks its own with 20."""

    def act(key, learner, carry, obs, explore):
        return jnp.int32(1), jnp.int32(21), {"before": carry}

    def follow(key, learner, carry, obs, action):
        return 10 + action, {"before": carry}

    nothing = lambda key, learner, replay: (learner, {}, ())  # noqa: E731
    return Agent(lambda key: (), lambda: jnp.int32(0), act, nothing, follow=follow)


def test_in_the_warm_up_the_carry_and_the_extras_describe_the_random_actions():
    cfg = LoopConfig(num_envs=1, warmup=40, inner=1, cycles=1, eval_episodes=0)
    state = jax.jit(make_loop(remembering(), counter(5, True), uniform(200), cfg).init)(jax.random.key(0))
    rows = jax.tree.map(lambda x: np.asarray(x[:40]), state.buffer.rows)
    expected = np.where(rows.obs[1:, 0] == 0, 0, 10 + rows.action[:-1])  # a new episode begins without memory
    np.testing.assert_array_equal(rows.extras["before"][1:], expected)
    assert 5 < rows.action.sum() < 35


def test_a_warm_up_plans_nothing():
    def act(key, learner, carry, obs, explore):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.int32(1), carry, {"before": jnp.int32(0)}

    calls: list[int] = []
    agent = remembering()._replace(act=act, follow=lambda *args: (args[2], {"before": jnp.int32(0)}))
    cfg = LoopConfig(num_envs=1, warmup=7, inner=2, cycles=1, eval_episodes=0)
    loop = make_loop(agent, counter(5, True), uniform(200), cfg)
    state = jax.block_until_ready(jax.jit(loop.init)(jax.random.key(0)))
    jax.effects_barrier()
    assert len(calls) == 0
    jax.block_until_ready(jax.jit(loop.chunk)(state))
    jax.effects_barrier()
    assert len(calls) == 2


def test_a_warm_up_needs_follow_where_there_is_a_carry_or_extras():
    cfg = LoopConfig(num_envs=1, warmup=1, inner=1, cycles=1, eval_episodes=0)

    def init(agent, cfg=cfg):
        return jax.eval_shape(make_loop(agent, counter(5, True), uniform(200), cfg).init, jax.random.key(0))

    with pytest.raises(ValueError, match=r"loop.warmup must be 0 for an agent without `follow`"):
        init(remembering()._replace(follow=None))
    init(remembering()._replace(follow=None), replace(cfg, {"warmup": 0}))
    short = remembering()._replace(follow=lambda *args: (jnp.float32(0), {"before": args[2]}))
    with pytest.raises(ValueError, match=r"`follow` must return the carry of `act`, int32\[\], got float32\[\]"):
        init(short)
    other = remembering()._replace(follow=lambda *args: (args[2], ()))
    with pytest.raises(ValueError, match=r"`follow` must return the extras of `act`.*before"):
        init(other)


def test_hold_repeats_each_random_action_for_as_many_iterations():
    cfg = replace(CFG, {"warmup": 60, "hold": 5, "unroll": 1})
    loop = make_loop(recorder(), counter(4, True), uniform(400), cfg)
    state, _ = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    drawn = np.asarray(state.buffer.rows.action[:120]).reshape(12, 5, 2)  # 12 times 5 iterations of 2 environments
    np.testing.assert_array_equal(drawn, np.broadcast_to(drawn[:, :1], drawn.shape))
    assert 3 < drawn[:, 0].sum() < 21  # of 24 fair coins
    assert np.any(drawn[:, 0, 0] != drawn[:, 0, 1])  # each environment draws its own
    np.testing.assert_array_equal(state.buffer.rows.action[120:140], 1)


def test_return_is_0_where_no_episode_ended():
    short = replace(CFG, {"inner": 1, "cycles": 1, "unroll": 1, "warmup": 0})
    loop = make_loop(recorder(), counter(50, True), uniform(200), short)
    _, report = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    assert report.metrics["return"] == 0
    assert report.metrics["episodes"] == 0
    assert float(report.metrics["episodes"]) == 0


def test_feedback_reaches_the_buffer():
    plain = uniform(200)
    marking = plain._replace(
        revise=lambda ring, mark: ring._replace(rows=ring.rows._replace(reward=ring.rows.reward.at[199].add(mark)))
    )
    loop = make_loop(recorder(revise=True), counter(4, True), marking, CFG)
    state, _ = jax.jit(lambda key: loop.chunk(loop.init(key)))(jax.random.key(0))
    assert float(state.buffer.rows.reward[199]) == 7 * 40
    loop = make_loop(recorder(revise=True), counter(4, True), plain, CFG)
    with pytest.raises(ValueError, match="this buffer cannot be revised"):
        jax.eval_shape(lambda key: loop.chunk(loop.init(key)), jax.random.key(0))


@pytest.mark.parametrize(("steps", "chunks"), [(1, 1), (72, 1), (73, 2), (132, 2), (133, 3)])
def test_chunks_for_reaches_the_steps_asked_for(steps, chunks):
    assert chunks_for(CFG, steps) == chunks
    assert env_steps(CFG, chunks) >= steps


def test_evaluation_counts_each_episode_to_its_own_end():
    """Episodes end at random: a return sums the rewards of one episode and nothing after it."""

    def step(key, state, action):
        new = state + 1
        return new, new, jnp.float32(1), jnp.float32(1), jax.random.bernoulli(key, 0.3) | (new[0] >= 9)

    env = Env(Spec(Box((1,)), Discrete(2), 9), lambda key: (jnp.zeros(1), jnp.zeros(1)), step)
    run = jax.jit(lambda key: evaluate(recorder(), env, key, {}, 200))
    returns, lengths = run(jax.random.key(0))
    np.testing.assert_array_equal(returns, lengths)
    expected = sum(0.7**i for i in range(9))
    assert float(returns.mean()) == pytest.approx(expected, abs=0.6)  # four standard errors
    assert returns.max() <= 9
    assert not np.array_equal(returns, run(jax.random.key(1))[0])


def test_no_time_limit_is_refused():
    env = counter(4, True)
    endless = env._replace(spec=env.spec._replace(time_limit=None))
    with pytest.raises(ValueError, match=r"loop.eval_episodes must be 0: counter has no time limit"):
        make_loop(recorder(), endless, uniform(10), CFG)
    with pytest.raises(ValueError, match="counter has no time limit"):
        evaluate(recorder(), endless, jax.random.key(0), {}, 1)
    with pytest.raises(ValueError, match=r"loop.inner must be at least 1, got 0"):
        make_loop(recorder(), env, uniform(10), replace(CFG, {"inner": 0}))


@pytest.mark.parametrize("wave", [1, 2, 3, 5, 8])
def test_waves_equal_a_loop_over_seeds(wave):
    seen = over_seeds(lambda x: {"y": x["x"] ** 2, "z": x["x"].sum()}, wave)({"x": jnp.arange(10.0).reshape(5, 2)})
    np.testing.assert_array_equal(seen["y"], np.arange(10.0).reshape(5, 2) ** 2)
    np.testing.assert_array_equal(seen["z"], [1, 5, 9, 13, 17])


def test_wave_below_one_is_refused():
    with pytest.raises(ValueError, match="wave must be at least 1"):
        over_seeds(lambda x: x, 0)


def test_several_devices_equal_one_bitwise(tmp_path):
    """In a process of its own, with two CPU cores as devices."""
    code = """
import jax; jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from mbrl_jax.train.sweep import over_seeds, place
def fn(key):
    x = jax.random.normal(key, (8, 8))
    return jax.lax.fori_loop(0, 5, lambda i, x: jnp.tanh(x @ x), x), jax.random.split(key)[0]
keys = jax.random.split(jax.random.key(0), 6)
one = jax.jit(over_seeds(fn, 1))(keys)
two = jax.jit(over_seeds(fn, 1, devices=2))(place(keys, 2))
assert len(two[0].sharding.device_set) == 2
assert jnp.array_equal(one[0], jax.device_get(two[0])), "numbers"
assert jnp.array_equal(jax.random.key_data(one[1]), jax.random.key_data(two[1])), "keys"
for devices, seeds, word in ((3, 6, "at most 2"), (2, 5, "multiple of the 2 devices")):
    try:
        over_seeds(fn, 1, devices=devices)(keys[:seeds])
    except ValueError as error:
        assert word in str(error), error
    else:
        raise AssertionError(word)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
