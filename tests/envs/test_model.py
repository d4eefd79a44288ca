"""The simulator as a model: same states, rewards and discounts as the environment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core import unroll
from mbrl_jax.envs import mdp as mdps
from mbrl_jax.envs.model import as_model


def test_model_equals_environment():
    """Over the same keys and actions, past a time limit and a terminal state."""
    mdp = jax.jit(lambda key: mdps.random_mdp(key, 5, 2, terminals=1))(jax.random.key(0))
    env = mdps.as_env(mdp, time_limit=4)
    step = jax.jit(env.step)
    model = as_model(env)
    key, actions = jax.random.key(1), jnp.array([0, 1, 1, 0, 1, 0, 0, 1])
    state, _ = env.reset(jax.random.key(2))
    end, rollout = jax.jit(lambda s: unroll(model.step, key, s, actions))(state)
    discounts = []
    for t, key_step in enumerate(jax.random.split(key, 8)):
        assert int(rollout.states.inner[t]) == int(state.inner)
        state, obs, reward, discount, last = step(key_step, state, actions[t])
        np.testing.assert_allclose(rollout.rewards[t], reward)
        assert float(rollout.discounts[t]) == float(discount) == float(int(obs) != 4)
        discounts.append(float(discount))
        assert bool(last) == (t >= 3 or float(discount) == 0.0)
    assert int(end.inner) == int(state.inner)
    assert 1.0 in discounts[3:]  # a time limit is no termination
