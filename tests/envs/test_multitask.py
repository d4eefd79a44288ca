"""Several environments as one: each task is played as by itself, padded, with its one-hot code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete, Env, Spec
from mbrl_jax.envs.multitask import multitask


def counter(size, actions, limit, terminates):
    """Counts its steps in the first entry; the reward is the sum of the actions; an episode ends at the limit."""

    def reset(key):
        state = jnp.zeros(size) + jax.random.uniform(key)
        return state, state

    def step(key, state, action):
        state = state.at[0].add(1.0)
        last = state[0] >= limit
        discount = 1.0 - last * terminates
        return state, state, jnp.sum(action), discount, last

    spec = Spec(Box((size,)), Box((actions,), -1.0, 1.0), limit, bool(terminates), f"counter-{size}")
    return Env(spec, reset, step)


TASKS = [counter(2, 3, 4, 1.0), counter(4, 1, 6, 0.0)]


def test_spaces_are_those_of_the_widest_task():
    env, tasks = multitask(TASKS)
    assert (env.spec.obs.shape, env.spec.action.shape, env.spec.time_limit, env.spec.terminates) == (
        (6,),
        (3,),
        6,
        True,
    )
    np.testing.assert_array_equal(tasks.masks, [[1, 1, 1], [1, 0, 0]])
    assert tasks.limits == (4, 6)
    assert env.spec.name == "counter-2 + counter-4"


@pytest.mark.parametrize("task", [0, 1])
def test_each_task_is_played_as_by_itself(task):
    env, _ = multitask(TASKS, only=task)
    key = jax.random.key(3)
    state, obs = env.reset(key)
    keys = jax.random.split(jax.random.split(key)[1], 2)
    own, own_obs = TASKS[task].reset(keys[task])
    size, actions = TASKS[task].spec.obs.shape[0], TASKS[task].spec.action.shape[0]
    action = jnp.array([0.5, -0.25, 0.125])
    step = jax.jit(env.step)
    for _ in range(6):
        np.testing.assert_allclose(obs[:size], own_obs, rtol=1e-6)
        np.testing.assert_array_equal(obs[size:4], 0)
        np.testing.assert_array_equal(obs[4:], np.eye(2)[task])
        state, obs, reward, discount, last = step(key, state, action)
        own, own_obs, *wanted = TASKS[task].step(key, own, action[:actions])
        for got, want in zip((reward, discount, last), wanted, strict=True):
            assert float(got) == float(want)
    assert bool(last)


def test_tasks_are_drawn_uniformly():
    env, _ = multitask(TASKS)
    _, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(np.asarray(obs[:, 4:]).mean(0), 0.5, atol=0.04)


def test_other_environments_are_refused():
    image = TASKS[0]._replace(spec=TASKS[0].spec._replace(obs=Box((4, 4, 3)), name="image"))
    choice = TASKS[0]._replace(spec=TASKS[0].spec._replace(action=Discrete(2), name="choice"))
    for env in (image, choice):
        with pytest.raises(ValueError, match=f"{env.spec.name}: observations and actions must be vectors"):
            multitask([env])
    with pytest.raises(ValueError, match="only must be one of 2 tasks, got 2"):
        multitask(TASKS, only=2)
    with pytest.raises(ValueError, match="there must be a task"):
        multitask([])
