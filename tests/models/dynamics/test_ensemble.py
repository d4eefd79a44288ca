"""Ensembles: how members are mixed, and that each member's weights meet their batch in one matrix product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Spec, StepOut, Transition, WorldModel, spread
from mbrl_jax.core import tree as trees
from mbrl_jax.models.dynamics.ensemble import bind, ensemble, member
from mbrl_jax.models.dynamics.gaussian import GaussianConfig, gaussian

SPEC = Spec(Box((3,)), Box((1,)), terminates=True)
GAUSSIAN = gaussian(GaussianConfig(hidden=(8, 8)), SPEC)
INIT = jax.jit(ensemble(GAUSSIAN, 3).init)

# A member that moves by its one parameter, so that a prediction shows which member made it.
MOVER = WorldModel(
    init=lambda key: jax.random.normal(key),
    loss=lambda params, key, data: (params * jnp.mean(data.reward), {"reward": jnp.mean(data.reward)}),
    encode=lambda params, key, obs: obs,
    step=lambda params, key, state, action: StepOut(state + params * action, params, jnp.ones(())),
    decode=lambda params, state: state,
    calibrate=lambda params, rows, mask: params + jnp.sum(mask),
    errors=lambda params, batch: params * batch.reward,
)
PARAMS = jnp.array([1.0, 10.0, 100.0, 1000.0])


def reward_rows(reward):
    """Rows of which nothing but the reward matters."""
    blank = jnp.zeros_like(reward)
    return Transition(blank, blank, reward, blank, blank, blank)


def draws(model, n=4000):
    keys = jax.random.split(jax.random.key(0), n)
    return jax.vmap(model.step, (None, 0, None, None))(PARAMS, keys, jnp.float32(5.0), jnp.float32(2.0))


def test_ts1_draws_every_member_equally_often_and_keeps_its_prediction_whole():
    out = draws(ensemble(MOVER, 4))
    values, counts = np.unique(out.reward, return_counts=True)
    np.testing.assert_array_equal(values, PARAMS)
    assert (np.abs(counts - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)).all()
    np.testing.assert_array_equal(out.state, 5.0 + 2.0 * out.reward)


def test_elites_are_drawn_alone_and_equally_often():
    values, counts = np.unique(draws(ensemble(MOVER, 4, "elites", jnp.array([3, 1]))).reward, return_counts=True)
    np.testing.assert_array_equal(values, [10.0, 1000.0])
    assert abs(counts[0] - 2000) < 5 * np.sqrt(4000 * 0.25)


def test_mean_averages():
    out = ensemble(MOVER, 4, "mean").step(PARAMS, jax.random.key(0), jnp.float32(5.0), jnp.float32(2.0))
    np.testing.assert_allclose([out.state, out.reward, out.discount], [5 + 2 * 277.75, 277.75, 1.0])


def test_loss_is_the_sum_over_members_each_on_its_own_rows():
    whole = ensemble(MOVER, 4)
    reward = jnp.array([[1.0, 3.0], [0.0, 2.0], [5.0, 5.0], [-1.0, -1.0]])
    data = reward_rows(reward)
    (loss, metrics), grad = jax.value_and_grad(whole.loss, has_aux=True)(PARAMS, jax.random.key(0), data)
    np.testing.assert_allclose(loss, 2 * 1 + 1 * 10 + 5 * 100 - 1 * 1000)
    np.testing.assert_allclose(grad, [2, 1, 5, -1])
    np.testing.assert_allclose(metrics["reward"], 7 / 4)


def test_members_start_different_and_share_calibration():
    whole = ensemble(MOVER, 4)
    params = whole.init(jax.random.key(0))
    assert len(np.unique(params)) == 4
    rows = reward_rows(jnp.array([2.0, 4.0]))
    assert whole.calibrate is not None
    assert whole.errors is not None
    np.testing.assert_allclose(whole.calibrate(PARAMS, rows, jnp.array([True, True])), PARAMS + 2)
    np.testing.assert_allclose(whole.errors(PARAMS, rows), 277.75 * rows.reward)
    nets = jax.tree.leaves(INIT(jax.random.key(0)).net)
    assert all(not np.array_equal(leaf[0], leaf[1]) for leaf in nets if leaf.ndim > 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "n must"), ((2, "ts2"), "mode must"), ((2, "elites"), "elites"), ((2, "ts1", jnp.array([0])), "elites")],
)
def test_arguments_are_checked(arguments, words):
    with pytest.raises(ValueError, match=words):
        ensemble(MOVER, *arguments)


def batch(n=12):
    keys = jax.random.split(jax.random.key(7), 3)
    return keys[0], jax.random.normal(keys[1], (n, 3)), jax.random.normal(keys[2], (n, 1))


def test_spread_over_bound_members_is_a_loop_over_members():
    params = INIT(jax.random.key(0))
    key, states, actions = batch()
    got = jax.jit(lambda: spread(bind(GAUSSIAN, params, 3), key, states, actions))()
    keys = jax.random.split(key, 12)
    one = jax.jit(GAUSSIAN.step)
    loop = [one(trees.take(params, i // 4), keys[i], states[i], actions[i]) for i in range(12)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, trees.stack(loop))


def test_spread_multiplies_each_members_weights_with_its_whole_share_of_the_batch_at_once():
    params = INIT(jax.random.key(0))
    text = str(jax.make_jaxpr(lambda *a: spread(bind(GAUSSIAN, params, 3), *a))(*batch()))
    products = [line.split(" = ")[0] for line in text.splitlines() if "dot_general[" in line]
    shapes = [line.split(":")[1] for line in products]
    # 3 members x 4 states: hidden, hidden, and 2 x 4 outputs; then the termination network.
    assert shapes == [f"f32[3,4,{width}]" for width in (8, 8, 8, 64, 64, 1)]


def test_bind():
    value, prior = (lambda key, state: jnp.float32(3.0)), (lambda key, state: jnp.zeros(2))
    single = bind(MOVER, PARAMS[1], value=value, prior=prior)
    assert (single.members, single.at, single.value, single.prior) == (1, None, value, prior)
    assert single.step(jax.random.key(0), jnp.float32(5.0), jnp.float32(2.0)).state == 25.0
    model = bind(MOVER, PARAMS, 4, value, prior)
    assert (model.members, model.value, model.prior) == (4, value, prior)
    assert model.at is not None
    for w in range(4):
        one = model.at(jnp.int32(w))
        assert (one.members, one.value, one.prior) == (1, value, prior)
        assert one.step(jax.random.key(0), jnp.float32(5.0), jnp.float32(2.0)).state == 5 + 2 * PARAMS[w]
    np.testing.assert_array_equal(member(PARAMS, 2), 100.0)
    out = jax.vmap(model.step, (0, None, None))(jax.random.split(jax.random.key(0), 99), jnp.zeros(()), jnp.ones(()))
    np.testing.assert_array_equal(np.unique(out.reward), PARAMS)
    with pytest.raises(ValueError, match="members must"):
        bind(MOVER, PARAMS, 3)
