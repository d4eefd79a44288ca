"""Divergences against distrax and NumPy; gradients of the two forms against finite differences."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.ops.kl import balanced, categorical_kl, clipped, gaussian_kl, two_way

RNG = np.random.default_rng(0)
Q, P = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)  # five steps of 4 latents with 3 classes


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_numpy(q, p):
    q, p = softmax(q), softmax(p)
    return (q * np.log(q / p)).sum((-1, -2))


def test_categorical_kl():
    out = jax.vmap(categorical_kl)(Q, P)
    np.testing.assert_allclose(out, by_numpy(Q, P), rtol=1e-5)
    theirs = distrax.Categorical(jnp.asarray(Q)).kl_divergence(distrax.Categorical(jnp.asarray(P))).sum(-1)
    np.testing.assert_allclose(out, theirs, rtol=1e-5)
    assert float(categorical_kl(Q[0], Q[0] + 3.0)) == pytest.approx(0.0, abs=1e-6)
    half, other = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 0.75]]))
    assert float(categorical_kl(half, other)) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def test_gaussian_kl():
    means, stds = RNG.normal(size=(2, 6)).astype(np.float32), RNG.uniform(0.1, 3, size=(2, 6)).astype(np.float32)
    out = gaussian_kl(*map(jnp.asarray, (means[0], stds[0], means[1], stds[1])))
    one, two = (
        distrax.MultivariateNormalDiag(jnp.asarray(m), jnp.asarray(s)) for m, s in zip(means, stds, strict=True)
    )
    np.testing.assert_allclose(out, one.kl_divergence(two), rtol=1e-5)
    by_hand = gaussian_kl(jnp.array([1.0]), jnp.array([2.0]), jnp.array([0.0]), jnp.array([1.0]))
    assert float(by_hand) == pytest.approx((4 + 1) / 2 - 0.5 - np.log(2))


def grads(loss):
    return jax.grad(lambda q, p: loss(*two_way(jax.vmap(categorical_kl), q, p)), (0, 1))(jnp.asarray(Q), jnp.asarray(P))


def plain(q, p):
    """Gradients of the mean KL by central differences, in double precision."""
    out = []
    for which in (0, 1):
        grad = np.zeros_like(q, np.float64)
        for at in np.ndindex(q.shape):
            change = np.zeros(q.shape)
            change[at] = 1e-5
            up, down = ((q + s * change, p) if which == 0 else (q, p + s * change) for s in (1, -1))
            grad[at] = (by_numpy(*up).mean() - by_numpy(*down).mean()) / 2e-5
        out.append(grad)
    return out


@pytest.fixture(scope="module")
def differences():
    return plain(Q.astype(np.float64), P.astype(np.float64))


def test_balance_gives_the_prior_alpha_of_the_gradient_and_the_posterior_the_rest(differences):
    mean = by_numpy(Q, P).mean()
    value = balanced(*two_way(jax.vmap(categorical_kl), jnp.asarray(Q), jnp.asarray(P)), 0.8)
    assert float(value) == pytest.approx(mean, rel=1e-5)
    posterior, prior = grads(lambda dyn, rep: balanced(dyn, rep, 0.8))
    np.testing.assert_allclose(posterior, 0.2 * differences[0], atol=1e-6)
    np.testing.assert_allclose(prior, 0.8 * differences[1], atol=1e-6)


def test_the_free_nats_of_the_balanced_form_apply_to_the_mean():
    values = by_numpy(Q, P)
    mean = float(values.mean())
    assert values.min() < mean - 0.1 < values.max()
    below, above = (grads(lambda dyn, rep: balanced(dyn, rep, 0.8, mean + s * 0.1)) for s in (-1, 1))  # noqa: B023
    assert all(np.abs(g).min(axis=(1, 2)).min() > 0 for g in below)  # every step, also those below
    assert all(np.abs(g).max() == 0 for g in above)
    assert float(balanced(jnp.asarray(values), jnp.asarray(values), 0.8, 50.0)) == pytest.approx(50.0)


def test_the_free_nats_of_the_clipped_form_apply_to_each_step(differences):
    values = by_numpy(Q, P)
    free = float(np.sort(values)[1:3].mean())
    dyn, rep = jnp.asarray(values, jnp.float32), jnp.asarray(values + 0.5, jnp.float32)
    np.testing.assert_allclose(
        clipped(dyn, rep, free), np.maximum(free, values) + 0.1 * np.maximum(free, values + 0.5), rtol=1e-5
    )
    posterior, prior = grads(lambda dyn, rep: jnp.mean(clipped(dyn, rep, free)))
    active = (values > free)[:, None, None]
    np.testing.assert_allclose(posterior, 0.1 * differences[0] * active, atol=1e-6)
    np.testing.assert_allclose(prior, differences[1] * active, atol=1e-6)
    assert 0 < active.sum() < 5


def test_defaults_are_one_nat_and_a_tenth():
    dyn, rep = jnp.array([0.2, 3.0]), jnp.array([0.2, 5.0])
    np.testing.assert_allclose(clipped(dyn, rep), [1.1, 3.5], rtol=1e-6)


def test_batches_are_refused_at_the_door():
    with pytest.raises(AssertionError):
        categorical_kl(jnp.asarray(Q), jnp.asarray(P))
    with pytest.raises(AssertionError):
        gaussian_kl(*[jnp.ones((2, 3))] * 4)
