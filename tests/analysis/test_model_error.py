"""Errors by horizon against closed forms of linear-Gaussian systems, and baselines against exact solutions."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_jax.analysis import model_error
from mbrl_jax.analysis.model_error import fit_linear, horizon_errors, persistence, roll_linear

A, B, NOISE = 0.8, 0.5, 0.3


def simulated(a, b, noise, first, actions, rng):
    """x' = a x + b u + noise ε, [N, H] after each step."""
    x, out = first, []
    for h in range(actions.shape[1]):
        x = a * x + b * actions[:, h] + noise * rng.normal(size=x.shape)
        out.append(x)
    return np.stack(out, axis=1)


def test_error_of_a_model_with_another_pole_grows_as_the_closed_form_says():
    """x_h - x̂_h = (a^h - â^h) x_0 without noise and actions; its size over x_0 ~ N(0, 1) is |a^h - â^h|."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=40_000)
    first /= np.sqrt(np.mean(first**2))
    powers = np.arange(1, 7)
    real, wrong = (first[:, None] * (a**powers) for a in (A, 0.9))
    found = horizon_errors(wrong[:, None, :, None], real[..., None], np.ones(real.shape, bool), scale=[1.0])
    np.testing.assert_allclose(found.rollouts, np.abs(A**powers - 0.9**powers), rtol=1e-9)
    np.testing.assert_allclose(found.mean, found.rollouts)
    np.testing.assert_array_equal(found.starts, 40_000)


def test_single_rollouts_of_the_true_noise_err_by_root_two_and_their_mean_by_the_noise_alone():
    """Var x_h = s² (1 - a^2h) / (1 - a²) =: V; an independent rollout differs by 2 V, the mean of R by V (1 + 1/R)."""
    rng = np.random.default_rng(1)
    starts, rollouts, horizon = 4_000, 8, 5
    first, actions = rng.normal(size=starts), rng.normal(size=(starts, horizon))
    real = simulated(A, B, NOISE, first, actions, rng)
    drawn = np.stack([simulated(A, B, NOISE, first, actions, rng) for _ in range(rollouts)], axis=1)
    found = horizon_errors(drawn[..., None], real[..., None], np.ones(real.shape, bool), members=4, scale=[1.0])
    variance = NOISE**2 * (1 - A ** (2 * np.arange(1, horizon + 1))) / (1 - A**2)
    np.testing.assert_allclose(found.rollouts, np.sqrt(2 * variance), rtol=0.03)
    np.testing.assert_allclose(found.mean, np.sqrt(variance * (1 + 1 / rollouts)), rtol=0.03)
    assert found.members.shape == (horizon, 4)
    np.testing.assert_allclose(found.members, np.sqrt(1.5 * variance)[:, None].repeat(4, 1), rtol=0.05)


def test_entries_are_in_their_own_spreads_and_those_that_never_change_are_left_out():
    real = np.zeros((3, 2, 3))
    real[:, :, 0] = [[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]]  # spread 1
    real[:, :, 2] = 10 * real[:, :, 0]
    off = real.copy()
    off[..., 0] += 2.0
    off[..., 1] += 99.0
    off[..., 2] += 5.0
    found = horizon_errors(off[:, None], real, np.ones((3, 2), bool), names=("a", "b", "c"))
    assert found.names == ("a", "c")
    np.testing.assert_allclose(found.entries, [[2.0, 0.5]] * 2)
    np.testing.assert_allclose(found.rollouts, np.sqrt((4 + 0.25) / 2))
    np.testing.assert_allclose(found.quantiles, np.sqrt((4 + 0.25) / 2))


def test_steps_after_an_episodes_end_do_not_count():
    real = np.array([[1.0, 2.0], [3.0, 1e9]])[..., None]
    predicted = np.array([[2.0, 2.0], [2.0, -1e9]])[:, None, :, None]
    alive = np.array([[True, True], [True, False]])
    found = horizon_errors(predicted, real, alive, scale=[1.0])
    np.testing.assert_allclose(found.rollouts, [1.0, 0.0])
    np.testing.assert_array_equal(found.starts, [2, 1])
    nowhere = horizon_errors(predicted, real, np.array([[True, False]] * 2), scale=[1.0])
    assert np.isnan(nowhere.rollouts[1])
    assert np.isnan(nowhere.quantiles[1]).all()
    assert all(np.isfinite(row[3]) for row in model_error.rows({"observation": nowhere}))


def test_the_linear_baseline_is_exact_in_a_linear_world_and_persistence_is_not():
    rng = np.random.default_rng(2)
    matrix, gain, weights = rng.normal(size=(3, 3)) / 3, rng.normal(size=(3, 2)), rng.normal(size=5)
    step = lambda x, u: 0.1 + x @ matrix.T + u @ gain.T  # noqa: E731
    reward = lambda x, u: 2.0 + np.concatenate([x, u], -1) @ weights  # noqa: E731
    x, u = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    fitted = fit_linear(x, u, reward(x, u), step(x, u))
    first, actions = rng.normal(size=(7, 3)), rng.normal(size=(7, 4, 2))
    real, rewards, at = [], [], first
    for h in range(4):
        rewards.append(reward(at, actions[:, h]))
        at = step(at, actions[:, h])
        real.append(at)
    seen, earned = roll_linear(fitted, first, actions)
    np.testing.assert_allclose(seen, np.stack(real, 1), atol=1e-9)
    np.testing.assert_allclose(earned, np.stack(rewards, 1), atol=1e-9)
    still = persistence(first, 4)
    np.testing.assert_array_equal(still, np.stack([first] * 4, 1))
    errors = horizon_errors(
        seen[:, None], np.stack(real, 1), np.ones((7, 4), bool), baselines={"persistence": still, "linear": seen}
    )
    assert errors.baselines["linear"].max() < 1e-9 < errors.baselines["persistence"].min()


def test_a_linear_model_that_explodes_stays_a_number():
    fitted = model_error.Linear(np.array([[0.0], [1e9], [0.0]]), np.array([0.0, 1.0, 0.0]))
    seen, _ = roll_linear(fitted, np.ones((1, 1)), np.zeros((1, 50, 1)))
    assert np.isfinite(seen).all()


def test_rows_hold_what_the_picture_draws():
    real = np.arange(4.0).reshape(2, 2, 1)
    one = horizon_errors(
        real[:, None] + 1.0, real, np.ones((2, 2), bool), scale=[2.0], names=("x",), baselines={"persistence": real}
    )
    table = {(kind, h, what): value for kind, h, what, value in model_error.rows({"reward": one})}
    assert table["reward", 1, "rollouts"] == table["reward", 2, "entry x"] == table["reward", 1, "q90"] == 0.5
    assert table["reward", 2, "persistence"] == 0.0
    assert table["reward", 2, "starts"] == 2.0


@pytest.mark.parametrize(
    ("predicted", "real", "alive", "members", "message"),
    [
        (np.zeros((2, 1, 3, 1)), np.zeros((2, 4, 1)), np.ones((2, 4), bool), 1, "predicted, real and alive must be"),
        (np.zeros((2, 3, 4, 1)), np.zeros((2, 4, 1)), np.ones((2, 4), bool), 2, "members must divide the 3 rollouts"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(predicted, real, alive, members, message):
    with pytest.raises(ValueError, match=message):
        horizon_errors(predicted, real, alive, members=members)
