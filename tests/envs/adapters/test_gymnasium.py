"""Gymnasium's environments: rows in a buffer equal a loop over the environment itself, written out here."""

from __future__ import annotations

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers.host_envs import Hostile, Scripted

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Agent, Box, Discrete, Transition
from mbrl_jax.envs.adapters import gymnasium as adapter
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.host import HostDriver, make_host_loop
from mbrl_jax.train.loop import LoopConfig

SCALE = 0.25
"""The agent's action is its step of the episode, times this."""


def counter() -> Agent:
    """Acts by the number of its steps in the episode, which it stores; so do rows tell whether its memory was reset."""

    def act(key, learner, carry, obs, explore):
        return jax.numpy.full(1, -1.0 + SCALE * carry), carry + 1, {"steps": carry}

    def update(key, learner, replay):
        return learner, {"size": replay.size.astype(jax.numpy.float32)}, ()

    def follow(key, learner, carry, obs, action):
        return carry + 1, {"steps": carry}

    return Agent(lambda key: jax.numpy.zeros(()), lambda: jax.numpy.float32(0), act, update, follow=follow)


def rows_of(env, num_envs, workers=0):
    """The rows [T, N, ...] that the host loop stores in a chunk, and the chunk's report."""
    cfg = LoopConfig(num_envs=num_envs, unroll=2, inner=7, cycles=2, warmup=0, eval_episodes=0, capacity=200)
    loop = make_host_loop(counter(), env, uniform(200), cfg, workers=workers)
    driver = HostDriver(loop, jax.random.split(jax.random.key(3), 1))
    work = driver.start(None).work
    work, report = driver.piece(work)
    driver.close()
    count = int(work.state.buffer.size[0])
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[0, :count]), work.state.buffer.rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, num_envs, *leaf.shape[1:]), rows), report


def steps_of(env, num_envs):
    """The same rows from the environments themselves, without a loop."""
    envs, rng, steps, rows = env.make(num_envs, 0), np.random.default_rng(0), np.zeros(num_envs, np.float32), []
    obs = envs.reset(rng.integers(2**32, size=(num_envs, 2), dtype=np.uint32))
    for _ in range(28):
        action = -1 + SCALE * steps[:, None]
        out = envs.step(action, rng.integers(2**32, size=(num_envs, 2), dtype=np.uint32), None)
        extras = {"steps": steps}
        rows.append(Transition(obs, action, out.reward, out.discount, out.next_obs, out.last, extras))
        obs, steps = out.obs, np.where(out.last, np.float32(0), steps + 1)
    envs.close()
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def expected(env, rows):
    """The same rows of one environment by hand, with the seeds that the first observations of episodes show."""
    obs, steps, out = None, 0, []
    for t in range(len(rows.reward)):
        if obs is None:
            env.reset(seed=0)
            env.unwrapped.obs[0] = rows.obs[t][0]  # the episode's random number
            obs, steps = env.unwrapped.obs.copy(), 0
        action = np.float32([-1.0 + SCALE * steps])
        next_obs, reward, terminated, truncated, _ = env.step(2 + 4 * np.clip(action, -1, 1))
        last = terminated or truncated
        out.append((obs, action, reward, 0.0 if terminated else 1.0, next_obs.copy(), last, steps))
        obs, steps = (None, 0) if last else (next_obs.copy(), steps + 1)
    return [np.array(part, np.float32) for part in zip(*out, strict=True)]


def check(rows, num_envs, terminated, truncated):
    for e in range(num_envs):
        own = jax.tree.map(lambda leaf: leaf[:, e], rows)  # noqa: B023
        for have, want in zip(
            (own.obs, own.action, own.reward, own.discount, own.next_obs, own.last, own.extras["steps"]),
            expected(Scripted(terminated, truncated), own),
            strict=True,
        ):
            np.testing.assert_array_equal(np.asarray(have, np.float32), want)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("terminated", [False, True])
def test_rows_equal_a_loop_over_the_environment(terminated, truncated, num_envs):
    env = make_env("gymnasium:helpers.host_envs:Scripted-v0", terminated=terminated, truncated=truncated)
    rows, report = rows_of(env, num_envs)
    assert rows.reward.shape == (28, num_envs)
    check(rows, num_envs, terminated, truncated)
    starts = rows.obs[:, :, 0][rows.obs[:, :, 2] == 0]
    assert len(set(starts.tolist())) == len(starts)  # every episode of every environment has a seed of its own
    assert float(report.metrics["episodes"][0]) == rows.last.sum() == (num_envs * 7 if terminated or truncated else 0)


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
@pytest.mark.parametrize(("terminated", "truncated"), [(True, False), (False, True), (True, True)])
def test_rows_of_vector_environments_of_the_users(terminated, truncated, mode, num_envs):
    def vector(count):
        return SyncVectorEnv([lambda: Scripted(terminated, truncated, True)] * count, autoreset_mode=mode)

    rows = steps_of(adapter.from_vector(vector, "mine"), num_envs)
    check(rows, num_envs, terminated, truncated)
    assert rows.last.sum() == num_envs * 7


def test_the_false_step_of_next_step_is_refused():
    with pytest.raises(ValueError, match=r"env mine must be made with autoreset_mode=.*SAME_STEP.*got NEXT_STEP"):
        adapter.from_vector(lambda count: SyncVectorEnv([Scripted] * count), "mine")


@pytest.mark.parametrize("how", ["nan", "shape", "raise", "reward"])
def test_faults_of_vector_environments_are_named(how):
    def vector(count):
        return SyncVectorEnv([lambda: Hostile(how, 3)] * count, autoreset_mode=AutoresetMode.SAME_STEP)

    with pytest.raises(Exception, match=r"environment mine, copy 0, step 3: ") as caught:
        steps_of(adapter.from_vector(vector, "mine"), 2)
    assert {"nan": "NaN", "shape": "shape", "raise": "the motor stalled", "reward": "reward"}[how] in str(caught.value)


def test_the_users_own_environment():
    env = adapter.from_env(lambda: Scripted(False, True), "mine")
    assert env.spec.name == "mine"
    check(steps_of(env, 2), 2, False, True)


def test_a_time_limit_around_an_unregistered_environment_is_found():
    base = lambda: gymnasium.make("Pendulum-v1").unwrapped  # noqa: E731
    wrap = gymnasium.wrappers
    env = adapter.from_env(lambda: wrap.FlattenObservation(wrap.TimeLimit(base(), 20)), "mine")
    assert env.spec.time_limit == 20
    assert adapter.from_env(lambda: wrap.TimeLimit(base(), 20), "mine", 3).spec.time_limit == 7


def test_what_the_spec_says():
    pendulum, cart = make_env("gymnasium:Pendulum-v1").spec, make_env("gymnasium:CartPole-v1-x3").spec
    assert (pendulum.obs.shape, pendulum.action.shape, pendulum.time_limit) == ((3,), (1,), 200)
    assert (pendulum.action.low, pendulum.action.high, pendulum.terminates) == (-1.0, 1.0, False)
    assert (cart.action, cart.time_limit, cart.terminates) == (Discrete(2), 167, True)
    assert cart.name == "gymnasium:CartPole-v1-x3"
    lake = make_env("gymnasium:FrozenLake-v1", map_name="8x8").spec
    assert (lake.obs, lake.action) == (Discrete(64), Discrete(4))
    limited = make_env("gymnasium:Pendulum-v1", max_episode_steps=70).spec
    assert limited.time_limit == 70


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        ("Hoper-v5", {}, "must be an environment of Gymnasium, got 'Hoper-v5'"),
        ("no_such_module:X-v0", {}, "No module named 'no_such_module'"),
        ("Pendulum-v1", {"gravity": 9.8}, "cannot be made with gravity=9.8"),
    ],
)
def test_names_and_arguments_that_do_not_exist(name, kwargs, text):
    with pytest.raises(ValueError, match=text):
        make_env(f"gymnasium:{name}", **kwargs)


class Spaces(gymnasium.Env):
    """Only its spaces count."""

    def __init__(self, obs, action):
        self.observation_space, self.action_space = obs, action
        self.taken = None

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        self.taken = action
        return self.observation_space.sample(), 0.0, False, False, {}


UNBOUNDED = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
SMALL = gymnasium.spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize(
    ("obs", "action", "text"),
    [
        (SMALL, UNBOUNDED, "must have actions with finite bounds.*give its action space bounds"),
        (SMALL, gymnasium.spaces.Tuple((SMALL, SMALL)), "must have Box or Discrete actions, mine has Tuple"),
        (gymnasium.spaces.Text(3), SMALL, "must have Box, Discrete or MultiBinary observations, mine has Text"),
    ],
)
def test_spaces_that_cannot_be_handled(obs, action, text):
    with pytest.raises(ValueError, match=text):
        adapter.from_env(lambda: Spaces(obs, action), "mine")


def test_spaces_are_turned_into_those_of_agents():
    inner = Spaces(gymnasium.spaces.Discrete(3, start=5), gymnasium.spaces.Discrete(4, start=-1))
    env = adapter.from_env(lambda: inner, "mine")
    assert (env.spec.obs, env.spec.action, env.spec.time_limit) == (Discrete(3), Discrete(4), None)
    one = adapter.make_one(lambda: inner)
    assert one.reset(0) in (0, 1, 2)
    one.step(np.int32(0))
    assert inner.taken == -1
    wide = Spaces(gymnasium.spaces.MultiBinary(3), gymnasium.spaces.Box(0.0, 4.0, (2, 2), np.float64))
    env = adapter.from_env(lambda: wide, "mine")
    assert env.spec.obs == Box((3,), 0.0, 1.0)
    assert env.spec.action.shape == (4,)
    adapter.make_one(lambda: wide).step(np.array([-1.0, 0.0, 1.0, 5.0]))
    np.testing.assert_array_equal(wide.taken, [[0, 2], [4, 4]])
    images = Spaces(gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8), SMALL)
    assert adapter.from_env(lambda: images, "mine").spec.obs.dtype == np.uint8
