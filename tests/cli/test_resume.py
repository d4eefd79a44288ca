"""`mbrl-jax train --resume RUN`: a run's folder says all that is needed."""

from __future__ import annotations

import json
import shlex
import shutil

import jax
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.cli import main
from mbrl_jax.cli import train as cli
from mbrl_jax.train.run import Result

WORDS = [
    "dqn", "--env", "CartPole-v1", "--agent.hidden", "4", "--agent.batch", "4", "--loop.warmup", "10", "--loop.inner",
    "5", "--loop.cycles", "1", "--loop.eval-episodes", "1", "--devices", "1",
]  # fmt: skip

LOOP = {"warmup": 10, "inner": 5, "cycles": 1, "eval_episodes": 1}
FINISHED = Result(None, {}, True, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a run"
    assert cli.main([*WORDS, "--steps", "15", "--out", str(out), "--quiet"]) == 0
    return out


def steps(folder):
    return json.loads((folder / "summary.json").read_text())["env_steps"]


def test_the_folder_and_more_steps_are_enough(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", str(folder), "--steps", "20"]) == 0
    assert steps(folder) == 20
    assert "done after 20 steps" in capsys.readouterr().out
    assert cli.main(["--steps=25", f"--resume={folder}", "--quiet"]) == 0
    assert steps(folder) == 25
    assert capsys.readouterr().out == ""
    assert cli.main(["--resume", str(folder), "--quiet"]) == 0, "nothing is left to do"
    saved = json.loads((folder / "config.json").read_text())
    assert saved["steps"] == 25
    assert shlex.split(saved["command"])[2:5] == ["dqn", "--env", "CartPole-v1"], "as it was begun"
    assert cli.main([*WORDS, "--steps", "30", "--out", str(folder), "--resume", "--quiet"]) == 0, "so did the old form"
    assert steps(folder) == 30


def test_a_run_keeps_the_wave_that_it_began_with(folder, tmp_path, monkeypatch, capsys):
    assert json.loads((folder / "config.json").read_text())["wave"] == 1, "a single seed runs without vmap"
    old = shutil.copytree(folder, tmp_path / "old")
    saved = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps(saved | {"wave": 4}))  # as versions of before began it
    jobs = []
    monkeypatch.setattr("mbrl_jax.train.run.run", lambda loop, job, *args, **rest: jobs.append(job) or FINISHED)
    words = [*WORDS, "--steps", "40", "--out", str(old), "--resume", "--quiet"]
    assert cli.main(words) == 0
    assert cli.main(["--resume", str(old), "--steps", "40"]) == 0
    mbrl.train("dqn", "CartPole-v1", out=old, steps=40, resume=True, agent={"hidden": (4,), "batch": 4}, loop=LOOP)
    assert [job.wave for job in jobs] == [4, 4, 4]
    assert cli.main([*words, "--wave", "1"]) == 2
    assert "wave is 4 there, 1 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "nowhere"], "error: no run in nowhere (no config.json)"),
        (["--resume"], "error: argument --resume: expected one argument; --help tells more"),
        (["--resume", "RUN", "--steps", "3"], "error: --steps must be at least"),
        (["--resume", "RUN", "--steps", "0"], "error: --steps must be at least 1, got 0"),
        (["--resume", "RUN", "--agent.lr", "1"], "error: unrecognized arguments: --agent.lr 1; --help tells more"),
        (["--resume", "RUN", "--track", "pen"], "error: --track must be of tensorboard, wandb, mlflow, got 'pen'"),
        (["--resume", "RUN", "--checkpoint-seconds", "-1"], "error: --checkpoint-seconds must be at least 0, got -1.0"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, message, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(folder) if word == "RUN" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message), said
    assert said.count("\n") == 1


def test_a_run_starts_from_what_another_has_learned(folder, tmp_path, capsys, monkeypatch):
    """With a step size of nearly 0 what a run ends with is what it began with."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "old")
    words = [*WORDS, "--agent.lr", "1e-30", "--agent.tau", "1e-30", "--steps", "15", "--quiet", "--init-from", "old"]
    assert main(["train", *words, "--out", "whole"]) == 0
    assert main(["train", *words, "--out", "part", "--init-parts", "q, target", "--seed", "5"]) == 0
    old, whole, part = (mbrl.load(name).learner for name in ("old", "whole", "part"))
    for name in ("q", "target"):
        for new in (whole, part):
            jax.tree.map(np.testing.assert_array_equal, getattr(old, name), getattr(new, name))
    assert int(whole.updates) > int(part.updates), "those of the other run count on, or start afresh"
    shutil.rmtree("old")
    again = ["--out", "part", "--init-parts", "q, target", "--seed", "5", "--resume"]
    assert main(["train", *words, *again, "--steps", "20"]) == 0, "a run with a checkpoint needs the other no more"
    assert main(["train", *words[:-1], "whole", *again, "--steps", "25"]) == 2
    assert "--init-from must be what the run in part began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--init-parts q", "error: --init-parts must come with init_from, a run to take them from"),
        ("--init-from nowhere", "error: no run in nowhere (no config.json)"),
        ("--init-from RUN --init-parts actor", "error: --init-parts must name parts of the learner (q, target, "),
        ("--init-from RUN --agent.hidden 8", "error: --init-from: q."),
    ],
)
def test_a_start_that_cannot_be_is_one_line(words, message, folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    given = [str(folder) if word == "RUN" else word for word in words.split()]
    assert cli.main([*WORDS, "--steps", "15", "--out", "new", *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()
