"""The two recurrent cells against NumPy, block by block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.nets.recurrent import block_gru, gru

DETER, STOCH, ACTION, HIDDEN, BLOCKS = 12, 5, 2, 4, 3
RNG = np.random.default_rng(0)
H, Z, A = (RNG.normal(size=n) for n in (DETER, STOCH, ACTION))


def drawn(init):
    """Parameters none of which is at its start of 0 or 1, without compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape) + 0.1, jnp.float32), shapes)


def plain(params):
    return jax.tree.map(lambda p: np.asarray(p, np.float64), params["params"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms(x, scale):
    return x / np.sqrt((x**2).mean() + 1e-4) * scale


def gates(h, r, c, u):
    keep = sigmoid(u - 1)
    return keep * np.tanh(sigmoid(r) * c) + (1 - keep) * h


def block_gru_by_numpy(p, h, z, a):
    def dense(part, x):
        y = rms(x @ part["Dense_0"]["kernel"] + part["Dense_0"]["bias"], part["RMSNorm_0"]["scale"])
        return y * sigmoid(y)

    shared = [dense(p["of_h"], h), dense(p["of_z"], z), dense(p["of_a"], a)]
    size = DETER // BLOCKS
    mixed = [np.concatenate([h[g * size : (g + 1) * size], *shared]) @ p["mix"][g] for g in range(BLOCKS)]
    mixed = rms(np.concatenate(mixed) + p["mix_bias"], p["mix_norm"]["scale"])
    mixed = mixed * sigmoid(mixed)
    out = []
    for g in range(BLOCKS):
        rows = slice(g * size, (g + 1) * size)
        parts = mixed[rows] @ p["gates"][g] + p["gates_bias"][3 * g * size : 3 * (g + 1) * size]
        out.append(gates(h[rows], *np.split(parts, 3)))
    return np.concatenate(out)


def gru_by_numpy(p, h, z, a, normed):
    x = np.concatenate([z, a]) @ p["inputs"]["kernel"] + p["inputs"]["bias"]
    x = np.where(x > 0, x, np.exp(x) - 1)
    parts = np.concatenate([x, h]) @ p["gates"]["kernel"] + p["gates"]["bias"]
    if normed:
        parts = (parts - parts.mean()) / np.sqrt(parts.var() + 1e-3) * p["gates_norm"]["scale"] + p["gates_norm"][
            "bias"
        ]
    return gates(h, *np.split(parts, 3))


def run(cell, params, *inputs):
    h, z, a = (jnp.asarray(x, jnp.float32) for x in inputs)
    return jax.jit(lambda p, h, z, a: cell.apply(p, h, z, cell.ahead(p, a)))(params, h, z, a)


def test_block_gru_by_numpy():
    cell = block_gru(DETER, STOCH, ACTION, HIDDEN, BLOCKS)
    params = drawn(cell.init)
    np.testing.assert_allclose(run(cell, params, H, Z, A), block_gru_by_numpy(plain(params), H, Z, A), rtol=1e-4)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_gru_by_numpy(norm):
    cell = gru(DETER, STOCH, ACTION, HIDDEN, norm=norm)
    params = drawn(cell.init)
    expected = gru_by_numpy(plain(params), H, Z, A, norm == "layer")
    np.testing.assert_allclose(run(cell, params, H, Z, A), expected, rtol=1e-4)


def test_a_block_depends_on_itself_and_the_summary_only():
    """Without the summary of h, and without a norm over all blocks, a change of one block stays in that block."""
    cell = block_gru(DETER, STOCH, ACTION, HIDDEN, BLOCKS, norm="none")
    params = drawn(cell.init)
    deaf = jax.tree_util.tree_map_with_path(
        lambda path, p: 0.0 * p if "of_h" in jax.tree_util.keystr(path) else p, params
    )
    size = DETER // BLOCKS
    other = H.copy()
    other[size : 2 * size] += 1.0
    for p, spreads in ((deaf, False), (params, True)):
        changed = np.asarray(run(cell, p, other, Z, A) - run(cell, p, H, Z, A)).reshape(BLOCKS, size)
        assert np.abs(changed[1]).min() > 1e-3
        assert (np.abs(changed[[0, 2]]).max() > 1e-6) == spreads


def test_the_smallest_size_has_the_official_number_of_parameters():
    cell = jax.eval_shape(block_gru(512, 128, 2, 64).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(cell)) == 41_472 + 132_096 + 99_840  # summaries, mix, gates


def test_a_batch_is_its_rows():
    cell = block_gru(DETER, STOCH, ACTION, HIDDEN, BLOCKS)
    params = drawn(cell.init)
    h, z, a = (jnp.asarray(RNG.normal(size=(3, n)), jnp.float32) for n in (DETER, STOCH, ACTION))
    batched = jax.jit(jax.vmap(lambda h, z, a: cell.apply(params, h, z, cell.ahead(params, a))))(h, z, a)
    np.testing.assert_allclose(batched, [run(cell, params, *row) for row in zip(h, z, a, strict=True)], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: block_gru(10, 5, 2, 4, 3), r"deter must be a multiple of blocks \(3\), got 10"),
        (lambda: block_gru(12, 0, 2, 4, 3), "at least 1"),
        (lambda: gru(12, 5, 2, 0), "at least 1"),
        (lambda: gru(12, 5, 2, 4, "gelu2"), "activation must be one of"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
