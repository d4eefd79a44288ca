"""The adapter of MuJoCo Playground: its own loop step for step, if it is there."""

from __future__ import annotations

import importlib.util

import jax
import numpy as np
import pytest

from mbrl_jax.envs import make_env
from mbrl_jax.envs.adapters import playground

NEEDS = "needs the extra playground"


@pytest.mark.skipif(importlib.util.find_spec("mujoco_playground") is not None, reason="playground is installed")
def test_without_playground_the_extra_is_named():
    with pytest.raises(ValueError, match=r"playground: needs .*pip install 'mbrl_jax\[playground\]'"):
        make_env("playground:CartpoleSwingup")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_steps_are_those_of_playground():
    library = pytest.importorskip("mujoco_playground", reason=NEEDS)
    training = pytest.importorskip("brax.envs.wrappers.training", reason=NEEDS)
    inner = library.registry.load("CartpoleSwingup", config_overrides={"impl": "jax"})
    theirs, env = training.EpisodeWrapper(inner, 50, 1), playground.make("CartpoleSwingup", episode_length=50)
    assert (env.spec.time_limit, env.spec.terminates, env.spec.action.shape) == (50, False, (1,))
    step, ours = jax.jit(theirs.step), jax.jit(env.step)
    key = jax.random.key(3)
    want, (state, obs) = theirs.reset(key), env.reset(key)
    np.testing.assert_allclose(obs, want.obs, rtol=1e-5, atol=1e-6)
    for t in range(50):
        action = jax.random.uniform(jax.random.fold_in(key, t), (1,), minval=-1.0, maxval=1.0)
        want = step(want, action)
        state, obs, reward, discount, last = ours(jax.random.key(9), state, action)
        np.testing.assert_allclose(obs, want.obs, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(reward, want.reward, rtol=1e-3, atol=1e-4)
        assert (float(discount), bool(last)) == (1.0, t == 49)
        assert bool(want.done) == (t == 49)
        assert float(want.info["truncation"]) == (t == 49)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_playground():
    pytest.importorskip("mujoco_playground", reason=NEEDS)
    assert {"CartpoleSwingup", "CheetahRun", "Go1JoystickFlatTerrain"} <= set(playground.names())
    with pytest.raises(ValueError, match=r"env must be playground: and one of .*got 'Spider'"):
        make_env("playground:Spider")
