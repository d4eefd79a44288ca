"""The DeepMind Control Suite: rows equal the task's own time steps."""

from __future__ import annotations

import numpy as np
import pytest

suite = pytest.importorskip("dm_control.suite", reason="dm_control is an extra")

from mbrl_jax.envs.adapters import dm_control as adapter  # noqa: E402
from mbrl_jax.envs.registry import make_env  # noqa: E402


def seeds(value: int) -> np.ndarray:
    return np.array([[0, value]], np.uint32)


@pytest.mark.parametrize("repeat", [1, 2])
def test_rows_are_those_of_the_task(repeat):
    name = "reacher-easy" + (f"-x{repeat}" if repeat > 1 else "")
    env = make_env(f"dm_control:{name}", time_limit=0.2)  # 10 steps
    assert env.spec.name == f"dm_control:{name}"
    assert (env.spec.obs.shape, env.spec.action.shape, env.spec.time_limit) == ((6,), (2,), 10 // repeat)
    assert not env.spec.terminates
    envs = env.make(1, 0)
    task = suite.load("reacher", "easy", task_kwargs={"time_limit": 0.2})
    task.task.random.seed([0, 7])
    step = task.reset()

    def vector(step):
        return np.concatenate([step.observation[part].ravel() for part in ("position", "to_target", "velocity")])

    np.testing.assert_array_equal(envs.reset(seeds(7))[0], vector(step).astype(np.float32))
    rng = np.random.default_rng(0)
    for t in range(10 // repeat):
        action = rng.uniform(-1.5, 1.5, 2).astype(np.float32)
        reward = 0.0
        for _ in range(repeat):
            step = task.step(np.clip(action, -1, 1).astype(np.float64))
            reward += step.reward
        out = envs.step(action[None], seeds(8), None)
        np.testing.assert_array_equal(out.next_obs[0], vector(step).astype(np.float32))
        assert float(out.reward[0]) == pytest.approx(reward)
        assert (bool(out.last[0]), float(out.discount[0])) == (t == 10 // repeat - 1, 1.0)
    assert not np.array_equal(out.obs, out.next_obs)
    envs.close()


def test_a_seed_gives_the_same_episode_in_every_copy():
    envs = make_env("dm_control:cartpole-swingup").make(2, 0)
    first = envs.reset(np.array([[0, 5], [0, 5]], np.uint32))
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first, envs.reset(np.array([[0, 6], [1, 5]], np.uint32)))


def test_a_task_with_an_end_of_its_own_is_known():
    assert make_env("dm_control:lqr-lqr_2_1").spec.terminates


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        ("cartpole-swngup", {}, "must be a task of dm_control, one of cartpole-balance, .*got 'cartpole-swngup'"),
        ("robot", {}, "one of acrobot-swingup"),
        ("cartpole-swingup", {"speed": 3}, "cannot be made with speed=3"),
    ],
)
def test_tasks_and_arguments_that_do_not_exist(name, kwargs, text):
    with pytest.raises(ValueError, match=text):
        make_env(f"dm_control:{name}", **kwargs)


def test_versions_that_do_not_go_together_are_named(monkeypatch):
    def fail(name):
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")

    monkeypatch.setattr(adapter.importlib, "import_module", fail)
    with pytest.raises(ValueError, match="dm_control does not work with this version of mujoco"):
        adapter.make("cartpole-swingup")
