"""The files of a run: exact numbers, strict JSON, atomic replacement."""

import csv
import json
import math

import numpy as np
import pytest

from mbrl_jax.train import folder, log, run_files


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    log.write_atomic(path, "old")

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr(folder.os, "fsync", fail)
    with pytest.raises(OSError, match="disk"):
        log.write_atomic(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    log.write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_strict(tmp_path):
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": np.array([1, 2]), "c": np.float32(0.5), "d": None}
    log.write_json(tmp_path / "a.json", value)

    def refuse(name):
        raise AssertionError(name)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [1.5, None, [None, None]], "b": [1, 2], "c": 0.5, "d": None}
    assert run_files.read_json(tmp_path / "a.json") == read
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"b\.json: no JSON"):
        run_files.read_json(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (np.float32(5), "5"),
        (np.float32(-0.5), "-0.5"),
        (np.int32(7), "7"),
        (True, "1"),
        (None, ""),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_cells(value, text):
    assert log.cell(value) == text


def test_cells_read_back_as_the_same_number():
    draw = np.random.default_rng(0)
    numbers = (draw.normal(size=200) * 10.0 ** draw.integers(-30, 30, 200)).astype(np.float32)
    assert all(np.float32(log.cell(number)) == number for number in numbers)
    doubles = draw.normal(size=200) * 10.0 ** draw.integers(-200, 200, 200)
    assert all(float(log.cell(number)) == number for number in doubles)


def fill(record: log.Record, chunks: range, wall: float = 1.0) -> None:
    """Chunks of two seeds and three episodes, with numbers that depend on the chunk's."""
    for chunk in chunks:
        metrics = {"critic_loss": np.float32([chunk / 3, np.nan]), "return": np.float32([np.nan, -chunk]),
                   "episodes": np.float32([0, 2])}  # fmt: skip
        returns = np.float32([[chunk, chunk + 1, chunk + 0.1], [0, 0, 10 * chunk]])
        record.add(100 * chunk, 20 * chunk, wall * chunk, metrics, returns, np.full((2, 3), 200 + chunk))


def test_rows(tmp_path):
    record = log.Record(tmp_path, [4, 5])
    fill(record, range(1, 3))
    record.write()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        "seed", "env_steps", "updates", "wall_seconds", "return", "episodes", "critic_loss", "eval_return",
    ]  # fmt: skip
    assert [(row["seed"], row["env_steps"], row["updates"]) for row in rows] == [
        ("4", "100", "20"), ("5", "100", "20"), ("4", "200", "40"), ("5", "200", "40"),
    ]  # fmt: skip
    assert [row["return"] for row in rows] == ["", "-1", "", "-2"]
    assert [row["critic_loss"] for row in rows] == ["0.33333334", "nan", "0.6666667", "nan"]
    assert float(rows[3]["eval_return"]) == pytest.approx(20 / 3, rel=1e-15)
    evals = (tmp_path / "eval.csv").read_text().splitlines()
    assert evals[0] == "seed,env_steps,episode,return,length"
    assert evals[1:4] == ["4,100,0,1,201", "4,100,1,2,201", "4,100,2,1.1,201"]
    assert len(evals) == 1 + 2 * 2 * 3


def test_the_last_five_evaluations_and_chunks_with_an_episode_are_averaged(tmp_path):
    record = log.Record(tmp_path, [4, 5])
    assert (record.recent(), record.training()) == ([None, None], [None, None])
    fill(record, range(1, 10))
    assert record.recent() == pytest.approx([7 + 1.1 / 3, 70 / 3])  # chunks 5 to 9: 7 in the mean
    assert record.training() == [None, -7.0]
    record.write()
    again = log.Record(tmp_path, [4, 5])
    again.load(800, 8)
    assert again.recent() == pytest.approx([6 + 1.1 / 3, 20.0])
    assert again.training() == [None, -6.0]


def test_loading_drops_later_rows_and_continues_the_same(tmp_path):
    whole, broken = log.Record(tmp_path / "a", [0, 1]), log.Record(tmp_path / "b", [0, 1])
    for record in (whole, broken):
        record.folder.mkdir()
    fill(whole, range(1, 5))
    whole.write()
    fill(broken, range(1, 4), wall=1.0)
    broken.write()
    again = log.Record(tmp_path / "b", [0, 1])
    again.load(env_steps=200, chunks=2)
    assert again.wall_seconds == 2.0
    assert again.scores == whole.scores[:2]
    fill(again, range(3, 5))
    again.write()
    for name in ("metrics.csv", "eval.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert again.reached(4.0) == whole.reached(4.0) == [400, 200]
    with pytest.raises(ValueError, match=r"must hold 10 rows up to the checkpoint at 900 steps, it holds 8"):
        log.Record(tmp_path / "a", [0, 1]).load(env_steps=900, chunks=5)


def test_reached(tmp_path):
    record = log.Record(tmp_path, [0, 1])
    fill(record, range(1, 4))  # means: chunk + 0.367, and 3.33 * chunk
    assert record.reached(2.0) == [200, 100]
    assert record.reached(3.0) == [300, 100]
    assert record.reached(3.4) == [None, 200]
    assert record.reached(None) == [None, None]


def test_reached_is_the_same_when_read_back(tmp_path):
    """0.7 in single precision is below 0.7, and written as 0.7: it counts alike before a resume and after."""
    assert float(np.float32(0.7)) < 0.7
    for name, episodes, reached in (("trained", 0, [10]), ("evaluated", 1, [None])):  # means are in double precision
        record, returns = log.Record(tmp_path / name, [0]), np.full((1, episodes), 0.7, np.float32)
        record.folder.mkdir()
        record.add(10, 1, 0.5, {"return": np.float32([0.7]), "episodes": [1]}, returns, np.ones((1, episodes)))
        record.write()
        again = log.Record(tmp_path / name, [0])
        again.load(10, 1)
        assert record.reached(0.7) == again.reached(0.7) == reached


def test_no_evaluation_and_changed_columns(tmp_path):
    record = log.Record(tmp_path, [0])
    record.add(10, 1, 0.5, {"return": np.float32([1.5]), "episodes": [1]}, np.zeros((1, 0)), np.zeros((1, 0)))
    record.write()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1] == "0,10,1,0.500,1.5,1,"
    assert record.reached(1.0) == [10]  # by the training episodes
    assert record.reached(2.0) == [None]
    again = log.Record(tmp_path, [0])
    again.load(env_steps=10, chunks=1)
    assert again.scored == record.scored == [(10, [1.5])]
    with pytest.raises(ValueError, match="has the columns"):
        record.add(20, 2, 1.0, {"return": [0], "episodes": [1], "x": [1]}, np.zeros((1, 0)), np.zeros((1, 0)))


def test_progress_without_a_terminal_prints_a_line_every_few_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    line = log.Progress("mbpo Pendulum-v1", total=1000, seeds=2, every=5.0)
    line.begin(200)
    for second in range(1, 9):
        now[0] = float(second)
        line.show(200 + 100 * second, math.nan if second < 3 else -50.25, -7.0)
    line.close()
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "mbpo Pendulum-v1  300/1,000 steps · eval -7.0 · 200 steps/s · 0:07 left",
        "mbpo Pendulum-v1  800/1,000 steps · return -50.2 · eval -7.0 · 200 steps/s · 0:02 left",
        "mbpo Pendulum-v1  1,000/1,000 steps · return -50.2 · eval -7.0 · 200 steps/s · 0:00 left",
    ]
    quiet = log.Progress("x", total=10, seeds=1, quiet=True)
    quiet.say("hello")
    quiet.show(10, 0.0, 0.0)
    assert capsys.readouterr().out == ""


def test_progress_on_a_terminal_draws_one_line(capsys, monkeypatch):
    monkeypatch.setattr(log.sys.stdout, "isatty", lambda: True)
    line = log.Progress("sac CartPole-v1", total=100, seeds=1)
    line.begin(0)
    line.show(50, 1.0, 2.0)
    line.close()
    assert "sac CartPole-v1" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert log.clock(seconds) == text
