"""The host loop against the compiled one, and what is left of a run whose environment fails."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.host_envs import host_of

from mbrl_jax.buffers.prioritized import prioritized
from mbrl_jax.buffers.sequence import sequence
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Agent, Box, Discrete, Env, EnvironmentFailed, Spec, tree
from mbrl_jax.core.config import replace
from mbrl_jax.train.host import HostDriver, make_host_loop
from mbrl_jax.train.loop import LoopConfig, env_steps, make_loop, updates


def walk(limit: int = 5) -> Env:
    """Exact numbers in every program: a start drawn from the key, and steps by the action; a 3 terminates."""

    def reset(key):
        start = jnp.float32(jax.random.randint(key, (), -1, 2))
        return (start, jnp.int32(0)), jnp.stack([start, jnp.float32(0)])

    def step(key, state, action):
        place, time = state[0] + 2.0 * action - 1.0, state[1] + 1
        terminal = jnp.abs(place) >= 3
        return (
            (place, time),
            jnp.stack([place, jnp.float32(time)]),
            place,
            1.0 - terminal.astype(jnp.float32),
            terminal | (time >= limit),
        )

    return Env(Spec(Box((2,)), Discrete(2), limit, True, "walk"), reset, step)


def adder(lr: float = 1.0) -> Agent:
    """Its learner is whole numbers from the rows it draws, and its actions depend on them."""

    def act(key, learner, carry, obs, explore):
        chosen = jax.random.bernoulli(key, 0.5 + 0.25 * (learner["sum"] % 3 == 0)).astype(jnp.int32)
        action = jnp.where(explore, chosen, jnp.int32(learner["sum"] % 2 == 0))
        return action, carry + 1, {"seen": carry}

    def update(key, learner, replay):
        rows = replay.sample(key, 4)
        rows = getattr(rows, "steps", rows)
        total = jnp.sum(rows.reward) + jnp.sum(rows.obs[..., 1])
        learner = learner | {"sum": learner["sum"] + total, "updates": learner["updates"] + 1}
        return learner, {"total": total, "size": replay.size.astype(jnp.float32)}, ()

    def refresh(key, learner, replay):
        return learner | {"sum": learner["sum"] + 1}, {"seen": replay.size.astype(jnp.float32)}

    def init(key):
        return {"sum": jnp.float32(jax.random.randint(key, (), 0, 9)), "updates": jnp.int32(0)}

    def follow(key, learner, carry, obs, action):
        return carry + 1 + 10 * action, {"seen": carry}

    return Agent(init, lambda: jnp.int32(0), act, update, refresh, follow)


CFG = LoopConfig(num_envs=2, unroll=3, updates=2, inner=5, cycles=2, warmup=4, eval_episodes=3, capacity=120)
BUFFERS = {"uniform": lambda: uniform(120), "windows": lambda: sequence(120, 4, 2)}


def keys(seeds: int):
    return jax.vmap(jax.random.key)(jnp.arange(seeds, dtype=jnp.uint32))


def chunk(driver, work):
    """Pieces up to the end of a chunk."""
    while True:
        work, report = driver.piece(work)
        if report is not None:
            return work, report


def run_host(env, buffer, cfg, seeds=1, chunks=2):
    driver = HostDriver(make_host_loop(adder(), env, buffer, cfg), keys(seeds))
    work, reports = driver.start(None).work, []
    for _ in range(chunks):
        work, report = chunk(driver, work)
        reports.append(report)
    driver.close()
    return work.state, reports


def run_compiled(buffer, cfg, seeds=1, chunks=2):
    loop = make_loop(adder(), walk(), buffer, cfg)
    over = (lambda fn: jax.vmap(fn)) if seeds > 1 else lambda fn: lambda at: jax.lax.map(fn, at)
    state, reports = jax.jit(over(loop.init))(keys(seeds)), []
    for _ in range(chunks):
        state, report = jax.jit(over(loop.chunk))(state)
        reports.append(report)
    return state, reports


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("kind", "changes", "seeds"),
    [("windows", {}, 1), ("uniform", {"hold": 2, "unroll": 1}, 2)],
)
def test_numbers_are_those_of_the_compiled_loop_bitwise(kind, changes, seeds):
    cfg = replace(CFG, changes)
    state, reports = run_compiled(BUFFERS[kind](), cfg, seeds)
    hosted, found = run_host(host_of(walk()), BUFFERS[kind](), cfg, seeds)
    same((state.key, state.learner, state.buffer, state.actors.obs), tuple(hosted))
    for report, other in zip(reports, found, strict=True):
        same((report.returns, report.lengths), (other.returns, other.lengths))
        assert report.metrics.keys() == other.metrics.keys()
        for name, value in report.metrics.items():
            np.testing.assert_allclose(other.metrics[name], value, rtol=1e-6)
        assert not any(np.any(fault) for fault in other.not_finite.values())


def test_steps_and_updates_are_those_that_the_clocks_say():
    hosted, reports = run_host(host_of(walk()), uniform(400), replace(CFG, {"capacity": 400}))
    assert int(hosted.buffer.size[0]) == env_steps(CFG, 2)
    assert int(hosted.learner["updates"][0]) == updates(CFG, 2)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[0, : env_steps(CFG, 2)]), hosted.buffer.rows)
    assert rows.last.sum() > sum(float(report.metrics["episodes"][0]) for report in reports) > 10


class Recording:
    """Wraps a host environment: notes the parameters' effect, the actions, and which calls there were."""

    def __init__(self, env):
        self.env, self.actions, self.fail_at = env, [], None

    def made(self):
        def make(count, workers=0):
            inner = self.env.make(count, workers)

            def step(actions, seeds, active=None):
                if self.fail_at == len(self.actions):
                    raise EnvironmentFailed("walk", 1, self.fail_at, "step raised OSError: gone")
                if active is None:  # not in evaluation
                    self.actions.append(np.array(actions))
                return inner.step(actions, seeds, active)

            return inner._replace(step=step)

        return self.env._replace(make=make)


@pytest.mark.parametrize("overlap", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_overlap_collects_with_the_parameters_before_the_last_block(overlap):
    """Against the compiled parts in a loop written out here."""
    cfg = replace(CFG, {"overlap": overlap, "cycles": 1, "inner": 9, "eval_episodes": 0})
    hosted, _ = run_host(host_of(walk()), uniform(120), cfg, chunks=1)
    from mbrl_jax.train.loop import collect, learn, warmed_up

    agent, env, buffer = adder(), walk(), uniform(120)
    state = jax.jit(lambda key: warmed_up(key, agent, env, buffer, cfg)[0])(keys(1)[0])
    _, key_cycles, _ = jax.random.split(state.key, 3)
    key_refresh, key_iterations = jax.random.split(jax.random.split(key_cycles, 1)[0])
    learner, _ = agent.refresh(key_refresh, state.learner, buffer.replay(state.buffer))
    both = jax.random.split(key_iterations, 9)
    collecting = jax.jit(lambda key, state: collect(key, state, agent, env, buffer, cfg)[0])
    learning = jax.jit(lambda key, state: learn(key, state, agent, buffer, cfg)[0])
    learners = [learner]  # after each iteration's updates
    for i in range(9):
        key_collect, key_learn = jax.random.split(both[i])
        block = i // overlap
        acting = learners[max(0, block - 1) * overlap]  # without the updates of the block before
        state = collecting(key_collect, state._replace(learner=acting))
        state = learning(key_learn, state._replace(learner=learners[-1]))
        learners.append(state.learner)
    same(state.learner, jax.tree.map(lambda leaf: leaf[0], hosted.learner))
    same(state.buffer, jax.tree.map(lambda leaf: leaf[0], hosted.buffer))


@pytest.mark.parametrize("overlap", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_pieces_of_any_length_give_the_same_numbers(overlap, monkeypatch):
    cfg = replace(CFG, {"overlap": overlap})
    whole = run_host(host_of(walk()), uniform(120), cfg)
    monkeypatch.setattr("mbrl_jax.train.host.SECONDS", 0.0)
    cut = run_host(host_of(walk()), uniform(120), cfg)
    same(whole, cut)


class Spoiled(Recording):
    """Gives a NaN in the last copy: the reward at a step, or the observation that a reset gives (step 0)."""

    def made(self):
        def make(count, workers=0):
            inner, done = self.env.make(count, workers), []

            def reset(seeds):
                obs = inner.reset(seeds)
                return np.where(np.arange(count)[:, None] == count - 1, np.nan, obs) if self.fail_at == 0 else obs

            def step(actions, seeds, active=None):
                row = inner.step(actions, seeds, active)
                done.append(1)
                last = np.arange(count) == count - 1
                return row._replace(reward=np.where(last & (len(done) == self.fail_at), np.nan, row.reward))

            return inner._replace(reset=reset, step=step)

        return self.env._replace(make=make)


@pytest.mark.parametrize(("at", "what"), [(0, "the observation is NaN"), (5, "reward is NaN")])
def test_a_nan_of_the_warm_up_is_named_with_its_step(at, what):
    spoiled = Spoiled(host_of(walk()))
    spoiled.fail_at = at
    driver = HostDriver(make_host_loop(adder(), spoiled.made(), uniform(120), CFG), keys(2))
    assert CFG.warmup * CFG.unroll > 5
    with pytest.raises(EnvironmentFailed, match=f"copy {2 * CFG.num_envs - 1}, step {at}: {what}$"):
        driver.start(None)
    driver.close()


def test_environments_that_look_for_nan_themselves_are_not_looked_at_again():
    spoiled = Spoiled(host_of(walk()))
    spoiled.fail_at = 5
    env = spoiled.made()
    trusted = env._replace(make=lambda *args: env.make(*args)._replace(checked=True))
    driver = HostDriver(make_host_loop(adder(), trusted, uniform(120), CFG), keys(2))
    reward = driver.start(None).work.state.buffer.rows.reward  # the warm-up, in which the NaN comes
    driver.close()
    assert np.isnan(np.asarray(reward)).sum() == 1


@pytest.mark.parametrize("overlap", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failure_leaves_what_was_learned_and_it_goes_on(overlap):
    cfg = replace(CFG, {"overlap": overlap, "eval_episodes": 0})
    recording = Recording(host_of(walk()))
    loop = make_host_loop(adder(), recording.made(), sequence(120, 4, 2), cfg)
    driver = HostDriver(loop, keys(1))
    work = driver.start(None).work
    recording.fail_at = (4 + 7) * 3 + 1  # the second step of the eighth iteration: the third of the second cycle
    with pytest.raises(EnvironmentFailed, match="environment walk, copy 1, step 34: step raised OSError") as failed:
        chunk(driver, work)
    driver.close()
    work = failed.value.work
    assert work.position == 6 + 1 + 2  # a refresh and 5 iterations, a refresh and 2 iterations
    assert int(work.state.learner["updates"][0]) == 7 * 2
    ring = work.state.buffer
    going = ~np.asarray(ring.first[0])

    recording.fail_at = None
    driver = HostDriver(loop, keys(1))
    resumed = driver.start(work).work
    assert resumed.position == work.position
    after = resumed.state.buffer
    for e in range(2):  # the episode in progress has got its last row, which is no termination
        at = int(ring.written[0, e]) % 60 + 60 * e
        assert int(after.written[0, e]) == int(ring.written[0, e]) + going[e]
        if going[e]:
            row = tree.take(jax.tree.map(lambda leaf: leaf[0], after.steps), at)
            np.testing.assert_array_equal(row.obs, work.state.obs[0, e])
            assert (bool(row.last), bool(row.first), float(row.discount)) == (True, False, 1.0)
    assert np.all(after.first)
    work, report = chunk(driver, resumed)
    driver.close()
    assert int(work.state.learner["updates"][0]) == updates(cfg, 1)
    assert work.position == 0
    assert np.isfinite(report.metrics["total"]).all()


def test_a_learner_that_is_no_number_is_reported_and_moves_no_robot():
    agent = adder()
    broken = agent._replace(update=lambda key, learner, replay: ({**learner, "sum": learner["sum"] * jnp.nan}, {}, ()))
    seen = []

    def real(key, learner, carry, obs, explore):
        return jnp.full(1, learner["sum"]), carry, ()

    env = host_of(walk())
    env = env._replace(spec=env.spec._replace(action=Box((1,), -1.0, 1.0)))

    def make(count, workers=0):
        inner = env.make(count, workers)
        seen_step = lambda actions, seeds, active=None: (  # noqa: E731
            seen.append(np.array(actions)) or inner.step(np.float32(actions[:, 0]), seeds, active)
        )
        return inner._replace(step=seen_step)

    cfg = replace(CFG, {"warmup": 0, "inner": 2, "cycles": 1})
    loop = make_host_loop(broken._replace(act=real), env._replace(make=make), uniform(120), cfg)
    driver = HostDriver(loop, keys(2))
    _, report = chunk(driver, driver.start(None).work)
    driver.close()
    np.testing.assert_array_equal(report.not_finite["learner"], [True, True])
    assert all(np.isfinite(action).all() for action in seen)


def test_settings_that_do_not_go_together_are_refused():
    env = host_of(walk())
    endless = env._replace(spec=env.spec._replace(time_limit=None))
    with pytest.raises(ValueError, match=r"loop.eval_episodes must be 0: walk has no time limit"):
        make_host_loop(adder(), endless, uniform(9), CFG)
    with pytest.raises(ValueError, match="env_workers must be at least 0"):
        make_host_loop(adder(), env, uniform(9), CFG, workers=-1)
    with pytest.raises(ValueError, match=r"loop.overlap must be 0 for walk, which is compiled .* got 2"):
        make_loop(adder(), walk(), uniform(9), replace(CFG, {"overlap": 2}))


@pytest.mark.parametrize("capacity", [24, 40])
def test_prioritized_windows_know_the_rows_of_a_truncation(capacity):
    """Windows have mass exactly where `sequence` could draw one."""
    buffer, plain = prioritized(capacity, 3, 2), sequence(capacity, 3, 2)
    rng = np.random.default_rng(0)
    item = jax.tree.map(jnp.asarray, row(rng, 0, False))
    data, other = buffer.init(item), plain.init(item)
    for t in range(30):
        last = rng.random(2) < 0.2
        rows = [row(rng, t, bool(end)) for end in last]
        trajectory = jax.tree.map(lambda *leaves: jnp.stack(leaves)[None], *rows)
        data, other = buffer.add(data, trajectory), plain.add(other, trajectory)
        if t % 4 == 3:
            obs = jnp.asarray(rng.normal(size=(2, 1)), jnp.float32)
            data, other = buffer.truncate(data, obs), plain.truncate(other, obs)
            again = plain.truncate(other, obs)  # nothing is in progress any more
            same(other, again)
        same(data.ring, other)
        size = capacity // 2
        for e in range(2):
            written = int(other.written[e])
            starts = {s % size for s in range(max(0, written - size), written - 3 + 1)}
            mass = np.asarray(data.mass).reshape(-1)[e * size : (e + 1) * size]
            assert set(np.flatnonzero(mass > 0).tolist()) == starts


def row(rng, t, last):
    from mbrl_jax.core import Transition

    number = lambda: np.float32(rng.normal())  # noqa: E731
    obs = rng.normal(size=(2, 1)).astype(np.float32)
    return Transition(obs[0], np.int32(t), number(), np.float32(1), obs[1], np.bool_(last))
