"""Learning curves: read as they were written, and drawn as they are."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from mbrl_jax.analysis import curves

STEPS = (100, 200, 300)


def write_run(folder, algo="mbpo", seeds=(2, 10), evaluated=True, threshold=-200.0):
    """The folder of a run in which the score of seed s at step t is s + t."""
    folder.mkdir(parents=True)
    config = {"algo": algo, "env": "Pendulum-v1", "threshold": threshold}
    (folder / "config.json").write_text(json.dumps(config))
    lines = ["seed,env_steps,updates,wall_seconds,return,episodes,eval_return"]
    lines += [
        f"{seed},{step},1,0.5,{-step if step > 100 else ''},1,{seed + step if evaluated else ''}"
        for step in STEPS
        for seed in seeds
    ]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_load(tmp_path):
    curve = curves.load(write_run(tmp_path / "a"))
    np.testing.assert_array_equal(curve.steps, STEPS)
    np.testing.assert_array_equal(curve.scores, [[102, 202, 302], [110, 210, 310]])
    assert (curve.label, curve.algo, curve.env, curve.threshold) == ("mbpo", "mbpo", "Pendulum-v1", -200.0)
    assert curve.evaluated
    assert curves.load(tmp_path / "a", "ours").label == "ours"


def test_load_without_evaluation_takes_the_training_return(tmp_path):
    curve = curves.load(write_run(tmp_path / "a", evaluated=False))
    assert not curve.evaluated
    np.testing.assert_array_equal(curve.scores, [[np.nan, -200, -300]] * 2)
    lines = (tmp_path / "a" / "metrics.csv").read_text().splitlines()
    gap = [line.replace("-300", "") if line.startswith("2,300") else line for line in lines]
    (tmp_path / "a" / "metrics.csv").write_text("\n".join(gap) + "\n")
    np.testing.assert_array_equal(curves.load(tmp_path / "a").scores, [[np.nan, -200, -200], [np.nan, -200, -300]])


def test_a_return_that_is_no_number_ends_a_curve(tmp_path):
    """No episode ended: the return before stands. Episodes ended in NaN: it does not."""
    path = write_run(tmp_path / "a", evaluated=False) / "metrics.csv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(line.replace("-300", "nan") if line.startswith("2,300") else line for line in lines) + "\n"
    )
    curve = curves.load(tmp_path / "a")
    np.testing.assert_array_equal(curve.scores, [[np.nan, -200, np.nan], [np.nan, -200, -300]])
    assert curve.diverged is not None
    assert curve.diverged.tolist() == [True, False]


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"holds no results of a run: .*config\.json"):
        curves.load(tmp_path)
    write_run(tmp_path / "a", seeds=())
    with pytest.raises(ValueError, match="holds no results yet"):
        curves.load(tmp_path / "a")
    with pytest.raises(ValueError, match="at least one run"):
        curves.picture([])


def drawn(monkeypatch, *args):
    """The axes of a picture, and its bytes."""
    seen = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k))[1])
    data = curves.picture(*args)
    return seen[0].axes[0], data


def test_picture_of_one_run(tmp_path, monkeypatch):
    curve = curves.load(write_run(tmp_path / "a", seeds=tuple(range(8))))
    axes, data = drawn(monkeypatch, [curve], -200.0)
    assert data.startswith(b"\x89PNG\r\n")
    assert axes.get_title() == "mbpo on Pendulum-v1, 8 seeds"
    *thin, thick, limit = axes.lines
    np.testing.assert_array_equal([line.get_ydata() for line in thin], curve.scores)
    np.testing.assert_array_equal(thick.get_ydata(), [103.5, 203.5, 303.5])
    np.testing.assert_array_equal(thick.get_xdata(), STEPS)
    assert thick.get_linewidth() > 2 * thin[0].get_linewidth()
    assert set(limit.get_ydata()) == {-200.0}
    assert limit.get_linestyle() == "--"
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() >= 100
    assert band[:, 1].max() <= 307
    assert "interquartile mean" in axes.get_ylabel()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["mbpo (8 seeds)", "threshold -200"]


def test_picture_of_several_runs(tmp_path, monkeypatch):
    loaded = [
        curves.load(write_run(tmp_path / name, algo=name, seeds=seeds), label)
        for name, seeds, label in [("mbpo", (0, 1, 2), "ours"), ("sac", (0,), None)]
    ]
    axes, _ = drawn(monkeypatch, loaded)
    assert axes.get_title() == "mbpo and sac on Pendulum-v1"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours (3 seeds)", "sac (1 seed)"]
    assert "interquartile" not in axes.get_ylabel()
    ours, sac = axes.lines[3], axes.lines[4]
    np.testing.assert_array_equal(ours.get_ydata(), [101, 201, 301])
    assert ours.get_color() != sac.get_color()
    assert axes.get_xscale() == "linear"
    assert drawn(monkeypatch, loaded, None, True)[0].get_xscale() == "log"


def test_table(tmp_path):
    loaded = [curves.load(write_run(tmp_path / "a")), curves.load(write_run(tmp_path / "b", "sac", (7,)))]
    lines = curves.table(loaded, 205.0).splitlines()
    assert lines[0].split("  ")[0] == "run"
    assert lines[0].endswith("median steps to 205")
    assert lines[1].split() == [
        "mbpo", "2", "300", "306.0", "302.0", "to", "310.0", "250", "(2/2", "reached)",
    ]  # fmt: skip
    assert lines[2].split() == ["sac", "1", "300", "307.0", "-", "200", "(1/1", "reached)"]
    assert curves.table(loaded, 500.0).splitlines()[2].endswith("not reached (0/1 reached)")
    assert "median" not in curves.table(loaded)


def test_runs_that_do_not_compare_are_warned_of(tmp_path):
    one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", algo="sac", evaluated=False)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"env": "CartPole-v1"}))
    first, second, *_ = curves.draw(tmp_path / "both.png", [one, other], None, None).splitlines()
    assert first == "warning: the environments differ (Pendulum-v1, CartPole-v1): returns do not compare"
    assert second == ("warning: sac without evaluation: its training returns are drawn beside evaluation returns")
    assert not curves.draw(tmp_path / "one.png", [one, one], None, None).startswith("warning")
