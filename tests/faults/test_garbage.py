"""Files that no run wrote: one line that names the file and the row, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mbrl_jax.agents.sac import SACConfig
from mbrl_jax.analysis import curves
from mbrl_jax.cli.plot import main as plot
from mbrl_jax.presets.restore import check_resumable, load_run, saved_settings
from mbrl_jax.train.loop import LoopConfig

HEAD = "seed,env_steps,updates,wall_seconds,return,episodes,loss,eval_return\n"
ROWS = "0,10,5,0.1,1.5,2,0.3,2.5\n0,20,10,0.2,,0,0.3,3.5\n"
CONFIG = {"algo": "sac", "env": "CartPole-v1", "threshold": 475.0}


def folder_of(path: Path, config: Any = CONFIG, rows: str | bytes = HEAD + ROWS) -> Path:
    """A folder with these two files."""
    text = config if isinstance(config, str | bytes) else json.dumps(config)
    (path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (path / "metrics.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    return path


def test_what_a_run_writes_is_read(tmp_path):
    curve = curves.load(folder_of(tmp_path))
    assert (curve.scores.tolist(), curve.steps.tolist(), curve.evaluated) == ([[2.5, 3.5]], [10, 20], True)
    curve = curves.load(folder_of(tmp_path, rows=HEAD + "0,10,5,0.1,1.5,2,0.3,\n0,20,10,0.2,,0,0.3,\n"))
    assert (curve.scores.tolist(), curve.evaluated) == ([[1.5, 1.5]], False)


GARBAGE = {
    "an empty table": ({"rows": ""}, "holds no results yet"),
    "no rows": ({"rows": HEAD}, "holds no results yet"),
    "another table": ({"rows": "a,b\n1,2\n"}, "metrics.csv: there is no column seed"),
    "a missing column": ({"rows": (HEAD + ROWS).replace("eval_return", "score")}, "there is no column eval_return"),
    "a word for a number": ({"rows": HEAD + ROWS + "0,30,5,0.1,1,2,3,good\n"}, "metrics.csv, line 4: eval_return must"),
    "a seed that is none": ({"rows": HEAD + "x,30,5,0.1,1,2,3,4\n"}, "metrics.csv, line 2: seed must be a whole"),
    "a fraction of a step": ({"rows": HEAD + "0,1.5,5,0.1,1,2,3,4\n"}, "line 2: env_steps must be a whole number"),
    "steps without end": ({"rows": HEAD + f"0,{'9' * 30},5,0.1,1,2,3,4\n"}, "line 2: env_steps must be"),
    "half a row": ({"rows": HEAD + ROWS + "0,30,5"}, "metrics.csv, line 4: 3 cells, not the 8"),
    "a row too long": ({"rows": HEAD + "0,10,5,0.1,1,2,3,4,5\n"}, "metrics.csv, line 2: 9 cells, not the 8"),
    "a row twice": ({"rows": HEAD + ROWS + "0,20,5,0.1,1,2,3,4\n"}, "line 4: seed 0 has a row at 20 steps already"),
    "a quote left open": (
        {"rows": HEAD + '0,10,5,0.1,1,2,3,"4\n'},
        "metrics.csv, line 2: eval_return must be a number",
    ),
    "an endless cell": ({"rows": HEAD + "0,10,5,0.1,1,2,3," + "4" * 200_000 + "\n"}, "line 2: eval_return must be"),
    "a number too large": ({"rows": HEAD + "0,10,5,0.1,1,2,3,1e301\n"}, "line 2: eval_return must be a number"),
    "bytes": ({"rows": bytes(range(256))}, "metrics.csv is no text: byte 128 is not UTF-8"),
    "zeros": ({"rows": bytes(1000)}, "metrics.csv"),
    "another encoding": ({"rows": (HEAD + ROWS).encode("utf-16")}, "metrics.csv is no text: byte 0"),
    "no JSON": ({"config": "{"}, "config.json: no JSON"),
    "a list": ({"config": "[1]"}, "config.json must hold a JSON object, got list"),
    "a deep list": ({"config": "[" * 100_000}, "config.json: no JSON"),
    "no agent": ({"config": {"env": "x"}}, "config.json: algo must be text, got nothing"),
    "a number for a name": ({"config": CONFIG | {"env": 3}}, "config.json: env must be text, got 3"),
    "a word for a threshold": ({"config": CONFIG | {"threshold": "high"}}, "threshold must be a number, got 'high'"),
    "bytes for settings": ({"config": b"\xff\xfe"}, "config.json is no text"),
}


@pytest.mark.parametrize(("files", "message"), GARBAGE.values(), ids=GARBAGE)
def test_plots_of_garbage(files, message, tmp_path, capsys):
    folder = folder_of(tmp_path, **files)
    assert plot(["curves", str(folder), "--out", str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert str(folder) in said.err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("label", "right"), [(r"cost $\foo$", False), ("$$", False), ("5 $", True), (r"$\alpha_1$", True), (r"\$ $", True)]
)
def test_labels_with_formulas(label, right, tmp_path, capsys):
    folder = folder_of(tmp_path)
    words = ["curves", str(folder), "--labels", label, "--out", str(tmp_path / "a.png")]
    assert plot(words) == (0 if right else 2)
    said = capsys.readouterr()
    assert (tmp_path / "a.png").exists() == right
    if not right:
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert f"--labels: {label!r} holds a formula" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "nan"], "--threshold must be finite"),
        (["--threshold", "1e999"], "--threshold must be finite"),
        (["--threshold", "high"], "--threshold"),
    ],
)
def test_other_words_of_plots(words, message, tmp_path, capsys):
    assert plot(["curves", str(folder_of(tmp_path)), "--out", str(tmp_path / "a.png"), *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


RUN = {"algo": "sac", "env": "CartPole-v1", "seed": 0, "seeds": 1, "steps": 10, "agent": {}, "loop": {}}

FORMS = {
    "nothing": ({}, "config.json: algo must be text, got nothing"),
    "no settings": (RUN | {"agent": None}, "config.json: agent must be an object, got nothing"),
    "a list of settings": (RUN | {"loop": [1]}, r"config.json: loop must be an object, got \[1\]"),
    "half a seed": (RUN | {"seed": 0.5}, "config.json: seed must be a whole number, got 0.5"),
    "no seeds": (RUN | {"seeds": 0}, "config.json: there cannot be 0 seeds"),
    "endless seeds": (RUN | {"seeds": 10**30}, "config.json: there cannot be 10*"),
    "a module that is none": (RUN | {"agent_module": 3}, "agent_module must be text, got 3"),
}


@pytest.mark.parametrize(("config", "message"), FORMS.values(), ids=FORMS)
def test_settings_of_another_form(config, message, tmp_path):
    folder_of(tmp_path, config)
    for read in (load_run, saved_settings):
        with pytest.raises(ValueError, match=message):
            read(tmp_path)


SETTINGS = {
    "another version's": ({"agent": {"learning_rate": 1.0}}, "config.json: agent.learning_rate is no setting of this"),
    "the loop's": ({"loop": {"envs": 1}}, "config.json: loop.envs is no setting of this version"),
    "text for a number": ({"agent": {"lr": "x"}}, "config.json: agent.lr must be a number, got 'x'"),
    "nothing for a number": ({"agent": {"lr": None}}, "config.json: agent.lr must be a number, got nothing"),
    "a fraction": ({"loop": {"inner": 1.5}}, "config.json: loop.inner must be a whole number, got 1.5"),
    "true for a number": ({"loop": {"inner": True}}, "config.json: loop.inner must be a whole number, got True"),
    "a number for a list": ({"agent": {"hidden": 3}}, "config.json: agent.hidden must be a list of whole numbers"),
}


@pytest.mark.parametrize(("part", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_another_version(part, message, tmp_path):
    folder_of(tmp_path, RUN | part)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1" / "data").write_text("")
    with pytest.raises(ValueError, match=message):
        load_run(tmp_path)


def test_a_run_with_an_unknown_setting_is_not_resumed(tmp_path):
    folder_of(tmp_path, RUN | {"agent": {"lr": 1.0}, "loop": {"envs": 1}})
    with pytest.raises(ValueError, match=r"loop\.envs is no setting of this version"):
        check_resumable(tmp_path, "sac", SACConfig(), LoopConfig())
    for folder, algo in ((tmp_path, "dqn"), (tmp_path / "none", "sac")):  # others' checks say what is wrong
        check_resumable(folder, algo, SACConfig(), LoopConfig())
