"""What is measured of a run's model, against models whose errors are known, and what each agent's model has."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.contract import SMALL, settings

from mbrl_jax.buffers.uniform import empty
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Box, Env, Spec, StepOut, Transition, WorldModel
from mbrl_jax.envs.cartpole import continuous_cartpole
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets import builder, measure
from mbrl_jax.presets.loaded import Run
from mbrl_jax.presets.measure import Plan
from mbrl_jax.presets.probe import probe
from mbrl_jax.presets.restore import Loaded
from mbrl_jax.train.loop import LoopConfig

MEMBERS, OFF, STD, LIMIT = 3, 0.1, 0.5, 12
SPEC = Spec(Box((2,)), Box((1,), -1.0, 1.0), LIMIT, False, "drift")


def drift() -> Env:
    """x' = x + [a, 1/2], r = a, from x = 0; episodes of 12 steps."""

    def reset(key):
        return (jnp.zeros(2), jnp.int32(0)), jnp.zeros(2)

    def step(key, state, action):
        at, count = state
        at, count = at + jnp.stack([action[0], 0.5]), count + 1
        return (at, count), at, action[0], jnp.float32(1.0), count >= LIMIT

    return Env(SPEC, reset, step)


def drifting(spec: Spec) -> WorldModel:
    """A member of number i, its only parameter: the truth, but for i / 10 on x0 in each step and on the reward."""

    def step(params, key, state, action):
        off = OFF * params
        return StepOut(state + jnp.stack([action[0] + off, 0.5]), action[0] + off, jnp.float32(1.0))

    def moments(params, state, action):
        out = step(params, None, state, action)
        return jnp.append(out.state, out.reward), jnp.full(3, STD)

    def unused(*_):
        raise NotImplementedError

    encode = lambda params, key, obs: obs  # noqa: E731
    errors = lambda params, batch: jnp.zeros(batch.reward.shape)  # noqa: E731
    return WorldModel(lambda key: jnp.float32(0), unused, encode, step, errors=errors, moments=moments)


def untrained(algo, env, config, learner=None):
    """A run that has learned nothing, or what is given."""
    agent, seen = builder.learner(algo, env, config)
    state = SimpleNamespace(learner=agent.init(jax.random.key(0)) if learner is None else learner, buffer=None)
    loaded = Loaded(algo, env.spec.name, config, agent, seen, state, 0, seen, 0, env, "", LoopConfig())
    return Run("nowhere", 0, loaded)


@pytest.fixture(scope="module")
def biased():
    """PETS on the drift; member i is off by i / 10."""
    changes = {"known.member": "presets.test_measure:drifting"}
    run = untrained("pets", drift(), replace(settings("pets"), changes))
    fitted = run.learner._replace(params=jnp.arange(float(MEMBERS)))
    run.state.learner = fitted
    return run


PLAN = Plan("random", episodes=4, steps=50, starts=3, horizon=5, draws=2)


def test_predictions_lie_beside_what_happened_and_end_with_the_episode(biased):
    found = measure.predict(biased, jax.random.key(1), PLAN)
    assert found.members == MEMBERS
    assert found.alive.shape == (12, 5)
    # Starts at the first step, the middle and the last one: 5, 5 and 1 steps remain.
    np.testing.assert_array_equal(found.alive.sum(1).reshape(4, 3), [[5, 5, 1]] * 4)
    off = found.predicted["observation"] - found.real["observation"][:, None]
    ahead = np.arange(1, 6)
    for member in range(MEMBERS):
        for draw in (2 * member, 2 * member + 1):
            mine = off[:, draw][found.alive]
            expected = (OFF * member * ahead[None]).repeat(12, 0)[found.alive]
            np.testing.assert_allclose(mine[:, 0], expected, atol=1e-5)
            np.testing.assert_allclose(mine[:, 1], 0.0, atol=1e-5)
    np.testing.assert_allclose(found.place[0::3], 0.0)
    np.testing.assert_allclose(found.place[1::3, 1], 0.5 * 6)
    np.testing.assert_allclose(found.first["observation"], found.place, atol=1e-6)


def test_errors_are_the_known_ones_and_the_linear_baseline_is_exact(biased):
    found = measure.errors(biased, jax.random.key(1), PLAN)
    raw = measure.predict(biased, jax.random.key(1), PLAN)
    spread = raw.real["observation"][raw.alive].std(0)
    ahead = np.arange(1, 6)
    expected = OFF * ahead[:, None] * np.arange(MEMBERS) / spread[0] / np.sqrt(2)
    np.testing.assert_allclose(found["observation"].members, expected, atol=1e-4)
    np.testing.assert_allclose(found["observation"].rollouts, np.sqrt(np.mean(expected**2, 1)), atol=1e-4)
    np.testing.assert_allclose(found["observation"].mean, expected[:, 1], atol=1e-4)  # the mean of 0, 1 and 2
    np.testing.assert_allclose(found["observation"].baselines["linear"], 0.0, atol=1e-4)
    assert found["observation"].baselines["persistence"].min() > 0.1
    reward = raw.real["reward"][raw.alive].std()
    np.testing.assert_allclose(found["reward"].members, np.tile(OFF * np.arange(MEMBERS) / reward, (5, 1)), atol=1e-4)
    assert found["reward"].names == ("reward",)


def test_calibration_of_normal_members_is_the_closed_form(biased):
    found = measure.calibrate(biased, jax.random.key(2), Plan("random", episodes=8, steps=12, horizon=2))
    one = found["1 step, all members"].calibration
    assert one.rows == 8 * LIMIT
    # x1 is predicted exactly with deviation 1/2: every interval covers it, and so it is of the mixture's others.
    np.testing.assert_array_equal(one.entries[:, 1], 1.0)
    assert one.nll is not None
    assert {"1 step, one member", "2 steps"} <= set(found)


def test_disagreement_is_that_of_the_members(biased):
    found = measure.trusted(biased, jax.random.key(3), Plan(episodes=4, steps=12, horizon=1))
    # Means 0, 0.1 and 0.2 off: they differ by 0.1 sqrt(2/3) on the first of two entries, the same everywhere.
    assert found.trust.sources == ("policy", "random")
    assert np.ptp(found.trust.disagreement) < 1e-5
    ratio = found.trust.error / found.trust.disagreement
    np.testing.assert_allclose(ratio, 1 / np.sqrt(2 / 3), rtol=1e-3)
    assert np.isnan(found.trust.correlation) or abs(found.trust.correlation) <= 1
    assert found.distance is None


def test_distance_is_to_the_rows_of_the_buffer(biased):
    item = Transition(jnp.zeros(2), jnp.zeros(1), jnp.zeros(()), jnp.ones(()), jnp.zeros(2), jnp.zeros((), bool))
    ring = empty(item, 8)
    seen = ring.rows._replace(obs=jnp.stack([jnp.arange(8.0), 2 * jnp.arange(8.0)], -1))
    biased.state.buffer = ring._replace(rows=seen, size=jnp.int32(6))
    try:
        found = measure.trusted(biased, jax.random.key(3), Plan(episodes=2, steps=12, horizon=1))
    finally:
        biased.state.buffer = None
    assert found.distance is not None
    assert found.distance.shape == found.trust.error.shape


CASES = {
    "dreamer_v1": {"observation", "reward"},
    "dreamer_v3": {"observation", "reward"},
    "world_models": {"observation", "reward"},
    "muzero": {"value", "reward"},
    "tdmpc2": {"latent", "reward"},
    "dyna_dqn": {"observation", "reward"},
}


@pytest.mark.parametrize(
    "algo", [pytest.param(algo, marks=() if algo in ("dreamer_v3", "tdmpc2") else pytest.mark.slow) for algo in CASES]
)
def test_every_model_is_asked_for_what_it_has(algo):
    env = continuous_cartpole() if algo == "tdmpc2" else make_env("CartPole-v1")
    run = untrained(algo, env, settings(algo))
    plan = Plan("random", episodes=2, steps=16, starts=3, horizon=4, draws=2, context=1)
    found = measure.predict(run, jax.random.key(0), plan)
    assert set(found.names) == CASES[algo]
    for kind, names in found.names.items():
        starts, rollouts, horizon, entries = found.predicted[kind].shape
        assert (horizon, entries) == (4, len(names))
        assert found.real[kind].shape == (starts, 4, entries)
        assert found.first[kind].shape == (starts, entries)
        assert np.isfinite(found.predicted[kind]).all()
        assert rollouts == found.members * (1 if algo in ("muzero", "tdmpc2", "dyna_dqn") else 2)
    if algo in ("muzero", "tdmpc2"):
        with pytest.raises(ValueError, match=f"more than one outcome, {algo} has one without noise"):
            measure.calibrate(run, jax.random.key(0), plan)
        with pytest.raises(ValueError, match="trust needs a model"):
            measure.trusted(run, jax.random.key(0), plan)


def test_a_latent_is_compared_with_that_of_the_observation_that_came():
    run = untrained("tdmpc2", continuous_cartpole(), settings("tdmpc2"))
    plan = Plan("random", episodes=1, steps=8, starts=1, horizon=1, context=1)
    found = measure.predict(run, jax.random.key(0), plan)
    rows = measure.real_episodes(run, jax.random.split(jax.random.key(0), 3)[0], plan).rows
    np.testing.assert_allclose(found.real["latent"][0, 0], run.encode(rows.next_obs[0, 0]).z, atol=1e-6)
    np.testing.assert_allclose(found.first["latent"][0], run.encode(rows.obs[0, 0]).z, atol=1e-6)


def test_a_value_is_compared_with_the_return_that_followed():
    """Sums by hand: rewards of 1 until the pole falls, and the model's value where the record is cut off."""
    run = untrained("muzero", make_env("CartPole-v1"), settings("muzero"))
    gamma = float(run.config.gamma)
    for steps in (60, 5):
        plan = Plan("random", episodes=1, steps=steps, starts=1, horizon=3, context=1)
        found = measure.predict(run, jax.random.key(4), plan)
        played = measure.real_episodes(run, jax.random.split(jax.random.key(4), 3)[0], plan)
        length = int(played.length[0])
        fell = played.rows.discount[0, length - 1] == 0
        assert fell == (steps == 60)
        after = 0.0 if fell else float(run.model.value(jax.random.key(0), run.encode(played.rows.next_obs[0, -1])))
        for h in range(3):
            left = length - 1 - h
            expected = sum(gamma**i for i in range(left)) + gamma**left * after
            assert found.real["value"][0, h, 0] == pytest.approx(expected, rel=1e-5)


def test_a_model_without_decoder_is_measured_by_its_rewards():
    config = replace(settings("dreamer_v3"), {"net.decoder": False})
    assert set(probe(untrained("dreamer_v3", make_env("CartPole-v1"), config)).outputs) == set()


@pytest.mark.parametrize(
    ("algo", "env", "message"),
    [
        ("sac", "Pendulum-v1", "run must be of an agent with a learned model .*, got sac"),
        ("muzero", "TicTacToe", "errors are measured where one player acts, TicTacToe has two"),
    ],
)
def test_what_has_no_such_model_is_refused(algo, env, message):
    changes = {} if algo == "sac" else {"players": 2}
    with pytest.raises(ValueError, match=message):
        probe(untrained(algo, make_env(env), replace(builder.algorithm(algo).config(), SMALL[algo] | changes)))


def test_an_episode_shorter_than_the_context_is_refused(biased):
    with pytest.raises(ValueError, match="context must be at most 12, the steps of the longest episode, got 13"):
        measure.predict(biased, jax.random.key(0), PLAN._replace(context=13))
