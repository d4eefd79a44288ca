"""The decoder-free loss against NumPy's correlations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.models.rssm.r2_dreamer import projector, redundancy, redundancy_loss


def test_it_is_the_distance_of_the_correlations_from_the_identity():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), 2 * rng.normal(size=(50, 3)) + 5
    y[:, 0] += x[:, 0]
    cross = np.corrcoef(x.T, y.T)[:3, 3:]
    off = cross - np.diag(np.diag(cross))
    wanted = ((np.diag(cross) - 1) ** 2).sum() + 0.3 * (off**2).sum()
    assert float(sum(redundancy(jnp.asarray(x), jnp.asarray(y), 0.3))) == pytest.approx(wanted, rel=1e-4)
    net, kernel = projector(3, 3), np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -1.0]])
    params = {"params": {"Dense_0": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(3)}}}
    feature = jnp.asarray((x - 1.0) @ np.linalg.inv(kernel))  # which the projector maps back to x
    loss, terms = redundancy_loss(params, feature, jnp.asarray(y), project=net, off=0.3)
    assert float(loss) == pytest.approx(wanted, rel=1e-4)
    assert float(terms["invariance"]) == pytest.approx(((np.diag(cross) - 1) ** 2).sum(), rel=1e-4)


def test_full_information_has_no_loss_and_tokens_are_constants():
    rng = np.random.default_rng(1)
    y = np.linalg.qr(rng.normal(size=(40, 4)) - 0.0)[0]
    y = np.linalg.qr(np.column_stack([np.ones(40), y]))[0][:, 1:]  # columns of mean 0, at right angles
    assert float(sum(redundancy(3 * jnp.asarray(y) + 1, jnp.asarray(y)))) == pytest.approx(0, abs=1e-4)
    x = jnp.asarray(rng.normal(size=(40, 4)))
    to_states, to_tokens = jax.grad(lambda x, y: sum(redundancy(x, y)), (0, 1))(x, jnp.asarray(y))
    assert float(jnp.abs(to_states).max()) > 1e-3
    np.testing.assert_array_equal(to_tokens, 0)


def test_the_projector_is_linear():
    net = projector(3, 5)
    params = net.init(jax.random.key(0))
    zero, one, two = (net.apply(params, jnp.full(3, x)) for x in (0.0, 1.0, 2.0))
    assert one.shape == (5,)
    np.testing.assert_allclose(two - one, one - zero, rtol=1e-4, atol=1e-6)
