"""Learning runs of minutes, on seeds of their own: `python -m pytest -m slow`."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mbrl_jax import presets
from mbrl_jax.analysis.statistics import interquartile_mean
from mbrl_jax.train.loop import chunks_for
from mbrl_jax.train.run import seed_keys
from mbrl_jax.train.sweep import over_seeds


def returns(algo: str, env: str, steps: int, seeds: int = 4) -> np.ndarray:
    """Evaluation returns [seeds, chunks, episodes] of a preset."""
    it = presets.preset(algo, env)
    loop = presets.build(algo, env, it.agent, it.loop)
    train = jax.jit(over_seeds(lambda key: loop.train(key, chunks_for(it.loop, steps))[1], 1))
    return np.asarray(train(seed_keys(200, seeds)).returns)


@pytest.mark.slow
def test_mbpo_swings_the_pendulum_up():
    last = returns("mbpo", "Pendulum-v1", 1700)[:, -1]
    assert interquartile_mean(last.ravel()) >= -200


@pytest.mark.slow
def test_mbpo_balances_the_continuous_cart_pole():
    last = returns("mbpo", "ContinuousCartPole", 2000)[:, -1]
    assert np.median(last.mean(axis=1)) >= 199


@pytest.mark.slow
def test_mbpo_balances_the_cart_pole():
    best = returns("mbpo", "CartPole-v1", 3000).mean(axis=2).max(axis=1)
    assert np.median(best) >= 475


@pytest.mark.slow
def test_sac_swings_the_pendulum_up():
    last = returns("sac", "Pendulum-v1", 10_000)[:, -1]
    assert interquartile_mean(last.ravel()) >= -200
