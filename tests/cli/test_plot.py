"""`plot.py imagine` on a run as `train.py` leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbrl_jax.agents.standardized import inner_of
from mbrl_jax.cli import plot as plots
from mbrl_jax.cli import train as cli
from mbrl_jax.presets.restore import load_run

WORDS = (
    "dreamer_v2 --env CartPole-v1 --seeds 2 --steps 60 --quiet --devices 1 --loop.num-envs 2 --loop.warmup 10"
    " --loop.inner 2 --loop.cycles 1 --loop.capacity 200 --loop.eval-episodes 1 --agent.batch 2 --agent.length 4"
    " --agent.imagined 2 --agent.net.deter 8 --agent.net.units 8 --agent.net.layers 1 --agent.net.stoch 2"
    " --agent.net.classes 2"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main([*WORDS.split(), "--out", str(out)]) == 0
    return out


def test_a_run_is_taken_up_where_it_ended(run):
    first, second = (load_run(run, seed) for seed in (0, 1))
    assert (first.algo, first.name, first.config.batch) == ("dreamer_v2", "CartPole-v1", 2)
    assert int(inner_of(first.state.learner).updates) == 2 * 2 * first.chunk  # two updates in each of two steps
    assert (first.state.actors.obs != second.state.actors.obs).any()
    with pytest.raises(ValueError, match=r"seed must be from 0 to 1, which .* holds, got 2"):
        load_run(run, 2)


def test_imagination_is_drawn(run, tmp_path, capsys):
    png, gif = tmp_path / "a.png", tmp_path / "a.gif"
    words = [
        "imagine",
        str(run),
        "--out",
        str(png),
        "--gif",
        str(gif),
        "--context",
        "2",
        "--horizon",
        "4",
        "--seed",
        "1",
    ]
    assert plots.main(words) == 0
    assert "picture in" in capsys.readouterr().out
    with Image.open(png) as picture, Image.open(gif) as moving:
        assert picture.format == "PNG"
        assert picture.size[0] > 300
        assert getattr(moving, "n_frames", 1) == 6


def test_another_seed_key_or_context_is_another_picture(run, tmp_path):
    def picture(*words: str) -> np.ndarray:
        out = tmp_path / "a.png"
        assert plots.main(["imagine", str(run), "--out", str(out), "--context", "2", "--horizon", "4", *words]) == 0
        with Image.open(out) as drawn:
            return np.asarray(drawn.convert("RGB"))

    first = picture()
    np.testing.assert_array_equal(first, picture())
    for words in (["--seed", "1"], ["--key", "1"], ["--samples", "1"]):
        other = picture(*words)
        assert other.shape != first.shape or (other != first).mean() > 0.001, words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--out", "a.jpg"], "--out must end in .png"),
        (["RUN", "--out", "a.png", "--gif", "a.mp4"], "--gif must end in .gif"),
        (["RUN", "--out", "a.png", "--horizon", "0"], "--context, --horizon and --samples must be at least 1"),
        (["RUN", "--out", "a.png", "--seed", "5"], "seed must be from 0 to 1"),
        (["nowhere", "--out", "a.png"], "no run in nowhere"),
    ],
)
def test_wrong_commands_are_refused(run, words, message, capsys):
    assert plots.main(["imagine", *(str(run) if word == "RUN" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


FEW = ["--episodes", "2", "--steps", "12", "--starts", "2", "--horizon", "3", "--context", "2"]


@pytest.mark.parametrize(
    "kind", ["error", *(pytest.param(k, marks=pytest.mark.slow) for k in ("calibration", "trust"))]
)
def test_measures_of_a_model_are_written_into_its_run(run, kind, capsys):
    assert plots.main([kind, str(run), *FEW]) == 0
    said = capsys.readouterr().out
    assert f"model_{kind}.png" in said
    with Image.open(run / f"model_{kind}.png") as picture:
        assert picture.size[0] > 600
    rows = (run / f"model_{kind}.csv").read_text().splitlines()
    head = {"error": "kind,steps_ahead,what,error", "calibration": "prediction,what,at,value"}
    assert rows[0].startswith(head.get(kind, "actions,disagreement,error,o[0]"))
    assert len(rows) > 4
    if kind == "error":
        kinds = {row.split(",")[0] for row in rows[1:]}
        assert kinds <= {"observation", "reward"}
        assert "observation" in kinds


@pytest.mark.slow
def test_models_are_compared_in_one_picture(run, tmp_path, capsys):
    out = tmp_path / "both.png"
    assert plots.main(["compare", str(run), str(run), "--out", str(out), "--actions", "random", *FEW]) == 0
    assert "dreamer_v2 (run) 1" in capsys.readouterr().out
    runs = {row.split(",")[0] for row in out.with_suffix(".csv").read_text().splitlines()[1:]}
    assert runs == {"dreamer_v2 (run) 1", "dreamer_v2 (run) 2"}
    assert out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["error", "RUN", "--out", "a.jpg"], "--out must end in .png, got a.jpg"),
        (["error", "RUN", "--actions", "best"], "--actions must be policy, sampled or random, got 'best'"),
        (["trust", "RUN", "--horizon", "0"], "--horizon must be from 1 to 10,000, got 0"),
        (["compare", "RUN", "--labels", "a", "b"], "--labels must name each of the 1 runs, got 2"),
        (["calibration", "RUN", "--checkpoint", "99"], "checkpoint must be one of"),
        (["error", "nowhere"], "no run in nowhere"),
    ],
)
def test_wrong_measures_are_refused(run, words, message, capsys):
    assert plots.main([str(run) if word == "RUN" else word for word in words]) == 2
    assert message in capsys.readouterr().err
