"""The command line: what is wrong with a command is one line that names it, exit code 2, and nothing written."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mbrl_jax import presets
from mbrl_jax.cli import flags
from mbrl_jax.cli import train as cli
from mbrl_jax.cli.plot import main as plot
from mbrl_jax.cli.train import main
from mbrl_jax.envs.registry import ENVS
from mbrl_jax.presets import task
from mbrl_jax.train import compilation

SMALL = [
    "--loop.inner", "2", "--loop.cycles", "1", "--loop.warmup", "8", "--loop.eval-episodes", "1",
    "--agent.batch", "4", "--agent.hidden", "4", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Runs go to a folder of their own, and compiled programs are not kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)


def refused(argv, capsys, work=main):
    """The one line a command is refused with."""
    assert work([str(word) for word in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["algo", "sac", "mbpo"]),
        ("mpbo", ["algo", "sac", "mpbo", "did you mean mbpo"]),
        ("--seeds 2 sac", ["algo", "--seeds"]),
        ("sac --env Pendulum", ["env", "Pendulum-v1"]),
        ("sac --env", ["--env", "Pendulum-v1"]),
        ("sac --agent.rl 3e-4", ["--agent.rl", "did you mean --agent.lr"]),
        ("sac --agent.lr=abc", ["--agent.lr", "a number", "abc"]),
        ("sac --agent.lr -1e-3", ["agent.lr", "above 0", "-0.001"]),
        ("sac --agent.lr nan", ["agent.lr", "above 0"]),
        ("sac --agent.lr inf", ["agent.lr", "finite"]),
        ("sac --agent.gamma 1.5", ["agent.gamma", "at most 1", "1.5"]),
        ("sac --agent.hidden 32 0", ["agent.hidden", "at least 1"]),
        ("sac --agent.hidden wide", ["--agent.hidden", "INT", "wide"]),
        ("sac --agent.batch 30000", ["agent.batch", "loop.capacity", "30000"]),
        ("mbpo --agent.policy.tau 0", ["agent.policy.tau", "above 0"]),
        ("sac --loop.num_envs 0", ["--loop.num-envs", "at least 1"]),
        ("sac --loop.capacity 1e3", ["--loop.capacity", "a whole number", "1e3"]),
        ("sac --loop.capcity 100", ["--loop.capcity", "did you mean --loop.capacity"]),
        ("sac --seeds 0", ["seeds", "at least 1"]),
        ("sac --seeds 1.5", ["--seeds", "a whole number", "1.5"]),
        ("sac --seeds", ["--seeds"]),
        ("sac --seed -1", ["seed", "at least 0"]),
        ("sac --seed 4294967296", ["seed", "at most"]),
        ("sac --steps 0", ["steps", "at least 1"]),
        ("sac --wave -1", ["wave", "at least 0"]),
        ("sac --devices 999", ["devices", "at most"]),
        ("sac --checkpoint-seconds -1", ["--checkpoint-seconds", "at least 0"]),
        ("sac --checkpoint-seconds nan", ["--checkpoint-seconds", "at least 0"]),
        ("sac --quiet maybe", ["maybe"]),
        ("sac --resume", ["--resume", "runs/sac-Pendulum-v1-0"]),
        ("sac --resume --out none", ["--resume", "--out none"]),
        ("sac --out letters", ["--out letters", "new or an empty folder"]),
        ("sac --out letters/a.txt", ["--out letters/a.txt", "new or an empty folder"]),
    ],
)
def test_wrong_commands(command, words, capsys, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    line = refused(command.split(), capsys)
    assert [word for word in words if word not in line] == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "letters"]
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


def test_a_discrete_only_agent_on_a_continuous_task(capsys, monkeypatch):
    only = dataclasses.replace(presets.AGENTS["sac"], action_kinds=("discrete",))
    monkeypatch.setitem(presets.AGENTS, "sac", only)
    line = refused(["sac", "--env", "Pendulum-v1"], capsys)
    assert "env must have discrete actions for sac" in line


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch):
    def broken(*_):
        return int("not ours")

    def elsewhere(*_):
        return json.loads("{")

    monkeypatch.setattr(task, "preset", elsewhere)  # raised within another library, it is no word to the user
    with pytest.raises(json.JSONDecodeError):
        main(["sac"])
    monkeypatch.setattr(task, "preset", broken)
    with pytest.raises(ValueError, match="not ours"):
        main(["sac"])


def test_help_at_the_top_is_quick_and_lists_what_there_is():
    code = (
        "import sys; from mbrl_jax.cli import main; r = main(['train', '--help']); "
        "assert 'jax' not in sys.modules and 'tyro' not in sys.modules; sys.exit(r)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 2
    for name in (*presets.AGENTS, *ENVS, "--out DIR", "--resume"):
        assert name in done.stdout


def test_a_reader_that_goes_early_is_no_failure():
    code = "import sys; from mbrl_jax import cli; sys.exit(cli.main(['train', 'sac', '--help']))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `head` does when it has seen enough
        said = process.stderr.read()
    assert (process.returncode, said) == (1, "")


def test_help_of_an_algorithm(capsys):
    assert main(["sac", "--env", "CartPole-v1", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    known = presets.preset("sac", "CartPole-v1")
    help_of_lr = "--agent.lr FLOAT Adam's learning rate for policy, critics and temperature (above 0)"
    assert f"{help_of_lr} (default: {known.agent.lr})" in said
    assert f"(default: {known.steps})" in said
    assert "--loop.num-envs INT number of environments stepped in parallel (at least 1) (default: 1)" in said
    assert "(default: CartPole-v1)" in said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two seeds and a few steps, with every kind of flag."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "enable_compilation_cache", lambda: None)
        argv = ["sac", "--env=CartPole-v1", "--seeds", "2", "--steps", "12", "--out", str(out), "--agent.lr", "0002"]
        assert main([*argv, *SMALL]) == 0
    return out


def test_a_run_leaves_its_files(trained, capsys):
    assert sorted(path.name for path in trained.iterdir() if path.name != ".lock") == [
        "checkpoints", "config.json", "curve.png", "eval.csv", "metrics.csv", "summary.json",
    ]  # fmt: skip
    config = json.loads((trained / "config.json").read_text())
    assert config["agent"]["lr"] == 2.0
    assert config["agent"]["hidden"] == [4]
    assert config["agent"]["tau"] == presets.preset("sac", "CartPole-v1").agent.tau
    assert config["loop"]["inner"] == 2
    assert (config["algo"], config["env"], config["seeds"]) == ("sac", "CartPole-v1", 2)
    assert config["command"].startswith("mbrl-jax train sac --env=CartPole-v1 --seeds 2 --steps 12")
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["env_steps"] == 12
    assert len(summary["eval_return"]) == 2
    assert (trained / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""


def test_a_folder_that_holds_a_run_is_left_alone(trained, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    argv = ["sac", "--env", "CartPole-v1", "--seeds", "2", "--steps", "12", "--out", trained, "--agent.lr", "2", *SMALL]
    assert "holds another run" in refused(argv, capsys)
    assert "agent.lr is 2.0 there, 3.0 here" in refused([*argv, "--resume", "--agent.lr", "3"], capsys)
    assert "env is 'CartPole-v1' there" in refused(["mbpo", "--out", trained, "--resume"], capsys)
    assert "--steps must be at least 12" in refused([*argv, "--resume", "--steps", "9"], capsys)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_the_newest_default_folder_is_resumed(tmp_path):
    base = Path("runs") / "sac-X-3"
    assert cli._newest(base) == base
    for i, name in enumerate(("sac-X-3", "sac-X-3-2", "sac-X-3-10", "sac-X-30", "sac-X-3-02", "sac-X-3-5")):
        (Path("runs") / name).mkdir(parents=True)
        if name != "sac-X-3-5":  # no run
            config = Path("runs") / name / "config.json"
            config.write_text("{}")
            os.utime(config, (i, i))
    assert cli._newest(base) == base.with_name("sac-X-3-10")
    os.utime(base / "config.json", (9, 9))
    assert cli._newest(base) == base


def test_a_refused_command_leaves_no_default_folder(tmp_path, capsys, monkeypatch):
    refused(["sac", "--agent.lr", "-1"], capsys)
    refused(["sac", "--resume"], capsys)
    assert not Path("runs").exists()
    monkeypatch.setattr("mbrl_jax.train.run._run", lambda *_: (_ for _ in ()).throw(KeyError("here")))
    monkeypatch.setattr("mbrl_jax.presets.checks.checked", lambda loop, job: (loop, ""))
    with pytest.raises(KeyError):
        cli.main(["q_learning", "--quiet"])
    assert list(Path("runs").iterdir()) == []


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), int)


def test_plot(trained, tmp_path, capsys, monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    words = ["curves", str(trained), "--labels", "ours", "--out"]
    assert plot([*words, "a.png", "--threshold", "-5"]) == 0
    said = capsys.readouterr().out
    assert "median steps to -5" in said
    assert "ours" in said
    (axes,) = figures[0].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0].startswith("ours")
    assert "threshold -5" in labels
    scores = np.loadtxt(trained / "eval.csv", delimiter=",", skiprows=1)  # seed, env_steps, episode, return, length
    drawn = {float(y) for line in axes.lines for y in line.get_ydata()}
    assert set(scores[:, 3]) <= drawn, "every evaluation of every seed"

    assert plot([*words, "same.png", "--threshold", "-5"]) == 0
    assert plot([*words, "plain.png"]) == 0
    other = tmp_path / "other"
    shutil.copytree(trained, other, ignore=shutil.ignore_patterns("checkpoints"))
    rows = (other / "metrics.csv").read_text().splitlines()
    head, cells = rows[0], [row.split(",") for row in rows[1:]]
    worse = [",".join([*row[:-1], str(float(row[-1]) - 7.0)]) for row in cells]
    (other / "metrics.csv").write_text("\n".join([head, *worse]) + "\n")
    assert plot(["curves", str(other), "--labels", "ours", "--out", "other.png", "--threshold", "-5"]) == 0
    first = pixels("a.png")
    assert min(first.shape[:2]) > 300
    np.testing.assert_array_equal(first, pixels("same.png"))
    for name in ("plain.png", "other.png"):
        assert first.shape != pixels(name).shape or (first != pixels(name)).any(), name


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("curves none --out a.png", ["none", "holds no results"]),
        ("curves none --labels a b --out a.png", ["--labels", "1 runs"]),
        ("curves none --out a.jpg", ["--out", ".png"]),
        ("curves none", ["--out"]),
        ("bars", ["bars", "curves"]),
    ],
)
def test_wrong_plots(command, words, capsys, tmp_path):
    line = refused(command.split(), capsys, plot)
    assert [word for word in words if word not in line] == []
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.undo()
    old = (
        jax.config.values["jax_compilation_cache_dir"],
        jax.config.values["jax_persistent_cache_min_compile_time_secs"],
    )
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        compilation.enable_compilation_cache()
        assert jax.config.values["jax_compilation_cache_dir"] is None
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        compilation.enable_compilation_cache()
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "mbrl_jax")
        assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 0.5
    finally:
        jax.config.update("jax_compilation_cache_dir", old[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", old[1])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (True, False)),
        (["--agent.net.decoder", "--agent.no-bfloat16"], (True, False)),  # as they are already
        (["--agent.net.no-decoder", "--agent.bfloat16"], (False, True)),
        (["--agent.net.no_decoder"], (False, False)),
        (["--agent.net.no-decoder", "--agent.net.decoder"], (True, False)),  # the last one counts
        (["--agent.net.decoder", "--agent.net.no-decoder"], (False, False)),
    ],
)
def test_switches_may_be_given_either_way(words, expected):
    agent = presets.preset("dreamer_v3", "CartPole-v1").agent
    parsed = flags.parse([], {"agent": agent}, words, "train", "")
    assert parsed is not None
    assert (parsed.agent.net.decoder, parsed.agent.bfloat16) == expected
