"""Steps of one size do what NumPy says, and the task and the agent keep their contracts."""

from __future__ import annotations

import importlib
import sys

import jax
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.presets.registry import AGENTS


@pytest.fixture
def task():
    sys.modules.pop("higher_or_lower", None)  # left by a command that named it
    yield importlib.import_module("higher_or_lower")
    AGENTS.pop("climber")
    sys.modules.pop("higher_or_lower")


def test_a_fixed_rate_ends_within_a_step_of_the_number_and_no_nearer(task):
    loop = {"warmup": 0, "inner": 300, "cycles": 1, "eval_episodes": 1}
    mbrl.check_env(task.higher_or_lower())
    for rate, near in ((3e-1, True), (1e-2, True), (1e-3, False)):
        known = mbrl.preset("climber", task.higher_or_lower())
        cfg = mbrl.replace(known.agent, {"rate": rate})
        made = mbrl.build("climber", task.higher_or_lower(), cfg, mbrl.replace(known.loop, loop))
        state, report = jax.jit(lambda key, made=made: made.chunk(made.init(key)))(jax.random.key(0))
        guess = np.float32(-1.0)
        for _ in range(300):
            guess = np.clip(guess + np.float32(rate) * np.sign(np.float32(task.SOUGHT) - guess), -1, 1).astype(
                np.float32
            )
        np.testing.assert_array_equal(state.learner, [guess])
        away = abs(float(guess) - task.SOUGHT)
        assert (away < rate) == near
        reward = 1 - np.log1p(away / task.NEAR) / np.log1p((1 + task.SOUGHT) / task.NEAR)
        np.testing.assert_allclose(report.returns, [reward], rtol=1e-3)
