"""Scores of action sequences, against loops in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Model, Spec, StepOut, WorldModel
from mbrl_jax.models.dynamics.ensemble import bind
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian
from mbrl_jax.planners.mpc.score import score as scored

score = jax.jit(scored, static_argnums=(0, 5))

ACTIONS = jax.random.uniform(jax.random.key(1), (6, 4, 2), minval=-1.0, maxval=1.0)
STATE = jnp.array([0.3, -0.2])

# Moves by the action, ends beyond a line, and is NaN wherever it has ended.
WALKER = Model(
    lambda key, state, action: StepOut(
        jnp.where(state[0] > 1.0, jnp.nan, state + action),
        jnp.where(state[0] > 1.0, jnp.nan, state[1] + 2.0 * action[0]),
        (state[0] + action[0] <= 1.0).astype(jnp.float32),
    )
)


def walked(actions, gamma, value=0.0):
    """Returns of the walker by a plain loop that stops at the end of an episode."""
    out = []
    for sequence in np.asarray(actions, np.float64):
        state, total, weight = np.asarray(STATE, np.float64), 0.0, 1.0
        for action in sequence:
            total += weight * (state[1] + 2.0 * action[0])
            state = state + action
            weight *= gamma
            if state[0] > 1.0:
                weight = 0.0
                break
        out.append(total + (weight * (value + state[0]) if value else 0.0))
    return np.array(out)


def never(key, state, action):
    """An ensemble's own step, where only its members' steps may be called."""
    raise AssertionError("the ensemble's own step was called")


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_terminating_reward_counts_and_nothing_after_it(gamma):
    expected = walked(ACTIONS, gamma)
    assert (walked(ACTIONS, gamma) != walked(ACTIONS[:, :2], gamma)).any()
    assert any(np.cumsum(np.asarray(ACTIONS[:, :-1, 0]), 1).max(1) + 0.3 > 1.0), "some episode must end early"
    for particles in (1, 3):
        got = score(WALKER, jax.random.key(0), STATE, ACTIONS, gamma, particles)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_value_is_added_where_the_episode_goes_on():
    model = WALKER._replace(value=lambda key, state: jnp.where(state[0] > 1.0, jnp.nan, 10.0 + state[0]))
    got = score(model, jax.random.key(0), STATE, ACTIONS, 0.9, 1)
    np.testing.assert_allclose(got, walked(ACTIONS, 0.9, value=10.0), rtol=1e-5)


def test_a_learned_discount_weights_what_follows():
    model = Model(lambda key, state, action: StepOut(state, jnp.float32(1.0), jnp.float32(0.5)))
    got = score(model, jax.random.key(0), STATE, ACTIONS, 0.9, 1)
    np.testing.assert_allclose(got, sum(0.45**t for t in range(4)), rtol=1e-6)


def test_a_reward_that_is_not_finite_scores_minus_infinity():
    def step(key, state, action):
        bad = jnp.where(action[0] > 0.9, jnp.nan, jnp.where(action[0] < -0.9, jnp.inf, 1.0))
        return StepOut(state, bad, jnp.float32(1.0))

    got = score(Model(step), jax.random.key(0), STATE, ACTIONS, 1.0, 2)
    bad = (jnp.abs(ACTIONS[..., 0]) > 0.9).any(1)
    assert bad.any()
    assert not bad.all()
    np.testing.assert_array_equal(got, np.where(bad, -np.inf, 4.0))


def test_a_discount_that_is_nan_scores_minus_infinity():
    model = Model(lambda key, state, action: StepOut(state, jnp.float32(1.0), jnp.float32(jnp.nan)))
    assert (score(model, jax.random.key(0), STATE, ACTIONS, 1.0, 1) == -jnp.inf).all()


def test_one_bad_particle_spoils_its_candidate_and_no_other():
    def step(key, state, action):
        return StepOut(state, jnp.where(jax.random.uniform(key) < 0.05, jnp.nan, 1.0), jnp.float32(1.0))

    got = np.asarray(score(Model(step), jax.random.key(0), STATE, jnp.zeros((200, 1, 2)), 1.0, 4))
    assert set(got) == {1.0, -np.inf}
    # 1 - 0.95**4 = 0.185; five standard deviations of a share among 200
    assert abs((got == -np.inf).mean() - 0.185) < 5 * np.sqrt(0.185 * 0.815 / 200)


def test_every_particle_has_its_own_noise_in_every_step():
    def step(key, state, action):
        return StepOut(state, jax.random.normal(key), jnp.float32(1.0))

    one = np.asarray(score(Model(step), jax.random.key(0), STATE, jnp.zeros((2000, 3, 2)), 1.0, 1))
    many = np.asarray(score(Model(step), jax.random.key(0), STATE, jnp.zeros((2000, 3, 2)), 1.0, 16))
    assert len(np.unique(one)) == 2000
    # variances 3 and 3 / 16; a variance's relative error is √(2 / 2000)
    np.testing.assert_allclose([one.var(), many.var()], [3.0, 3.0 / 16], rtol=5 * np.sqrt(2 / 2000))


# The reward is a count in which digit w counts the particles of member w; a state remembers where it has been.
TAGGED = WorldModel(
    init=lambda key: jnp.zeros(()),
    loss=lambda params, key, data: (params, {}),
    encode=lambda params, key, obs: obs,
    step=lambda params, key, state, action: StepOut(
        jnp.array([params, state[1] + (state[0] != params) * (state[1] >= 0)]), params + 1e6 * state[1], jnp.ones(())
    ),
)


@pytest.mark.parametrize("share", [1, 3])
def test_each_member_predicts_its_share_of_every_candidate_and_keeps_it(share):
    params = jnp.array([1.0, 10.0, 100.0, 1000.0])
    model = bind(TAGGED, params, 4)._replace(step=never)
    # A rollout starts in no member (0), so that its first step alone is a change: 1e6 in each of two later steps.
    got = score(model, jax.random.key(0), jnp.zeros(2), jnp.zeros((5, 3, 1)), 1.0, 4 * share)
    np.testing.assert_allclose(got, (3 * 1111.0 + 4 * 2e6) / 4, rtol=1e-6)


@pytest.mark.parametrize("share", [1, 3])
def test_resampled_members_predict_their_share_of_every_candidate_in_every_step(share):
    params = jnp.array([1.0, 10.0, 100.0, 1000.0])
    # A state is its candidate's number; a reward identifies member and candidate.
    world = TAGGED._replace(step=lambda params, key, state, action: StepOut(state, params * action[0], jnp.ones(())))
    model = bind(world, params, 4, resample_member=True)._replace(step=never)
    actions = jnp.tile(jnp.arange(1.0, 6.0)[:, None, None], (1, 3, 1))
    got = score(model, jax.random.key(0), jnp.zeros(2), actions, 1.0, 4 * share)
    np.testing.assert_allclose(got, np.arange(1.0, 6.0) * 3 * 1111.0 / 4, rtol=1e-6)


def test_resampled_rollouts_change_members_in_each_step_independently():
    # A rollout adds up the members it has met, 0 or 1: after 4 steps binomial if they are drawn anew, else 0 or 4.
    world = TAGGED._replace(
        step=lambda params, key, state, action: StepOut(
            jnp.stack([state[0] + params, state[1] + 1]),
            jnp.where(state[1] == 3, jnp.square(state[0] + params), 0.0),
            jnp.ones(()),
        )
    )
    # The mean square is 16 / 2 where a rollout keeps its member and, of a binomial(4, 1/2), 1 + 4 where it does not.
    for resampled, square, tolerance in ((False, 8.0, 1e-5), (True, 5.0, 0.15)):
        model = bind(world, jnp.array([0.0, 1.0]), 2, resample_member=resampled)
        got = score(model, jax.random.key(0), jnp.zeros(2), jnp.zeros((500, 4, 1)), 1.0, 10)
        np.testing.assert_allclose(got.mean(), square, rtol=0, atol=tolerance)


def test_identical_resampled_members_score_as_one():
    world = TAGGED._replace(step=lambda params, key, state, action: WALKER.step(key, state, action))
    model = bind(world, jnp.zeros(3), 3, resample_member=True)
    for gamma in (1.0, 0.8):
        got = score(model, jax.random.key(0), STATE, ACTIONS, gamma, 6)
        np.testing.assert_allclose(got, walked(ACTIONS, gamma), rtol=1e-5)


def test_members_match_a_loop_over_them():
    spec = Spec(Box((2,)), Box((2,), -1.0, 1.0), terminates=True)
    world = gaussian(GaussianConfig(hidden=(8,)), spec)
    params = jax.jit(jax.vmap(world.init))(jax.random.split(jax.random.key(0), 3))
    params = params._replace(bounds=params.bounds._replace(low=jnp.full((3, 3), -40.0), high=jnp.full((3, 3), -30.0)))
    got = score(bind(world, params, 3), jax.random.key(0), STATE, ACTIONS, 0.9, 6)
    expected = np.zeros(len(ACTIONS))
    step = jax.jit(world.step)
    for w in range(3):
        own = jax.tree.map(lambda leaf: leaf[w], params)  # noqa: B023
        for i, sequence in enumerate(np.asarray(ACTIONS)):
            state, weight = STATE, 1.0
            for action in sequence:
                out = step(own, jax.random.key(7), state, action)
                expected[i] += weight * float(out.reward) / 3
                state, weight = out.state, weight * 0.9 * float(out.discount)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_jit_vmap_and_traced_gamma_agree_with_the_plain_call():
    states = jnp.stack([STATE, -STATE])
    batched = jax.jit(
        jax.vmap(lambda gamma, state: score(WALKER, jax.random.key(0), state, ACTIONS, gamma, 2), (0, 0)),
    )(jnp.array([0.9, 0.5]), states)
    for gamma, state, one in zip((0.9, 0.5), states, batched, strict=True):
        np.testing.assert_allclose(one, score(WALKER, jax.random.key(0), state, ACTIONS, gamma, 2), rtol=1e-6)


@pytest.mark.parametrize("particles", [0, 3, 6])
def test_particles_that_do_not_divide_among_members_are_refused(particles):
    model = bind(TAGGED, jnp.arange(4.0), 4)
    with pytest.raises(ValueError, match=f"particles must be a multiple of the model's 4 members, got {particles}"):
        score(model, jax.random.key(0), jnp.zeros(2), jnp.zeros((5, 3, 1)), 1.0, particles)
