"""Data sets: what comes back from a file, what is refused and by which name, and where episodes end."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_jax.buffers import datasets


def arrays(rows=6, **changes):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(rows + 1, 3))
    made = {
        "obs": obs[:-1], "action": rng.uniform(-1, 1, (rows, 2)), "reward": rng.normal(size=rows),
        "terminated": np.arange(rows) == 2, "truncated": np.arange(rows) == rows - 1, "next_obs": obs[1:],
    }  # fmt: skip
    return {name: value for name, value in (made | changes).items() if value is not None}


def test_a_file_gives_back_every_array_and_how_it_was_made(tmp_path):
    data = datasets.checked(arrays(), about={"env": "Pendulum-v1"})
    datasets.save(tmp_path / "a.npz", data)
    found = datasets.load(tmp_path / "a.npz")
    for name in datasets.FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(data, name))
        assert getattr(found, name).dtype == getattr(data, name).dtype
    assert found.about == {"env": "Pendulum-v1"}
    assert datasets.digest(found) == datasets.digest(data)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_the_digest_sees_every_array_and_not_the_story():
    data = datasets.checked(arrays())
    assert datasets.digest(data._replace(about={"x": 1})) == datasets.digest(data)
    for name in datasets.FIELDS:
        changed = getattr(data, name).copy()
        changed[0] = ~changed[0] if changed.dtype == bool else changed[0] + 1
        assert datasets.digest(data._replace(**{name: changed})) != datasets.digest(data), name


def test_discount_and_last_stand_for_terminated_and_truncated():
    data = datasets.checked(arrays())
    last = data.terminated | data.truncated
    other = arrays(terminated=None, truncated=None, discount=1 - data.terminated.astype(float), last=last)
    found = datasets.checked(other)
    np.testing.assert_array_equal(found.terminated, data.terminated)
    np.testing.assert_array_equal(found.truncated, data.truncated)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, r"a.npz: reward is missing"),
        ({"terminated": None}, r"terminated \(or discount\) is missing"),
        ({"truncated": None}, r"truncated \(or last\) is missing"),
        ({"next_obs": None}, "next_obs is missing"),
        ({"action": np.zeros((5, 2))}, r"action must have the 6 rows of reward, got shape \[5, 2\]"),
        ({"obs": np.zeros((6, 2))}, r"obs and next_obs must be of one shape, got \[6, 2\] and \[6, 3\]"),
        ({"obs": np.where(np.arange(18).reshape(6, 3) == 7, np.nan, 0)}, r"obs must be finite, got .* in row 2"),
        ({"reward": np.array([0, 1, np.inf, 0, 0, 0])}, "reward must be finite, got inf in row 2"),
        ({"reward": np.zeros((6, 1))}, r"reward must be of shape \[6\], got \[6, 1\]"),
        ({"terminated": np.array([0, 0, 2, 0, 0, 0])}, "terminated must be 0 or 1, got 2 in row 2"),
        ({"terminated": None, "discount": np.full(6, 0.99)}, "discount must be 0 or 1, got 0.99 in row 0"),
        ({"truncated": None, "last": np.zeros(6)}, "last must be true where the step terminates, got false in row 2"),
        ({"action": np.array(["up"] * 6)}, "action must hold numbers"),
        ({name: array[:0] for name, array in arrays().items()}, "a data set needs at least one row"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        datasets.checked(arrays(**changes), "a.npz")


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        datasets.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no data")
    with pytest.raises(ValueError, match="must be an npz file of plain arrays"):
        datasets.load(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", obs=np.array([{}], object))
    with pytest.raises(ValueError, match="must be an npz file of plain arrays"):
        datasets.load(tmp_path / "objects.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="must be an npz file of plain arrays"):
        datasets.load(tmp_path / "one.npy")
    data = datasets.checked(arrays())
    with pytest.raises(ValueError, match=r"out must end in \.npz"):
        datasets.save(tmp_path / "a.csv", data)
    with pytest.raises(ValueError, match="there is no folder"):
        datasets.save(tmp_path / "no" / "a.npz", data)


def test_episodes_end_where_they_say_so_or_where_the_next_row_begins_elsewhere():
    data = datasets.checked(arrays(9, terminated=np.arange(9) == 1, truncated=np.arange(9) == 4))
    obs = data.obs.copy()
    obs[7] += 1  # the row after is of another episode
    obs[3] *= 1 + 1e-6  # but for rounding it goes on
    cut = data._replace(obs=obs)
    assert [(rows.start, rows.stop) for rows in datasets.episodes(cut)] == [(0, 2), (2, 5), (5, 7), (7, 9)]
    expected = [data.reward[:2].sum(), data.reward[2:5].sum()]  # the other two are cut off
    np.testing.assert_allclose(datasets.returns(cut), expected, rtol=1e-6)


def test_parts_are_joined_without_an_episode_that_goes_on_in_the_next():
    data = datasets.checked(arrays(truncated=np.zeros(6, bool)))
    both = datasets.concatenate([data, data], {"of": 2})
    assert both.rows == 12
    np.testing.assert_array_equal(np.flatnonzero(both.truncated), [5, 11])
    assert not data.truncated.any()
    assert both.about == {"of": 2}
    with pytest.raises(ValueError, match="one shape"):
        datasets.concatenate([data, datasets.checked(arrays(action=np.zeros((6, 1))))])


def test_rows_for_agents_tell_termination_from_truncation():
    rows = datasets.transitions(datasets.checked(arrays()))
    np.testing.assert_array_equal(rows.discount, [1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(rows.last, [False, False, True, False, False, True])
