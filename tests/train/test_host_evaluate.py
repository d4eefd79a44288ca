"""Evaluation in host environments: the numbers of the compiled one, and films that show every step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.host_envs import host_of

from mbrl_jax.agents.open_loop import OpenLoopModel, imagine_episode, imagine_recorded
from mbrl_jax.core import Agent, Box, Discrete, Env, Spec
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.evaluate import evaluate
from mbrl_jax.train.host_evaluate import evaluate_host, record

LEARNER = jnp.float32(0.3)


def pusher(action) -> Agent:
    """Acts by a number that it has learned, its observation, its memory and its key."""

    def act(key, learner, carry, obs, explore):
        assert not explore
        noise = jax.random.uniform(key)
        return action(learner * jnp.sum(obs) + 0.1 * carry + 0.2 * noise), carry + 1, ()

    return Agent(lambda key: LEARNER, lambda: jnp.float32(0), act, lambda *_: None)


def test_numbers_are_those_of_the_compiled_evaluation():
    env, agent = make_env("CartPole-v1"), pusher(lambda x: (x > 0.3).astype(jnp.int32))
    key = jax.random.key(3)
    returns, lengths, films = evaluate_host(agent, host_of(env), key, LEARNER, 5)
    compiled = jax.jit(lambda key: evaluate(agent, env, key, LEARNER, 5))(key)
    np.testing.assert_array_equal(returns, compiled[0])
    np.testing.assert_array_equal(lengths, compiled[1])
    assert len(set(lengths.tolist())) > 1
    assert films == []
    assert evaluate_host(agent, host_of(env), key, LEARNER, 0)[0].shape == (0,)


@pytest.mark.parametrize("workers", [0, pytest.param(2, id="2-processes")])
def test_films_show_the_episodes_that_are_counted(workers):
    env = make_env("gymnasium:helpers.host_envs:Clock-v0")
    agent = pusher(lambda x: x[None])
    played = evaluate_host(agent, env, jax.random.key(0), LEARNER, 3, workers=workers, shown=2, steps=100)
    np.testing.assert_array_equal(played[0], 1 + 2 + 3 + 4)
    np.testing.assert_array_equal(played[1], 4)
    films = [np.stack(frames) for frames in played[2]]
    assert [film.shape for film in films] == [(5, 4, 6, 3)] * 2
    for film in films:
        np.testing.assert_array_equal(film[:, 0, 0, 0], [0, 1, 2, 3, 4])  # the last state too, not the next first one
    assert films[0][0, 0, 1, 0] != films[1][0, 0, 1, 0]
    again = evaluate_host(agent, env, jax.random.key(0), LEARNER, 3, shown=1, steps=2)[2]
    np.testing.assert_array_equal(np.stack(again[0]), films[0][:3])


def test_what_cannot_be_played_or_drawn_is_said():
    env, agent = make_env("gymnasium:helpers.host_envs:Clock-v0"), pusher(lambda x: x[None])
    endless = env._replace(spec=env.spec._replace(time_limit=None))
    with pytest.raises(ValueError, match="Clock-v0 has no time limit: evaluation needs one"):
        evaluate_host(agent, endless, jax.random.key(0), LEARNER, 1)
    with pytest.raises(ValueError, match="Clock-v0 cannot be drawn: one of Gymnasium needs the render mode rgb_array"):
        evaluate_host(agent, env._replace(drawable=False), jax.random.key(0), LEARNER, 1, shown=1, steps=1)
    blank = env._replace(make=lambda count, workers=0, drawn=False: env.make(count, workers, False))
    with pytest.raises(ValueError, match=r"Clock-v0 cannot be drawn: its render must give uint8 .*, got nothing"):
        evaluate_host(agent, blank, jax.random.key(0), LEARNER, 1, shown=1, steps=1)


# A position on a line: action 1 moves up by one, action 0 stays; the episode ends at 4.
WORLD = Env(
    Spec(Box((1,)), Discrete(2), time_limit=20),
    lambda key: (jnp.float32(0), jnp.zeros(1)),
    lambda key, x, a: (x + a, (x + a)[None], jnp.float32(0), jnp.float32(x + a < 4), x + a >= 4),
)
SECOND = Agent(
    lambda key: (),
    lambda: jnp.int32(0),
    lambda key, learner, i, obs, explore: ((i % 2 == 1).astype(jnp.int32), i + 1, ()),  # every second step
    lambda *_: None,
)
EXACT = OpenLoopModel(lambda key, obs, action: obs[:, 0], lambda key, x, a: x + a, lambda x: x[None])


@pytest.mark.parametrize("horizon", [4, 12])
def test_a_recorded_episode_is_imagined_as_a_compiled_one(horizon):
    played = record(SECOND, host_of(WORLD), jax.random.key(0), (), 3 + horizon)
    told = imagine_recorded(jax.random.key(1), EXACT, *played, 3, horizon, 2)
    compiled = imagine_episode(jax.random.key(0), SECOND, (), WORLD, EXACT, 3, horizon, 2)
    assert int(told.length) == int(compiled.length) == min(9, 3 + horizon)
    for name in ("real", "rebuilt", "imagined", "action"):
        have, want = getattr(told, name), getattr(compiled, name)
        last = int(told.length) if name != "imagined" else want.shape[1]
        np.testing.assert_array_equal(have[:last], want[:last])
    with pytest.raises(ValueError, match="context, horizon and samples"):
        imagine_recorded(jax.random.key(1), EXACT, *played, 0, horizon, 2)
