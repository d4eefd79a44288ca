"""LaProp, clipping and warm-up against NumPy arithmetic over several updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl_jax.ops.optim import clip_by_tensor, descend, laprop, scale_by_laprop

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(4, 3)), "b": np.zeros(3), "small": np.full((2,), 1e-5), "still": np.ones(2)}
GRADS = [
    {"w": RNG.normal(size=(4, 3)) * 10**k, "b": RNG.normal(size=3), "small": RNG.normal(size=2), "still": np.zeros(2)}
    for k in (0, 1, -3, -9)
]


def as32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def clipped(grad, weight, clip=0.3, smallest=1e-3):
    norms = [np.sqrt((x.astype(np.float64) ** 2).sum()) for x in (grad, weight)]
    return grad / max(1.0, norms[0] / (clip * max(smallest, norms[1])))


class LaProp:
    """One tensor, in double precision."""

    def __init__(self, shape, b1, b2, eps):
        self.m, self.n, self.t, self.b1, self.b2, self.eps = np.zeros(shape), np.zeros(shape), 0, b1, b2, eps

    def __call__(self, g):
        self.t += 1
        self.n = self.b2 * self.n + (1 - self.b2) * g**2
        u = g / (np.sqrt(self.n / (1 - self.b2**self.t)) + self.eps)
        self.m = self.b1 * self.m + (1 - self.b1) * u
        return self.m / (1 - self.b1**self.t)


def test_clipping_is_per_tensor():
    out, _ = clip_by_tensor(0.3).update(as32(GRADS[1]), optax.EmptyState(), as32(PARAMS))
    for name, grad in GRADS[1].items():
        np.testing.assert_allclose(out[name], clipped(grad, PARAMS[name]), rtol=1e-5)
    assert np.linalg.norm(out["b"]) == pytest.approx(0.3e-3)  # weights of 0 count as a norm of 0.001


def test_clipping_is_not_optax_s_per_unit_rule():
    """A 4 x 3 kernel of ones, gradient 10 in one column: 0.3 √12 over the tensor, 0.3 √4 over the column."""
    ones, grad = jnp.ones((4, 3)), jnp.zeros((4, 3)).at[:, 0].set(10.0)
    ours, _ = clip_by_tensor(0.3).update(grad, optax.EmptyState(), ones)
    theirs, _ = optax.adaptive_grad_clip(0.3).update(grad, optax.EmptyState(), ones)
    assert float(jnp.linalg.norm(ours)) == pytest.approx(0.3 * 12**0.5)
    assert float(jnp.linalg.norm(theirs)) == pytest.approx(0.6)
    small, _ = clip_by_tensor(0.3).update(0.01 * grad, optax.EmptyState(), ones)
    np.testing.assert_array_equal(small, 0.01 * grad)
    with pytest.raises(ValueError, match="needs the parameters"):
        clip_by_tensor().update(grad, optax.EmptyState())


@pytest.mark.parametrize(("b1", "b2", "eps"), [(0.9, 0.999, 1e-20), (0.8, 0.5, 1e-3)])
def test_laprop_by_numpy(b1, b2, eps):
    optimizer = scale_by_laprop(b1, b2, eps)
    state, update = optimizer.init(as32(PARAMS)), jax.jit(optimizer.update)
    oracle = {name: LaProp(value.shape, b1, b2, eps) for name, value in PARAMS.items()}
    for grads in GRADS:
        out, state = update(as32(grads), state)
        for name, grad in grads.items():
            np.testing.assert_allclose(out[name], oracle[name](grad), rtol=2e-4, atol=1e-7)
    assert float(jnp.abs(out["still"]).max()) == 0


def test_laprop_is_not_adam():
    """After a large gradient and small ones Adam goes on for long; LaProp's momentum holds normalised steps."""
    grads = [jnp.float32(1.0)] + [jnp.float32(0.0)] * 3
    outs = []
    for optimizer in (scale_by_laprop(0.9, 0.5), optax.scale_by_adam(0.9, 0.5, 1e-20)):
        state = optimizer.init(jnp.float32(0))
        for grad in grads:
            out, state = optimizer.update(grad, state)
        outs.append(float(out))
    momentum = 0.9**3 * 0.1 / (1 - 0.9**4)
    assert outs[0] == pytest.approx(momentum, rel=1e-4)
    assert outs[1] == pytest.approx(momentum / np.sqrt(0.5**3 * 0.5 / (1 - 0.5**4)), rel=1e-4)


def test_descend_is_one_step_and_keeps_the_state():
    sgd = optax.sgd(0.5, momentum=0.9)
    params, state = descend(sgd, jnp.float32(2.0), sgd.init(jnp.float32(1.0)), jnp.float32(1.0))
    assert float(params) == 0.0
    params, _ = descend(sgd, jnp.float32(0.0), state, params)
    assert float(params) == pytest.approx(-0.5 * 0.9 * 2.0)


def test_the_whole_optimiser_over_four_updates():
    lr, warmup = 1e-2, 3
    optimizer = laprop(jnp.float32(lr), warmup)
    params, state, step = as32(PARAMS), optimizer.init(as32(PARAMS)), jax.jit(optimizer.update)
    expected = {name: value.astype(np.float64) for name, value in PARAMS.items()}
    oracle = {name: LaProp(value.shape, 0.9, 0.999, 1e-20) for name, value in PARAMS.items()}
    for t, grads in enumerate(GRADS):
        change, state = step(as32(grads), state, params)
        params = optax.apply_updates(params, change)
        rate = lr * min(1.0, t / warmup)
        for name, grad in grads.items():
            expected[name] = expected[name] - rate * oracle[name](clipped(grad, expected[name]))
            np.testing.assert_allclose(params[name], expected[name], rtol=2e-4, atol=1e-6)
        if t == 0:
            jax.tree.map(np.testing.assert_array_equal, params, as32(PARAMS))
    with pytest.raises(ValueError, match="warmup must be at least 1"):
        laprop(1e-3, 0)
