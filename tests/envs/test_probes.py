"""Probes: the documented optimal values, from the rewards of actual steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Discrete
from mbrl_jax.envs.probes import PROBES

DISCRETE = [0, 1]
CONTINUOUS = [[-1.0], [0.0], [0.5], [1.0]]


def first_steps(name, continuous):
    """(observation, action, next observation, reward, discount, last) of first steps over keys and actions."""
    env = PROBES[name](continuous)
    assert env.spec.obs == Box((1,), -1.0, 1.0)
    assert env.spec.action == (Box((1,), -1.0, 1.0) if continuous else Discrete(2))
    for action in CONTINUOUS if continuous else DISCRETE:
        for seed in range(4):
            state, obs = env.reset(jax.random.key(seed))
            assert obs.shape == (1,)
            state, following, reward, discount, last = env.step(jax.random.key(9), state, jnp.array(action))
            assert env.observe is not None
            np.testing.assert_array_equal(env.observe(state), following)
            assert reward.shape == discount.shape == last.shape == ()
            yield float(obs[0]), action, float(following[0]), float(reward), float(discount), bool(last)


WANT = {
    ("constant", False): lambda s, a: 1.0,
    ("constant", True): lambda s, a: 1.0,
    ("random_observation", False): lambda s, a: s,
    ("random_observation", True): lambda s, a: s,
    ("action_reward", False): lambda s, a: [1.0, -1.0][a],
    ("action_reward", True): lambda s, a: -((a[0] - 0.5) ** 2),
    ("observation_action_reward", False): lambda s, a: 1.0 if a == (s > 0) else -1.0,
    ("observation_action_reward", True): lambda s, a: -((a[0] - s / 2) ** 2),
}


@pytest.mark.parametrize(("name", "continuous"), WANT)
def test_one_step_probes(name, continuous):
    starts = set()
    for obs, action, following, reward, discount, last in first_steps(name, continuous):
        np.testing.assert_allclose(reward, WANT[name, continuous](obs, action), atol=1e-6)
        assert (following, discount, last) == (obs, 0.0, True)
        starts.add(obs)
    assert starts == ({-1.0, 1.0} if "observation" in name else {0.0})


@pytest.mark.parametrize("continuous", [False, True])
def test_delayed_reward(continuous):
    assert {(s, n, r, d, last) for s, _, n, r, d, last in first_steps("delayed_reward", continuous)} == {
        (0.0, 1.0, 0.0, 1.0, False)
    }
    env = PROBES["delayed_reward"](continuous)
    action = jnp.zeros(1) if continuous else jnp.array(0)
    state, *_ = env.step(jax.random.key(0), env.reset(jax.random.key(0))[0], action)
    _, obs, reward, discount, last = env.step(jax.random.key(0), state, action)
    assert (float(obs[0]), float(reward), float(discount), bool(last)) == (1.0, 1.0, 0.0, True)
