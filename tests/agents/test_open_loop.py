"""Open-loop predictions beside a real episode, in an environment whose model is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents.open_loop import OpenLoopModel, imagine_episode
from mbrl_jax.core import Agent, Box, Discrete, Env, Spec

# A position on a line: action 1 moves up by one, action 0 stays; the episode ends at 4.
WORLD = Env(
    Spec(Box((1,)), Discrete(2), time_limit=20),
    lambda key: (jnp.float32(0), jnp.zeros(1)),
    lambda key, x, a: (x + a, (x + a)[None], jnp.float32(0), jnp.float32(x + a < 4), x + a >= 4),
)
PLAYER = Agent(
    lambda key: (),
    lambda: jnp.int32(0),
    lambda key, learner, i, obs, explore: ((i % 2 == 1).astype(jnp.int32), i + 1, ()),  # every second step
    lambda *_: None,
)
EXACT = OpenLoopModel(lambda key, obs, action: obs[:, 0], lambda key, x, a: x + a, lambda x: x[None])


def imagined(horizon: int, model: OpenLoopModel = EXACT):
    play = jax.jit(lambda key: imagine_episode(key, PLAYER, (), WORLD, model, 3, horizon, 2))
    return jax.device_get(play(jax.random.key(0)))


def test_an_exact_model_predicts_what_happens():
    found = imagined(4)
    np.testing.assert_array_equal(found.real[:, 0], [0, 0, 1, 1, 2, 2, 3])
    np.testing.assert_array_equal(found.rebuilt, found.real)
    assert found.imagined.shape == (2, 4, 1)
    np.testing.assert_array_equal(found.imagined[1], found.real[3:])
    assert found.length == 7


def test_a_wrong_model_drifts_once_it_stops_observing():
    found = imagined(4, EXACT._replace(step=lambda key, x, a: x + 2 * a))
    np.testing.assert_array_equal(found.imagined[0, :, 0], [1, 3, 3, 5])


def test_episodes_end():
    found = imagined(12)
    assert found.length == 9  # observations 0, 0, 1, 1, 2, 2, 3, 3, 4
    np.testing.assert_array_equal(found.real[:9, 0], [0, 0, 1, 1, 2, 2, 3, 3, 4])


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="context, horizon and samples"):
        imagine_episode(jax.random.key(0), PLAYER, (), WORLD, EXACT, 0, 1, 1)
