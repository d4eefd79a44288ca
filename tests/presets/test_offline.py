"""Runs that learn from data sets, and data sets that runs make."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax import presets
from mbrl_jax.buffers import datasets
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Box, DictSpace, Discrete, Spec
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets import collect, offline
from mbrl_jax.presets.offline import Data
from mbrl_jax.train.loop import LoopConfig

LOOP = {"inner": 5, "cycles": 2, "eval_episodes": 1}
STILL = LOOP | {"warmup": 0, "capacity": 1}
SMALL = {"hidden": (8,), "batch": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """SAC on the pendulum, hardly begun."""
    out = tmp_path_factory.mktemp("sac") / "run"
    loop = {"num_envs": 2, "warmup": 10, "inner": 10, "cycles": 2, "capacity": 48, "eval_episodes": 0}
    mbrl.train("sac", "Pendulum-v1", out=out, steps=60, agent=SMALL, loop=loop)
    return presets.load_run(out)


@pytest.fixture(scope="module")
def data(run):
    return collect.collect(run, jax.random.key(0), 430, envs=2, sampled=True, random=0.5)


# Collecting -----------------------------------------------------------------------------------------------------------


def pendulum(obs, action):
    """One step of Gymnasium's pendulum (its documentation), in float64."""
    cos, sin, speed = obs.T
    angle, torque = np.arctan2(sin, cos), 2 * np.clip(action[:, 0], -1, 1)
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + (15 * sin + 3 * torque) * 0.05, -8, 8)
    angle = angle + speed * 0.05
    return np.stack([np.cos(angle), np.sin(angle), speed], 1), reward


def test_collected_rows_obey_the_environment_and_follow_each_other(data):
    assert data.rows == 430
    next_obs, reward = pendulum(data.obs.astype(np.float64), data.action.astype(np.float64))
    np.testing.assert_allclose(data.next_obs, next_obs, atol=2e-5)
    np.testing.assert_allclose(data.reward, reward, atol=2e-4)
    assert not data.terminated.any()
    # Two halves of two copies: 215 random rows as 108 and 107, 215 of the policy likewise; episodes of 200 steps.
    starts = [rows.start for rows in datasets.episodes(data)]
    assert len(starts) == 4
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [*np.array(starts[1:]) - 1, 429])
    assert data.about["env"] == "Pendulum-v1"
    assert data.about["episodes"] == 0  # none of them is complete


def test_random_rows_are_uniform_and_the_policys_are_its_own(run, data):
    random, own = data.action[:215, 0], data.action[215:]
    assert abs(random.mean()) < 0.15
    assert 0.28 < (random**2).mean() < 0.39  # 1/3, with a deviation of 0.02
    greedy = collect.collect(run, jax.random.key(0), 20, envs=2)
    for obs, action in zip(greedy.obs, greedy.action, strict=True):
        expected, *_ = run.agent.act(jax.random.key(1), run.state.learner, (), jnp.asarray(obs), False)
        np.testing.assert_allclose(action, expected, atol=1e-5)
    assert own.std() > greedy.action.std()


def test_the_replay_buffers_rows_come_in_order_each_environments_together(run):
    """60 rows of two environments in a ring of 48: the newest 24 steps of each."""
    data, ring = collect.replayed(run), run.state.buffer
    assert data.rows == 48
    assert int(ring.head) == 60 % 48
    rewards = np.asarray(ring.rows.reward)
    oldest = np.roll(rewards, -12)
    np.testing.assert_array_equal(data.reward, np.concatenate([oldest[::2], oldest[1::2]]))
    assert len(datasets.episodes(data)) == 2
    assert data.about["replay"] is True


def test_what_cannot_be_collected_is_refused(run):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        collect.collect(run, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="plans in the simulator"):
        collect.collect(run._replace(algo="mpc"), jax.random.key(0), 5)
    with pytest.raises(ValueError, match="single transitions"):
        collect.replayed(run._replace(state=run.state._replace(buffer=())))


# Data against the environment -----------------------------------------------------------------------------------------

SPEC = Spec(Box((3,)), Box((1,), -1.0, 1.0), 200, terminates=False, name="Pendulum-v1")


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        ({"obs": np.zeros((4, 2)), "next_obs": np.zeros((4, 2))}, SPEC, r"obs must be of shape \[4, 3\] for Pendulum"),
        ({"action": np.zeros((4, 2))}, SPEC, r"action must be of shape \[4, 1\]"),
        ({"action": np.full((4, 1), 1.5)}, SPEC, r"action must be from -1.0 to 1.0 .* got \[1.5\] in row 0"),
        ({"terminated": np.arange(4) == 2}, SPEC, "terminated must be false in Pendulum-v1, .* in row 2"),
        ({"action": np.array([0, 1, 2, 1])}, SPEC._replace(action=Discrete(2)), r"action must be .* got 2 in row 2"),
        ({"action": np.array([0, 0.5, 1, 1])}, SPEC._replace(action=Discrete(2)), "whole numbers"),
        ({}, SPEC._replace(obs=DictSpace({"a": Box((3,))})), "are a dict"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_environment_are_named(changes, spec, message):
    made = {
        "obs": np.zeros((4, 3)), "action": np.zeros((4, 1)), "reward": np.zeros(4), "terminated": np.zeros(4),
        "truncated": np.zeros(4), "next_obs": np.zeros((4, 3)),
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"file.npz: .*{message}|file.npz: {message}"):
        offline.rows_for(datasets.checked(made | changes), spec, spec, "file.npz")


def test_numbered_states_become_one_hot():
    env = make_env("FrozenLake")
    made = {
        "obs": np.array([0, 15, 3]), "action": np.array([0, 3, 1]), "reward": np.zeros(3), "terminated": np.zeros(3),
        "truncated": np.zeros(3), "next_obs": np.array([4, 15, 2]),
    }  # fmt: skip
    rows = offline.rows_for(datasets.checked(made), env.spec, presets.suited("bc", env).spec)
    np.testing.assert_array_equal(rows.obs, np.eye(16)[[0, 15, 3]])
    np.testing.assert_array_equal(rows.action, [0, 3, 1])
    with pytest.raises(ValueError, match=r"obs must be from 0 to 15 in FrozenLake\S*, got 16 in row 1"):
        offline.rows_for(
            datasets.checked(made | {"obs": np.array([0, 16, 3])}), env.spec, presets.suited("bc", env).spec
        )


# Runs -----------------------------------------------------------------------------------------------------------------


def no_step(*args):
    raise AssertionError("an offline run steps in no environment")


def test_an_offline_loop_takes_no_step_and_updates_once_for_each(data):
    env = make_env("Pendulum-v1")._replace(step=no_step)
    rows = offline.rows_for(data, env.spec, env.spec)
    cfg = replace(presets.AGENTS["bc"].config(), SMALL)
    loop = presets.build("bc", env, cfg, LoopConfig(**STILL | {"eval_episodes": 0}), data=Data(rows, True))
    state, report = jax.jit(loop.chunk)(jax.jit(loop.init)(jax.random.key(0)))
    counts = [leaf for leaf in jax.tree.leaves(state.learner.opt) if leaf.dtype == jnp.int32]
    assert [int(count) for count in counts] == [10]
    assert jax.tree.leaves(state.buffer) == []
    assert float(report.metrics["episodes"]) == 0
    for name, value in {"num_envs": 1, "unroll": 1, "updates": 1, "hold": 1, "warmup": 0, "overlap": 0}.items():
        with pytest.raises(ValueError, match=rf"loop\.{name} must be {value} in an offline run, .* got 2"):
            presets.build("bc", env, cfg, LoopConfig(**STILL | {name: 2}), data=Data(rows, True))


@pytest.mark.parametrize(("algo", "explorer"), [("dqn", "rnd"), ("mbpo", "disagreement")])
def test_an_offline_run_refuses_to_explore(algo, explorer):
    env = presets.suited(algo, make_env("CartPole-v1"))
    cfg = replace(presets.preset(algo, "CartPole-v1").agent, {"explorer": explorer})
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, 8, 0), offline.placeholder(env.spec))
    loop = LoopConfig(**STILL)
    with pytest.raises(ValueError, match=rf"agent\.explorer must be none in an offline run, .* got {explorer}"):
        presets.build(algo, "CartPole-v1", cfg, loop, data=Data(rows, True))
    presets.build(algo, "CartPole-v1", replace(cfg, {"explorer": "none"}), loop, data=Data(rows, True))


def test_an_offline_run_resumed_equals_one_that_was_not_stopped(data, tmp_path):
    file = tmp_path / "data.npz"
    datasets.save(file, data)
    how = {"agent": SMALL, "loop": LOOP, "seeds": 2, "data": file}
    whole = mbrl.train("bc", "Pendulum-v1", out=tmp_path / "whole", steps=30, **how)
    mbrl.train("bc", "Pendulum-v1", out=tmp_path / "part", steps=10, **how)
    resumed = mbrl.resume(tmp_path / "part", steps=30)
    for x, y in zip(jax.tree.leaves(whole.state.learner), jax.tree.leaves(resumed.state.learner), strict=True):
        np.testing.assert_array_equal(x, y)
    evaluations = [(tmp_path / name / "eval.csv").read_text() for name in ("whole", "part")]
    assert evaluations[0] == evaluations[1]
    assert len(evaluations[0].splitlines()) == 1 + 3 * 2
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (summary["env_steps"], summary["updates"]) == (30, 30)
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (saved["data"], saved["offline"]) == (str(file), True)

    datasets.save(file, data._replace(reward=data.reward + 1))
    with pytest.raises(ValueError, match="is not what it was when the run began"):
        mbrl.resume(tmp_path / "part", steps=40)
    file.unlink()
    with pytest.raises(ValueError, match="there is no file"):
        mbrl.resume(tmp_path / "part", steps=40)
    assert mbrl.load(tmp_path / "part").policy(np.array([1.0, 0.0, 0.0]))[0].shape == (1,)  # needs no data


def test_runs_without_the_data_that_they_need_are_refused(data, tmp_path):
    datasets.save(tmp_path / "b.npz", data)
    with pytest.raises(ValueError, match="data must name a data set for bc"):
        mbrl.train("bc", "Pendulum-v1", out=tmp_path / "none")
    with pytest.raises(ValueError, match="offline must come with data"):
        mbrl.train("sac", "Pendulum-v1", out=tmp_path / "none", offline=True)
    with pytest.raises(ValueError, match="data must be empty for ppo"):
        mbrl.train("ppo", "Pendulum-v1", out=tmp_path / "none", data=tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"obs must be of shape \[430, 4\] for CartPole-v1, got \[430, 3\]"):
        mbrl.train("bc", "CartPole-v1", out=tmp_path / "none", data=tmp_path / "b.npz")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_data_set_may_be_moved_and_not_exchanged(data, tmp_path):
    datasets.save(tmp_path / "a.npz", data)
    how = {"agent": SMALL, "loop": LOOP, "steps": 10}
    mbrl.train("bc", "Pendulum-v1", out=tmp_path / "run", data=tmp_path / "a.npz", **how)
    shutil.move(tmp_path / "a.npz", tmp_path / "b.npz")
    again = mbrl.train(
        "bc", "Pendulum-v1", out=tmp_path / "run", data=tmp_path / "b.npz", resume=True, **how | {"steps": 20}
    )
    assert again.finished
    datasets.save(tmp_path / "other.npz", data._replace(reward=data.reward + 1))
    with pytest.raises(ValueError, match="data_digest is"):
        mbrl.train("bc", "Pendulum-v1", out=tmp_path / "run", data=tmp_path / "other.npz", resume=True, **how)


def test_an_online_run_begins_with_the_rows_of_its_data(data, tmp_path):
    datasets.save(tmp_path / "a.npz", data)
    loop = {"warmup": 0, "inner": 5, "cycles": 2, "eval_episodes": 0}
    result = mbrl.train(
        "sac", "Pendulum-v1", out=tmp_path / "run", data=tmp_path / "a.npz", steps=10, agent=SMALL, loop=loop
    )
    ring = jax.tree.map(lambda leaf: leaf[0], result.state.buffer)
    assert int(ring.size) == 440
    np.testing.assert_array_equal(ring.rows.reward[:430], data.reward)
    np.testing.assert_array_equal(ring.rows.obs[:430], data.obs)
    assert not np.isin(ring.rows.obs[430:440, 2], data.obs[:, 2]).all()
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["offline"], saved["loop"]["capacity"]) == (False, 20_000 + 430)
    assert presets.load_run(tmp_path / "run").state.buffer.size == 440
    with pytest.raises(ValueError, match=r"loop\.capacity must be at least 430, the rows of the data, got 400"):
        mbrl.train(
            "sac", "Pendulum-v1", out=tmp_path / "x", data=tmp_path / "a.npz", steps=10, loop=loop | {"capacity": 400}
        )


def test_evaluation_is_pythons_where_steps_are(data, tmp_path):
    pytest.importorskip("gymnasium", reason="evaluates in one of its environments")
    datasets.save(tmp_path / "a.npz", data)
    how = {"agent": SMALL, "loop": LOOP, "data": tmp_path / "a.npz", "seeds": 2}
    here = mbrl.train("bc", "Pendulum-v1", out=tmp_path / "jax", steps=10, **how)
    there = mbrl.train("bc", "gymnasium:Pendulum-v1", out=tmp_path / "python", steps=10, **how)
    for x, y in zip(jax.tree.leaves(here.state.learner), jax.tree.leaves(there.state.learner), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    returns = [row.split(",")[3:] for row in (tmp_path / "python" / "eval.csv").read_text().splitlines()[1:]]
    assert [int(length) for _, length in returns] == [200, 200]
    assert all(-2000 < float(total) < -100 for total, _ in returns)
    again = mbrl.resume(tmp_path / "python", steps=20)
    assert again.finished
    made = collect.collect(presets.load_run(tmp_path / "python"), jax.random.key(0), 205, envs=1)
    next_obs, reward = pendulum(made.obs.astype(np.float64), made.action.astype(np.float64))
    np.testing.assert_allclose(made.next_obs, next_obs, atol=2e-5)
    assert [(rows.start, rows.stop) for rows in datasets.episodes(made)] == [(0, 200), (200, 205)]
    assert made.about["episodes"] == 1
    np.testing.assert_allclose(made.about["mean_return"], reward[:200].sum(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["iql", "mopo", "morel", "combo", "rambo"])
def test_every_offline_agent_resumes_bitwise_in_the_midst_of_its_refreshes(algo, data, tmp_path):
    datasets.save(tmp_path / "a.npz", data)
    small = SMALL if algo == "iql" else {
        "policy.hidden": (8,), "policy.batch": 8, "model.hidden": (8,), "fit.max_epochs": 2, "imagined.rollouts": 20,
    }  # fmt: skip
    how = {"agent": small, "loop": LOOP, "data": tmp_path / "a.npz"}
    whole = mbrl.train(algo, "Pendulum-v1", out=tmp_path / "whole", steps=30, **how)
    mbrl.train(algo, "Pendulum-v1", out=tmp_path / "part", steps=10, **how)
    resumed = mbrl.resume(tmp_path / "part", steps=30)
    for x, y in zip(jax.tree.leaves(whole.state.learner), jax.tree.leaves(resumed.state.learner), strict=True):
        np.testing.assert_array_equal(x, y)
