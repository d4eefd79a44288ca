"""Checkpoints: exact to the bit, complete or absent, with clear messages about mismatches."""

import gc
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.train import checkpoint


class Inner(NamedTuple):
    key: jax.Array
    empty: tuple = ()


def make(seed: int) -> dict:
    keys = jax.random.split(jax.random.key(seed), 3)
    odd = jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42], jnp.float32)  # what text or arithmetic would not preserve
    return {
        "inner": Inner(keys),
        "scalar_key": jax.random.key(seed, impl="rbg"),
        "odd": odd,
        "half": jnp.arange(3, dtype=jnp.bfloat16) / 3,
        "count": jnp.int32(seed),
        "flag": jnp.array([True, False]),
        "none": None,
        "zero": jnp.zeros((0, 2)),
        "twin": [jnp.ones((2, 3)), (jnp.uint8(255),)],
    }


def bits(tree) -> list:
    plain = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return [(str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(plain)]


def test_restores_every_bit_and_the_structure(tmp_path):
    state = make(7)
    checkpoint.save(tmp_path, 3, state)
    back = checkpoint.restore(tmp_path, 3, jax.eval_shape(lambda: make(0)))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert bits(back) == bits(state)
    assert bits(back) != bits(make(8))
    assert back["scalar_key"].dtype == state["scalar_key"].dtype  # the generator too
    drawn = jax.random.uniform(back["inner"].key[1])
    np.testing.assert_array_equal(drawn, jax.random.uniform(state["inner"].key[1]))
    assert bits(checkpoint.restore(tmp_path, 3, make(0))) == bits(state)  # arrays in place of shapes


def test_restored_state_can_be_donated(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.arange(4.0)})
    state = checkpoint.restore(tmp_path, 1, {"x": jnp.zeros(4)})
    out = jax.jit(lambda s: {"x": s["x"] + 1}, donate_argnums=0)(state)
    np.testing.assert_array_equal(out["x"], [1, 2, 3, 4])
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, 1, {"x": jnp.zeros(4)})["x"], [0, 1, 2, 3])


def test_keeps_the_newest(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere") is None
    assert checkpoint.latest(tmp_path) is None
    for chunk in (2, 9, 10):
        checkpoint.save(tmp_path, chunk, {"x": jnp.float32(chunk)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "9"]
    assert checkpoint.latest(tmp_path) == 10
    assert float(checkpoint.restore(tmp_path, 9, {"x": jnp.float32(0)})["x"]) == 9


def test_incomplete_checkpoints_are_ignored_and_removed(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": jnp.float32(1)})
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "junk").write_text("half")
    assert checkpoint.latest(tmp_path) == 1
    checkpoint.save(tmp_path, 2, {"x": jnp.float32(2)})
    assert not half.exists()
    assert float(checkpoint.restore(tmp_path, 2, {"x": jnp.float32(0)})["x"]) == 2


def test_kill_while_saving_leaves_a_good_checkpoint(tmp_path):
    code = f"""
        import numpy as np
        from mbrl_jax.train import checkpoint
        for chunk in range(1, 10_000):
            checkpoint.save({str(tmp_path)!r}, chunk, {{"x": np.full(200_000, chunk, np.float32)}})
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        deadline = time.monotonic() + 60
        while (checkpoint.latest(tmp_path) or 0) < 3 and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.003)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    last = checkpoint.latest(tmp_path)
    assert last is not None
    assert last >= 3
    x = checkpoint.restore(tmp_path, last, {"x": jnp.zeros(200_000)})["x"]
    np.testing.assert_array_equal(x, np.full(200_000, last, np.float32))


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({"x": jnp.zeros(3)}, r"\['x'\] is float32\[2\], not float32\[3\]"),
        ({"x": jnp.zeros(2, jnp.int32)}, r"\['x'\] is float32\[2\], not int32\[2\]"),
        ({"y": jnp.zeros(2)}, r"\['x'\] is not part of this run"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(2)}, r"\['y'\] is missing"),
    ],
)
def test_mismatches_are_named(tmp_path, like, words):
    checkpoint.save(tmp_path, 1, {"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=words):
        checkpoint.restore(tmp_path, 1, like)


def test_no_checkpoint_and_wrong_keep_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint .*/4"):
        checkpoint.restore(tmp_path, 4, {})
    with pytest.raises(ValueError, match="keep must be at least 1"):
        checkpoint.save(tmp_path, 1, {"x": jnp.zeros(1)}, keep=0)


def test_a_damaged_checkpoint_is_told_by_its_error_alone(tmp_path, monkeypatch):
    """The threads that were reading other arrays say nothing."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    state = {f"a{i}": jnp.arange(500.0) + i for i in range(30)}
    checkpoint.save(tmp_path, 1, state)
    refused = 0
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        try:
            checkpoint.restore(tmp_path, 1, state)
        except checkpoint.DamagedError:
            refused += 1
        path.write_bytes(whole)
    time.sleep(0.2)
    gc.collect()
    assert refused > 2
    assert told == []
