"""The Craftax adapter: ends of a stand-in with Craftax's interface; Craftax's own loop step for step, if there."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.envs import make_env
from mbrl_jax.envs.adapters import craftax
from mbrl_jax.envs.check import find_faults

NEEDS = "needs the extra craftax"


class Params(NamedTuple):
    max_timesteps: int = 4

    def replace(self, **changes):
        return self._replace(**changes)


class Health(NamedTuple):
    health: Any
    timestep: Any


def arena(pixels: bool = False) -> Any:
    """Action 1 costs 1 of 3 points of health; without health, or after `max_timesteps` steps, the game is done."""

    def get_obs(state):
        return jnp.full((2, 2, 3), state.health * 51 / 255.0) if pixels else jnp.full(2, state.health * 1.0)

    def is_terminal(state, params):
        return (state.timestep >= params.max_timesteps) | (state.health <= 0)

    def reset_env(key, params):
        state = Health(jnp.asarray(3), jnp.asarray(0))
        return get_obs(state), state

    def step_env(key, state, action, params):
        state = Health(state.health - (action == 1), state.timestep + 1)
        return get_obs(state), state, 1.0 * (action == 1), is_terminal(state, params), {}

    space = SimpleNamespace(shape=(2, 2, 3) if pixels else (2,))
    return SimpleNamespace(get_obs=get_obs, is_terminal=is_terminal, reset_env=reset_env, step_env=step_env,
                           num_actions=2, observation_space=lambda params: space)  # fmt: skip


@pytest.mark.parametrize(
    ("action", "limit", "discounts", "lasts"),
    [
        (1, 4, [1, 1, 0], [False, False, True]),  # no health left
        (0, 4, [1, 1, 1, 1], [False, False, False, True]),  # out of time
        (1, 3, [1, 1, 0], [False, False, True]),  # both at once
    ],
)
def test_an_end_is_a_termination_unless_time_is_all_that_ran_out(action, limit, discounts, lasts):
    env = craftax.adapt(arena(), Params(limit), "arena")
    assert env.spec[:4] == (Box((2,)), Discrete(2), limit, True)
    state, obs = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(obs, [3, 3])
    for discount, last in zip(discounts, lasts, strict=True):
        state, obs, reward, got, ended = env.step(jax.random.key(1), state, jnp.int32(action))
        assert (float(got), bool(ended), float(reward)) == (discount, last, action)
    np.testing.assert_array_equal(obs, [3 - action * len(lasts)] * 2)


def test_pictures_are_bytes_and_types_are_sound():
    env = craftax.adapt(arena(pixels=True), Params(), "arena-Pixels")._replace(render=None)
    assert env.spec.obs == Box((2, 2, 3), 0, 255, jnp.uint8)
    _, obs = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(obs, np.full((2, 2, 3), 153, np.uint8))
    assert find_faults(env) == []


def test_wrong_names_and_the_missing_library_are_one_line():
    with pytest.raises(
        ValueError, match=r"env must be craftax: and one of Craftax-Classic-Symbolic-v1, .*got 'Minecraft'"
    ):
        make_env("craftax:Minecraft")
    if importlib.util.find_spec("craftax") is None:
        with pytest.raises(ValueError, match=r"craftax: needs the craftax package, pip install 'mbrl_jax\[craftax\]'"):
            make_env("craftax:Craftax-Symbolic-v1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_steps_are_those_of_craftax():
    library = pytest.importorskip("craftax.craftax_env", reason=NEEDS)
    theirs = library.make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    params = theirs.default_params.replace(max_timesteps=50)
    env = craftax.make("Craftax-Classic-Symbolic", max_timesteps=50)
    ours, step = jax.jit(env.step), jax.jit(lambda key, state, action: theirs.step(key, state, action, params))
    key = jax.random.key(3)
    (seen, want), (state, obs) = theirs.reset(key, params), jax.jit(env.reset)(key)
    np.testing.assert_allclose(obs, seen, atol=1e-6)
    for t in range(50):
        key_step, action = jax.random.fold_in(key, t), jax.random.randint(jax.random.fold_in(key, 100 + t), (), 0, 17)
        seen, want, gain, done, _ = step(key_step, want, action)
        state, obs, reward, discount, last = ours(key_step, state, action)
        np.testing.assert_allclose(obs, seen, atol=1e-6)
        np.testing.assert_allclose(reward, gain, atol=1e-6)
        assert bool(last) == bool(done)
        if done:
            break
    dead = bool(want.player_health <= 0)
    assert bool(last)
    assert float(discount) == 1.0 - dead


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_craftax_pictures_are_bytes():
    library = pytest.importorskip("craftax.craftax_env", reason=NEEDS)
    theirs = library.make_craftax_env_from_name("Craftax-Classic-Pixels-v1", auto_reset=False)
    env = craftax.make("Craftax-Classic-Pixels-v1")
    seen, _ = theirs.reset(jax.random.key(0), theirs.default_params)
    state, obs = env.reset(jax.random.key(0))
    assert (obs.dtype, obs.shape) == (jnp.uint8, (63, 63, 3))
    np.testing.assert_allclose(obs / 255.0, seen, atol=0.51 / 255)
    assert env.render is not None
    drawn = env.render(state)
    assert (drawn.dtype, drawn.shape) == (jnp.uint8, (144, 144, 3))
