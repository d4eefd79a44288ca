"""Environments by name: arguments reach them through what their names repeat or stack."""

from __future__ import annotations

import pytest

from mbrl_jax.envs import make_env


def test_arguments_go_through_repetition_and_stacking():
    assert make_env("CartPole-v1-x2", max_steps_in_episode=10).spec.time_limit == 5
    env = make_env("CartPole-pixels-stack2", size=64)
    assert (env.spec.name, env.spec.obs.shape) == ("CartPole-pixels-stack2", (64, 64, 6))
    assert make_env("DynaMaze", time_limit=7).spec.time_limit == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DynaMaze", "env_arg: DynaMaze takes the arguments .*time_limit.*, got colour"),
        ("DynaMaze-x2", "env_arg: DynaMaze takes the arguments .*time_limit.*, got colour"),
        ("brax:ant", "env_arg: brax:ant takes no arguments, got colour"),
        ("mine.py:make", "env_arg: mine.py:make is called without arguments, got colour"),
        ("CartPole-v1", "colour"),
    ],
)
def test_arguments_that_an_environment_does_not_take_are_named(name, text):
    with pytest.raises(ValueError, match=text):
        make_env(name, colour=3)
