"""What a run begins with, whichever way it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_jax import presets
from mbrl_jax.buffers import datasets
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets.task import of_data, task


def rows(file, count=30):
    obs = np.random.default_rng(0).uniform(-1, 1, (count + 1, 3))
    fields = {"obs": obs[:-1], "action": np.zeros((count, 1)), "reward": np.zeros(count), "next_obs": obs[1:]}
    ends = {"terminated": np.zeros(count), "truncated": np.arange(1, count + 1) % 10 == 0}
    datasets.save(str(file), datasets.checked(fields | ends))
    return str(file)


def test_a_name_an_environment_and_a_function_give_the_same():
    named = task("sac", "Pendulum-v1")
    assert (named.name, named.hosted, named.data) == ("Pendulum-v1", False, None)
    assert str(named.env.spec) == str(make_env("Pendulum-v1").spec)
    assert named.known == presets.preset("sac", "Pendulum-v1")
    for env in (make_env("Pendulum-v1"), lambda: make_env("Pendulum-v1")):
        found = task("sac", env)
        assert (found.name, found.known) == (named.name, named.known)


def test_settings_go_by_the_name_asked_for_and_by_the_environment_where_it_has_arguments():
    repeated = task("tdmpc2", "MountainCarContinuous-v0-x8")
    assert (repeated.name, repeated.env.spec.time_limit) == ("MountainCarContinuous-v0-x8", 125)
    assert repeated.known == presets.preset("tdmpc2", "MountainCarContinuous-v0-x8")
    short = task("sac", "Pendulum-v1", {"max_steps_in_episode": 50})
    assert short.env.spec.time_limit == 50
    assert short.known.loop == presets.preset("sac", "Pendulum-v1").loop
    with pytest.raises(ValueError, match="length is not a setting of Pendulum-v1"):
        task("sac", "Pendulum-v1", {"length": 50})


def test_a_data_set_makes_room_or_takes_the_place_of_the_environment(tmp_path):
    file, plain = rows(tmp_path / "rows.npz"), presets.preset("sac", "Pendulum-v1")
    before = task("sac", "Pendulum-v1", data=file)
    assert before.data is not None
    assert (before.data.offline, before.known.loop.capacity) == (False, plain.loop.capacity + 30)
    assert set(of_data(before.data)) == {"data", "data_digest", "offline"}
    alone = task("sac", "Pendulum-v1", data=file, offline=True)
    assert alone.data is not None
    assert alone.data.offline
    assert alone.known == presets.preset("sac", "Pendulum-v1", offline=True)
    assert task("mopo", "Pendulum-v1", data=file).known == presets.preset("mopo", "Pendulum-v1", offline=True)
    assert of_data(None) == {}


def test_help_on_an_agent_for_data_sets_needs_none():
    assert task("mopo", "Pendulum-v1", read=False).known == presets.preset("mopo", "Pendulum-v1", offline=True)
    with pytest.raises(ValueError, match="data must name a data set for mopo"):
        task("mopo", "Pendulum-v1")
