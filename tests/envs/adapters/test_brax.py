"""The Brax adapter: terminations of a stand-in with Brax's interface; Brax's own loop step for step, if it is there."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box
from mbrl_jax.envs import make_env
from mbrl_jax.envs.adapters import brax
from mbrl_jax.envs.check import find_faults
from mbrl_jax.envs.wrappers import time_limit


class Place(NamedTuple):
    obs: Any
    reward: Any
    done: Any


def slide(in_dict: bool = False) -> Any:
    """A place on a line that actions move; beyond 1 it is done. Its types are as loose as Brax's."""

    def obs(place):
        return {"state": place, "privileged_state": jnp.zeros(3)} if in_dict else place

    def reset(key):
        return Place(obs(jax.random.uniform(key, (1,), minval=-0.1, maxval=0.1)), 0.0, jnp.asarray(0.0))

    def step(state, action):
        place = (state.obs["state"] if in_dict else state.obs) + 0.3 * action
        return Place(obs(place), place[0], jnp.where(place[0] > 1, 1, 0))

    return SimpleNamespace(reset=reset, step=step, action_size=1)


@pytest.mark.parametrize("in_dict", [False, True])
def test_done_is_a_termination_and_the_time_limit_is_none(in_dict):
    env = time_limit(brax.adapt(slide(in_dict), "slide", terminates=True), 6)
    assert (env.spec.obs, env.spec.action) == (Box((1,)), Box((1,), -1.0, 1.0))
    for action, ends in ((1.0, [False] * 3 + [True]), (0.0, [False] * 6)):
        state, obs = env.reset(jax.random.key(0))
        place = float(obs[0])
        for t, over in enumerate(ends):
            state, obs, reward, discount, last = jax.jit(env.step)(jax.random.key(1), state, jnp.full(1, action))
            place += 0.3 * action
            np.testing.assert_allclose([obs[0], reward], [place, place], rtol=1e-5)
            assert float(discount) == 1.0 - over
            assert bool(last) == (over or t == 5)


def test_its_types_are_sound():
    assert find_faults(time_limit(brax.adapt(slide(), "slide", terminates=True), 10)) == []


@pytest.mark.skipif(importlib.util.find_spec("brax") is not None, reason="brax is installed")
def test_without_brax_the_extra_is_named():
    with pytest.raises(ValueError, match=r"brax: needs the brax package, pip install 'mbrl_jax\[brax\]'"):
        make_env("brax:ant")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["inverted_pendulum", "ant"])
def test_steps_are_those_of_brax(name):
    envs = pytest.importorskip("brax.envs", reason="needs the extra brax")
    theirs = envs.create(name, episode_length=50, auto_reset=False)
    env = brax.make(name, steps=50)
    reset, step, ours = jax.jit(theirs.reset), jax.jit(theirs.step), jax.jit(env.step)
    key = jax.random.key(3)
    want, (state, obs) = reset(key), env.reset(key)
    np.testing.assert_allclose(obs, want.obs, rtol=1e-5, atol=1e-6)
    for t in range(50):
        action = jax.random.uniform(jax.random.fold_in(key, t), (theirs.action_size,), minval=-1.0, maxval=1.0)
        want = step(want, action)
        state, obs, reward, discount, last = ours(jax.random.key(9), state, action)
        np.testing.assert_allclose(obs, want.obs, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(reward, want.reward, rtol=1e-3, atol=1e-4)
        assert bool(last) == bool(want.done)
        assert float(discount) == 1.0 - float(want.done) * (1.0 - float(want.info["truncation"]))
        if last:
            break
        # Contacts are chaotic: two programs part within 50 steps, so each step starts from the same physics.
        same = jax.tree.map(lambda new, old: new.astype(old.dtype), want.pipeline_state, state.inner.pipeline_state)
        state = state._replace(inner=state.inner.replace(pipeline_state=same))
    assert bool(last)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_brax():
    envs = pytest.importorskip("brax.envs", reason="needs the extra brax")
    assert "ant" in brax.names()
    assert set(brax.NEVER_TERMINATES) <= set(brax.names())
    with pytest.raises(ValueError, match=r"env must be brax: and one of ant, .*got 'spider'"):
        make_env("brax:spider")
    assert envs is not None
