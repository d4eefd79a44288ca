"""Gymnasium's environments: rows in a buffer equal a loop over the environment itself, written out here."""

from __future__ import annotations

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import contract
from helpers.host_envs import Hostile, Parts, Scripted

from mbrl_jax import presets
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Agent, Box, Discrete, EnvironmentFailed, Transition
from mbrl_jax.core.config import replace
from mbrl_jax.envs.adapters import gymnasium as adapter
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.host import HostDriver, make_host_loop
from mbrl_jax.train.loop import LoopConfig
from mbrl_jax.train.run import Job

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


def rows_of(env, num_envs, workers=0, agent=None):
    """The rows [T, N, ...] that the host loop stores in a chunk, and the chunk's report."""
    cfg = LoopConfig(num_envs=num_envs, unroll=2, inner=7, cycles=2, warmup=0, eval_episodes=0, capacity=200)
    loop = make_host_loop(agent or counter(), env, uniform(200), cfg, workers=workers)
    driver = HostDriver(loop, jax.random.split(jax.random.key(3), 1))
    work = driver.start(None).work
    work, report = driver.piece(work)
    driver.close()
    count = int(work.state.buffer.size[0])
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[0, :count]), work.state.buffer.rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, num_envs, *leaf.shape[1:]), rows), report


def steps_of(env, num_envs, draw=None):
    """The same rows from the environments themselves, without a loop."""
    envs, rng, steps, rows = env.make(num_envs, 0), np.random.default_rng(0), np.zeros(num_envs, np.float32), []
    obs = envs.reset(rng.integers(2**32, size=(num_envs, 2), dtype=np.uint32))
    for _ in range(28):
        action = -1 + SCALE * steps[:, None] if draw is None else draw(rng)
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
        (
            SMALL,
            gymnasium.spaces.Tuple((SMALL, SMALL)),
            "must have Box, Discrete, MultiDiscrete or MultiBinary actions, mine has Tuple",
        ),
        (gymnasium.spaces.Text(3), SMALL, "must have observations of Box, .* mine has Text"),
        (gymnasium.spaces.Dict({"a": gymnasium.spaces.Text(3)}), SMALL, "must have observations .* mine, a has Text"),
        (gymnasium.spaces.Dict({}), SMALL, "must have an observation, that of mine is an empty Dict"),
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


def drawer(space) -> Agent:
    """Draws its actions from a space."""

    def act(key, learner, carry, obs, explore):
        return space.sample(key), carry, {"steps": carry}

    return counter()._replace(act=act)


MATRIX = np.array([[0, 5], [-1, 0]])  # where the entries of "numbers" start

OBS = {
    "vector": lambda o: np.float32(o),
    "scalar": lambda o: np.float32(o),
    "matrix": lambda o: np.float32(o),
    "integers": lambda o: np.float32(o),
    "image": lambda o: o,
    "number": lambda o: np.int32(o + 1),
    "numbers": lambda o: np.int32([o[0, 0], o[0, 1] - 5, o[1, 0] + 1, o[1, 1]]),
    "bits": lambda o: np.float32(o),
    "dict": lambda o: {"image": o["image"], "pose": np.float32(o["pose"]), "gear": np.int32(o["gear"] + 1)},
    "tuple": lambda o: {"0": np.float32(o[0]), "1": OBS["numbers"](o[1])},
    "nested": lambda o: {
        "robot/arm": np.float32(o["robot"]["arm"]), "robot/hand": np.float32(o["robot"]["hand"]),
        "far/0": np.float32(o["far"][0]), "far/1": np.float32(o["far"][1]),
    },
}  # fmt: skip
ACTIONS = {
    "vector": lambda a: 3.0 * a.astype(np.float64),
    "number": lambda a: a - 1,
    "numbers": lambda a: np.array([[a[0], a[1] + 5], [a[2] - 1, a[3]]], np.int64),
    "bits": lambda a: a.astype(np.int8),
}
"""What a kind of space of the environment is for agents, and the other way round, each written out."""


def check_parts(rows, num_envs, obs, action):
    """The rows are those of the environment by hand, given the actions."""
    assert len(np.unique(rows.action.reshape(-1, num_envs, *rows.action.shape[2:]), axis=0)) > 1
    for e in range(num_envs):
        own = jax.tree.map(lambda leaf: leaf[:, e], rows)  # noqa: B023
        env, seen = Parts(obs, action), None
        for t in range(len(own.reward)):
            seen = env.reset()[0] if seen is None else seen
            now, reward, _, truncated, _ = env.step(ACTIONS[action](own.action[t]))
            want = (OBS[obs](seen), np.float32(reward), OBS[obs](now), truncated, 1.0)
            have = jax.tree.map(lambda leaf: leaf[t], (own.obs, own.reward, own.next_obs, own.last, own.discount))  # noqa: B023
            jax.tree.map(np.testing.assert_array_equal, have, want)
            assert [leaf.dtype for leaf in jax.tree.leaves(have[0])] == [x.dtype for x in jax.tree.leaves(want[0])]
            seen = None if truncated else now


KINDS = [(obs, "numbers") for obs in OBS] + [("vector", action) for action in ACTIONS if action != "numbers"]


@pytest.mark.parametrize(("obs", "action"), KINDS)
def test_rows_of_every_kind_of_space(obs, action):
    env = make_env("gymnasium:helpers.host_envs:Parts-v0", obs=obs, action=action)
    rows, _ = rows_of(env, 2, agent=drawer(env.spec.action))
    check_parts(rows, 2, obs, action)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
@pytest.mark.parametrize(("obs", "action"), [("dict", "numbers"), ("nested", "bits"), ("tuple", "number")])
def test_vector_environments_of_every_kind_of_space(obs, action, mode):
    def vector(count):
        return SyncVectorEnv([lambda: Parts(obs, action)] * count, autoreset_mode=mode)

    env = adapter.from_vector(vector, "mine")
    rows = steps_of(env, 2, lambda rng: np.stack([rng.integers(2, size=env.spec.action.shape) for _ in range(2)]))
    check_parts(rows, 2, obs, action)


def test_an_observation_without_a_part_that_the_space_has_is_named():
    class Less(Parts):
        def seen(self):
            return {"image": super().seen()["image"]}

    envs = adapter.from_env(Less, "mine").make(1)
    with pytest.raises(
        EnvironmentFailed, match="the observation must have gear, as the space says, got the entries im"
    ):
        envs.reset(np.zeros((1, 2), np.uint32))


def learned(algo, obs, action):
    """An agent's chunk of a few steps with learning; its metrics."""
    env = make_env("gymnasium:helpers.host_envs:Parts-v0", obs=obs, action=action)
    small = contract.settings(algo) if algo != "dreamer_v3" else replace(contract.settings(algo), {"net.depth": 2})
    loop = presets.build(algo, env, small, contract.LOOP)
    driver = loop.driver(Job(algo, "parts", small, contract.LOOP, 100))
    work, report = driver.start(None).work, None
    before = jax.tree.map(np.asarray, work.state.learner)
    while report is None:
        work, report = driver.piece(work)
    driver.close()
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, work.state.learner)), strict=True)]
    assert np.mean(moved) > 0.6
    assert all(np.isfinite(value).all() for value in report.metrics.values())


def kinds(algo):
    """The kinds of spaces that an agent takes."""
    entry = presets.AGENTS[algo]
    dicts = ("dict", "tuple", "nested")
    seen = [
        obs for obs in OBS if (obs not in dicts or entry.dicts) and (obs != "image" or entry.images or entry.planes)
    ]
    return [(algo, obs, "number" if algo == "ppo" else "vector") for obs in seen] + [
        (algo, "vector", action) for action in ACTIONS if action not in ("numbers", "bits") or entry.factored
    ]


QUICK = [("ppo", "nested", "number"), ("ppo", "vector", "numbers")]
EVERY = [case for algo in ("ppo", "sac", "dreamer_v3") for case in kinds(algo)]


@pytest.mark.parametrize(
    ("algo", "obs", "action"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in EVERY]
)
def test_agents_learn_from_every_kind_of_space(algo, obs, action):
    learned(algo, obs, action)


@pytest.mark.parametrize(
    ("obs", "action", "text"),
    [
        ("dict", "vector", "env must have one array as observation for sac, got .* with a dict of gear, image, pose"),
        ("image", "vector", "env must have no images as observations for sac"),
        ("vector", "bits", "env must have discrete or continuous actions for sac, got .* with MultiDiscrete"),
    ],
)
def test_what_an_agent_does_not_take_is_refused(obs, action, text):
    env = make_env("gymnasium:helpers.host_envs:Parts-v0", obs=obs, action=action)
    with pytest.raises(ValueError, match=text):
        presets.suited("sac", env)
