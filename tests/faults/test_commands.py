"""Commands that cannot be carried out: one line with the full flag, exit code 2, and nothing written."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbrl_jax import presets
from mbrl_jax.cli.flags import flagged
from mbrl_jax.cli.train import main
from mbrl_jax.envs.registry import ENVS, make_env
from mbrl_jax.train import compilation
from mbrl_jax.train.run import resume_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Runs go to a folder of their own, and compiled programs are not kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)


LARGE = [
    ("sac --loop.capacity 2000000000", "--loop.capacity must be lower than 2000000000: a run needs"),
    ("sac --loop.inner 99999999999999", "--loop.inner must be at most 2147483647, got 99999999999999"),
    ("sac --loop.inner 2147483647", "--loop.inner must be lower than 2147483647: a seed would take"),
    ("sac --agent.batch 999999999", "--agent.batch must be at most --loop.capacity = 20000, got 999999999"),
    ("sac --env Pendulum-v1-x99999999999999999999", "--env must repeat an action at most 200 times"),
    ("sac --env Pendulum-v1-x201", "--env must repeat an action at most 200 times, an episode of Pendulum-v1"),
    ("sac --env Pendulum-v1" + "-x2" * 5000, "--env must be a name of at most 200 characters"),
    (f"sac --steps {'9' * 27}", "--steps must be at most 2147483647"),
    ("sac --steps 2147483647 --agent.batch 1", "--steps must be lower than 2147483647: a seed would take"),
    (f"sac --seeds {'9' * 27}", "--seeds must be at most 2147483647"),
    (f"sac --wave {'9' * 27}", "--wave must be at most 2147483647"),
    ("sac --agent.lr 1e39", "--agent.lr must be at most 3.40282"),
    ("sac --seed 4294967295 --seeds 2", "--seed must be at most 2**32 - seeds"),
    ("dreamer_v2 --env CartPole-v1 --agent.net.deter 2000000000", "--agent.net.deter must be lower than 2000000000"),
    ("dreamer_v2 --env CartPole-v1 --agent.net.stoch 2000000000", "--agent.net.stoch must be lower than 2000000000"),
    ("dreamer_v2 --env CartPole-v1 --agent.net.layers 2000000000", "--agent.net.layers must be at most 100000"),
]

AT_ODDS = [
    ("ppo --agent.minibatches 7", "--agent.minibatches must divide the trajectory's 2048 rows, got 7"),
    ("mpc --agent.planner.icem.elites 200", "--agent.planner.icem.elites must be below --agent.planner.icem.popul"),
    ("mpc --agent.planner.cem.elites 120", "--agent.planner.cem.elites must be below --agent.planner.cem.population"),
    ("mpc --agent.planner.icem.kept 50", "--agent.planner.icem.kept must be at most --agent.planner.icem.elites"),
    ("pets --agent.fit.elites 9", "--agent.fit.elites must be at most --agent.fit.members = 5, got 9"),
    ("mbpo --agent.rollouts 511", "--agent.rollouts must be a multiple of --agent.fit.elites (4), got 511"),
    ("tdmpc2 --agent.planner.proposals 128", "--agent.planner.proposals must be below --agent.planner.population"),
    ("alphazero --agent.batch 60000", "--agent.batch must be at most the windows of 11 rows that --loop.capacity"),
    ("muzero --agent.batch 60000", "--agent.batch must be at most the windows of 16 rows that --loop.capacity"),
    ("dreamer_v3 --agent.batch 99990", "--agent.batch must be at most the windows of 17 rows that --loop.capacity"),
    ("dreamer_v3 --loop.capacity 60", "--loop.capacity must be at least"),
    ("muzero --agent.reanalyse 500", "--agent.reanalyse must be at most --agent.batch (128), got 500"),
    ("sac --env CartPole-v1 --agent.target-entropy 9", "--agent.target-entropy must be at least 0"),
    ("dreamer_v3 --agent.net.decoder=False", "did you mean --agent.net.no-decoder?"),
    ("sac --out ~nouser/x", "--out ~nouser/x is in the home of a user who does not exist"),
    ("sac --agent-module ~nouser/x.py", "--agent-module: ~nouser/x.py is in the home of a user who does not exist"),
]


@pytest.mark.parametrize(("command", "message"), LARGE + AT_ODDS, ids=lambda text: text[:60])
def test_commands_are_refused_before_anything_is_written(command, message, capsys, tmp_path):
    assert main([*command.split(), "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_default_environment_is_one_that_the_agent_handles(capsys):
    assert main(["dqn", "--help"]) == 0
    assert "on CartPole-v1." in " ".join(capsys.readouterr().out.split())
    first = {algo: presets.default_env(algo) for algo in presets.AGENTS}
    assert first["sac"] == first["dreamer_v3"] == "Pendulum-v1"
    assert first["dqn"] == first["alphazero"] == "CartPole-v1"
    assert first["q_learning"] == "DynaMaze"
    for name in ENVS:  # nothing before it does
        if name == first["q_learning"]:
            break
        with pytest.raises(ValueError, match="env must have"):
            presets.suited("q_learning", make_env(name))


def test_full_flags_in_messages():
    names = ["seed", "seeds", "agent.lr", "agent.net.deep_er", "loop.num_envs"]
    for message, expected in {
        "agent.lr must be above 0": "--agent.lr must be above 0",
        "seeds must be 1, and agent.net.deep_er=3": "--seeds must be 1, and --agent.net.deep-er=3",
        "loop.num_envs x agent.lr.": "--loop.num-envs x --agent.lr.",
        "the file runs/agent.lr and agent.lr/x, seeds": "the file runs/agent.lr and agent.lr/x, seeds",
        "--agent.lr takes a number": "--agent.lr takes a number",
    }.items():
        assert flagged(message, names) == expected


def test_the_command_that_resumes_a_run_can_be_pasted(tmp_path):
    """The script's path and the run's folder are quoted, and the script is the one that ran."""
    folder = """it's a "b" c"""
    script = tmp_path / folder / "train.py"
    script.parent.mkdir()
    script.write_text((ROOT / "scripts" / "train.py").read_text())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    words = [sys.executable, str(script), "sac", "--out", f"{folder}/run"]
    code = subprocess.run([*words, "--help"], env=env, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    shown = f"python {shlex.quote(str(script))} sac"
    assert "".join(shown.split()) in "".join(code.split())
    command = resume_command(f"python {shlex.quote(str(script))} {shlex.join(words[2:])}", f"{folder}/run")
    assert shlex.split(command) == ["python", str(script), "--resume", f"{folder}/run"]


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_an_interrupt_while_modules_are_imported_ends_the_command(delay, tmp_path):
    code = (
        "import signal, sys; from mbrl_jax import cli; from mbrl_jax.cli.guard import interruptible\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell is started without
        "with interruptible():\n"
        "    print('ready', flush=True)\n"
        "    sys.exit(cli.main(['train', 'sac', '--quiet', '--loop.cycles', '20000', '--steps', '10000000']))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, "env": env}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # nothing where it has ended
    assert process.returncode == 130, err
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("stopped")
