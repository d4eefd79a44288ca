"""Inputs, targets and scales of models over vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.core import Box, Discrete, Spec, Transition
from mbrl_jax.models.dynamics import common as dynamics
from mbrl_jax.ops.normalize import Normalizer

VECTOR = Spec(Box((2,)), Box((1,)))
CHOICE = Spec(Box((2,)), Discrete(3))
ROW = Transition(
    jnp.array([1.0, 2.0]), jnp.int32(2), jnp.float32(7.0), jnp.float32(1.0), jnp.array([1.5, 0.0]), jnp.array(True)
)


def test_features_and_targets():
    assert dynamics.sizes(VECTOR) == (3, 3)
    assert dynamics.sizes(CHOICE) == (5, 3)
    np.testing.assert_array_equal(dynamics.features(VECTOR, ROW.obs, jnp.array([9.0])), [1, 2, 9])
    np.testing.assert_array_equal(dynamics.features(CHOICE, ROW.obs, ROW.action), [1, 2, 0, 0, 1])
    np.testing.assert_array_equal(dynamics.target(ROW), [0.5, -2.0, 7.0])


def test_a_time_limit_is_no_termination():
    assert dynamics.terminated(ROW) == 0.0  # last, but the discount is 1
    assert dynamics.terminated(ROW._replace(discount=jnp.float32(0.0))) == 1.0


def test_decode_target_undoes_the_scaling():
    scales = dynamics.identity_scales(CHOICE)._replace(
        targets=Normalizer(jnp.array([1.0, -1.0, 5.0]), jnp.array([2.0, 4.0, 10.0]))
    )
    # y = (0.5, -2, 7) scales to (-0.25, -0.25, 0.2).
    next_obs, reward = dynamics.decode_target(scales, ROW.obs, jnp.array([-0.25, -0.25, 0.2]))
    np.testing.assert_allclose(next_obs, ROW.next_obs)
    np.testing.assert_allclose(reward, 7.0)


def test_termination_features_hold_the_next_state_scaled_and_squared():
    inputs = Normalizer(jnp.array([0.5, 1.0, 0.0, 0.0, 0.0]), jnp.array([0.5, 0.1, 1.0, 1.0, 2.0]))
    scales = dynamics.identity_scales(CHOICE)._replace(inputs=inputs)
    # o = (1, 2), the action 2 of 3, o' = (1.5, 0)
    got = dynamics.termination_features(CHOICE, scales, ROW.obs, ROW.action, ROW.next_obs)
    np.testing.assert_allclose(got, [1, 10, 0, 0, 0.5, 2, -10, 4, 100], rtol=1e-6)
    far = dynamics.termination_features(CHOICE, scales, ROW.obs, ROW.action, jnp.array([1e30, -1e30]))
    np.testing.assert_allclose(far, [1, 10, 0, 0, 0.5, 10, -10, 100, 100], rtol=1e-6)


def test_a_bound_on_an_entry_is_learned_from_few_terminal_rows():
    # Of 400 states with a normal first entry, those beyond 2 on either side have ended: 14 rows.
    rng = np.random.default_rng(0)
    x, seen = rng.normal(size=(400, 2)).astype(np.float32), rng.normal(size=(1_000, 2)).astype(np.float32)
    spec = Spec(Box((2,)), Box((1,)), terminates=True)
    nets, scales, idle = dynamics.networks(spec, (4,), "silu", 1), dynamics.identity_scales(spec), jnp.zeros(1)
    adam = optax.adam(1e-2)

    def logits(params, states):
        return jax.vmap(lambda s: dynamics.termination_logit(nets, params, scales, s, idle, s))(states)

    def descend(at, _):
        params, opt = at
        ended = (jnp.abs(x[:, 0]) > 2).astype(jnp.float32)
        grads = jax.grad(lambda p: jnp.mean(optax.sigmoid_binary_cross_entropy(logits(p, x), ended)))(params)
        updates, opt = adam.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), None

    assert nets.termination is not None
    start = jax.jit(nets.termination.init)(jax.random.key(0))
    (params, _), _ = jax.jit(lambda at: jax.lax.scan(descend, at, length=150))((start, adam.init(start)))
    predicted, distance = np.asarray(jax.jit(logits)(params, seen)) > 0, np.abs(seen[:, 0])
    assert (distance > 2.5).sum() >= 8
    assert predicted[distance > 2.5].all()
    assert not predicted[distance < 1.8].any()


def test_half_square_leaves_biases_out():
    net = {"a": {"kernel": jnp.array([[1.0, 2.0], [3.0, 0.0]]), "bias": jnp.full(2, 100.0)}, "b": jnp.full((1, 1), 4.0)}
    assert dynamics.half_square(net) == 15.0


def test_prediction_error():
    mean, target = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    assert dynamics.prediction_error(mean, target, None, jnp.float32(0)) == 2.5
    # The probability 3/4 of what did happen adds 1/16 as a third entry.
    got = dynamics.prediction_error(mean, target, jnp.log(jnp.float32(3.0)), jnp.float32(1))
    np.testing.assert_allclose(got, (5 + 1 / 16) / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec(Discrete(4), Discrete(2)), "observations must be a vector"),
        (Spec(Box((2, 2)), Discrete(2)), "observations must be a vector"),
        (Spec(Box((2,)), Box((2, 2))), "spec.action of environment must be Discrete or a Box of rank 1"),
    ],
)
def test_only_vectors_are_taken(spec, message):
    with pytest.raises(ValueError, match=message):
        dynamics.sizes(spec)
