"""Host environments side by side: rows equal loops over single ones, and what breaks the contract is named."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, EnvironmentFailed, Spec
from mbrl_jax.envs import host
from mbrl_jax.envs.host import One


def counting(limit: int = 4, dtype: str = "float64") -> One:
    """Counts steps; the episode ends at `limit`, terminated where the seed is odd."""
    state = {"t": 0, "seed": 0}

    def reset(seed):
        state.update(t=0, seed=seed % 1000)
        return np.array([state["seed"], 0], dtype)

    def step(action):
        state["t"] += 1
        last = state["t"] == limit
        return np.array([state["seed"], state["t"]], dtype), state["t"], float(not (last and state["seed"] % 2)), last

    return One(reset, step, lambda: None, lambda: np.full((2, 2, 3), state["seed"], np.uint8))


SPEC = Spec(Box((2,)), Discrete(2), 4, name="counting")


def seeds(*values):
    return np.array([[0, value] for value in values], np.uint32)


@pytest.mark.parametrize("workers", [0, pytest.param(2, id="2-processes")])
def test_rows_are_those_of_the_single_environments(workers):
    envs = host.host_env(SPEC, counting).make(3, workers)
    np.testing.assert_array_equal(envs.reset(seeds(1, 2, 3)), [[1, 0], [2, 0], [3, 0]])
    kept = None
    for t in range(1, 5):
        out = envs.step(np.zeros(3, np.int32), seeds(4, 5, 6), None)
        np.testing.assert_array_equal(out.next_obs, [[1, t], [2, t], [3, t]])
        np.testing.assert_array_equal(out.reward, [t, t, t])
        kept = out if t == 1 else kept
    np.testing.assert_array_equal(out.last, True)
    np.testing.assert_array_equal(out.discount, [0, 1, 0])
    np.testing.assert_array_equal(out.obs, [[4, 0], [5, 0], [6, 0]])
    np.testing.assert_array_equal(kept.obs[:, 1], 1)  # no later step wrote to it
    assert (out.obs.dtype, out.reward.dtype, out.discount.dtype, out.last.dtype) == ("f4", "f4", "f4", "?")
    out = envs.step(np.zeros(3, np.int32), seeds(7, 8, 9), [True, False, True])
    np.testing.assert_array_equal(out.next_obs, [[4, 1], [5, 0], [6, 1]])  # the second one stayed as it was
    assert [int(envs.render(i)[0, 0, 0]) for i in range(3)] == [4, 5, 6]
    envs.close()


@pytest.mark.parametrize("workers", [0, pytest.param(2, id="2-processes")])
def test_without_seeds_no_next_episode_begins(workers):
    envs = host.host_env(SPEC, counting).make(2, workers)
    envs.reset(seeds(1, 2))
    for t in range(1, 5):
        out = envs.step(np.zeros(2, np.int32), None, None)
        np.testing.assert_array_equal(out.obs, [[1, t], [2, t]])
    np.testing.assert_array_equal(out.last, True)
    envs.close()


def test_environments_to_be_drawn_are_made_for_it():
    blank = lambda: counting()._replace(render=None)  # noqa: E731
    env = host.flatten(host.host_env(SPEC, blank, drawn=counting))
    for drawn in (False, True):
        envs = env.make(1, 0, drawn)
        envs.reset(seeds(7))
        assert (envs.render(0) is not None) == drawn
    assert env.drawable
    assert not host.host_env(SPEC, counting).drawable


@pytest.mark.parametrize(("repeat", "rewards", "limit"), [(1, [1, 2, 3, 4], 4), (3, [6, 4], 2), (5, [10], 1)])
def test_repetition_sums_rewards_up_to_the_end(repeat, rewards, limit):
    env = host.host_env(SPEC, counting, repeat)
    assert env.spec.time_limit == limit
    envs = env.make(1, 0)
    envs.reset(seeds(1))
    outs = [envs.step(np.zeros(1, np.int32), seeds(3), None) for _ in rewards]
    assert [float(out.reward[0]) for out in outs] == rewards
    assert [bool(out.last[0]) for out in outs] == [False] * (len(rewards) - 1) + [True]
    assert [float(out.discount[0]) for out in outs][-1] == 0
    np.testing.assert_array_equal(outs[-1].next_obs, [[1, 4]])
    with pytest.raises(ValueError, match="repeat must be at least 1"):
        host.host_env(SPEC, counting, 0)


def test_seeds_are_whole_numbers_of_64_bits():
    assert host.whole(np.array([[1, 2], [0, 2**32 - 1]], np.uint32)) == [2**32 + 2, 2**32 - 1]


def broken(field: str) -> One:
    """The second step breaks the contract."""
    count = {"t": 0}

    def step(action):
        count["t"] += 1
        row = {"obs": np.zeros(2), "reward": 0.0, "discount": 1.0}
        if count["t"] == 2:
            row |= {
                "shape": {"obs": np.zeros(3)},
                "nan": {"obs": np.array([0, np.nan])},
                "text": {"obs": "left"},
                "reward": {"reward": np.nan},
                "vector": {"reward": np.zeros(2)},
                "discount": {"discount": None},
            }[field]
        return row["obs"], row["reward"], row["discount"], False

    return One(lambda seed: np.zeros(2), step, lambda: None)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("shape", r"the observation must have shape \(2,\), as the space says, got \(3,\)"),
        ("nan", r"the observation is NaN in 1 of 2 entries, first \[1\]"),
        ("text", r"the observation must be float32 of shape \(2,\), got a str"),
        ("reward", "reward is NaN"),
        ("vector", r"reward must be a number, got ndarray of shape \(2,\)"),
        ("discount", "discount must be a number, got NoneType"),
    ],
)
def test_rows_that_break_the_contract_are_named(field, text):
    envs = host.host_env(SPEC, partial(broken, field)).make(2, 0)
    envs.reset(seeds(0, 1))
    envs.step(np.zeros(2, np.int32), seeds(0, 1), None)
    with pytest.raises(EnvironmentFailed, match=f"^environment counting, copy 0, step 2: {text}"):
        envs.step(np.zeros(2, np.int32), seeds(0, 1), None)


def unmakable() -> One:
    raise OSError("no such robot")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_cannot_be_made_is_named(workers):
    with pytest.raises(EnvironmentFailed, match="copy 0, step 0: making it raised OSError: no such robot"):
        host.host_env(SPEC, unmakable).make(1, workers)
    with pytest.raises(ValueError, match="env_workers must be 0 for an environment that is no function of a module"):
        host.host_env(SPEC, lambda: counting()).make(1, 1)


def test_dicts_and_tuples_of_arrays_are_rows_too():
    space = {"image": Box((2, 2), dtype=np.uint8), "pose": (Box((1,)), Discrete(3))}
    plan = host.Plan(lambda: two_parts("pose"), host.layout(space), host.layout(Discrete(2)), 1)
    envs = host.side_by_side("parts", plan, 2)
    obs = envs.reset(seeds(0, 1))
    assert obs["image"].shape == (2, 2, 2)
    assert obs["image"].dtype == np.uint8
    assert [part.shape for part in obs["pose"]] == [(2, 1), (2,)]
    wrong = host.side_by_side("parts", plan._replace(make=lambda: two_parts("position")), 1)
    with pytest.raises(EnvironmentFailed, match=r"the observation of reset must have the entries \['image', 'pose'\]"):
        wrong.reset(seeds(0))


def two_parts(name: str) -> One:
    obs = {"image": np.zeros((2, 2)), name: (np.ones(1), 2)}
    return One(lambda seed: obs, lambda action: (obs, 0.0, 1.0, False), lambda: None)


def test_one_hot_and_flat_observations():
    spec = SPEC._replace(obs=Discrete(5))
    env = host.host_env(spec, lambda: One(lambda seed: seed % 5, lambda a: (3, 0.0, 1.0, False), lambda: None))
    hot = host.one_hot(env)
    assert hot.spec.obs.shape == (5,)
    envs = hot.make(2, 0)
    np.testing.assert_array_equal(envs.reset(seeds(1, 4)), np.eye(5)[[1, 4]])
    np.testing.assert_array_equal(envs.step(np.zeros(2, np.int32), seeds(0, 0), None).obs, np.eye(5)[[3, 3]])
    flat = host.flatten(host.host_env(SPEC._replace(obs=Box((2, 1), np.zeros((2, 1)), 1.0)), planes))
    assert flat.spec.obs.shape == flat.spec.obs.low.shape == (2,)
    np.testing.assert_array_equal(flat.make(1, 0).reset(seeds(0)), [[1, 2]])
    with pytest.raises(ValueError, match="flatten needs a Box"):
        host.flatten(env)
    with pytest.raises(ValueError, match="one_hot needs discrete"):
        host.one_hot(flat)


def planes() -> One:
    obs = np.array([[1.0], [2.0]])
    return One(lambda seed: obs, lambda action: (obs, 0.0, 1.0, False), lambda: None)


def test_actions_are_scaled_to_their_bounds_and_clipped():
    step = host.scaled(lambda action: action, [-2.0, 0.0], [6.0, 1.0], (2,), np.float64)
    np.testing.assert_allclose(step(np.array([-1, 0.5])), [-2, 0.75])
    np.testing.assert_allclose(step(np.array([7, -9])), [6, 0])
    assert step(np.zeros(2)).dtype == np.float64
