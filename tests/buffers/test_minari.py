"""Minari's data sets: what is written is what is read."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_jax.buffers import datasets
from mbrl_jax.core import Box, Discrete, Spec

minari = pytest.importorskip("minari", reason="the extra minari is not installed")
from mbrl_jax.buffers.minari import from_minari, to_minari  # noqa: E402


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def made(action):
    obs = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    ends = {"terminated": np.arange(8) == 3, "truncated": np.arange(8) == 7}
    arrays = {"obs": obs[:-1], "action": action, "reward": np.arange(8.0), "next_obs": obs[1:]}
    return datasets.checked(arrays | ends, about={"env": "here", "algo": "sac"})


@pytest.mark.parametrize("discrete", [False, True])
def test_a_data_set_comes_back_as_it_was(discrete):
    action = np.arange(8) % 3 if discrete else np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
    spec = Spec(Box((3,)), Discrete(3) if discrete else Box((2,), -1.0, 1.0))
    data = made(action)
    to_minari(data, "here/test-v0", spec)
    found = from_minari("here/test-v0")
    for name in datasets.FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(data, name), err_msg=name)
    assert found.about == data.about
    assert datasets.digest(found) == datasets.digest(data)
    with pytest.raises(ValueError, match="is there already"):
        to_minari(data, "here/test-v0", spec)


def test_actions_of_other_bounds_are_scaled():
    data = made(np.linspace(-1, 1, 8, dtype=np.float32)[:, None])
    wide = data._replace(action=data.action * 2)
    to_minari(wide, "here/wide-v0", Spec(Box((3,)), Box((1,), -2.0, 2.0)))
    np.testing.assert_allclose(from_minari("here/wide-v0").action, data.action, atol=1e-6)


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="minari:no/such-v0 is not on this machine, which has none"):
        from_minari("no/such-v0")
