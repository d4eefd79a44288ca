"""The README's examples run, and its commands are ones the scripts accept."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mbrl_jax.cli import train as cli
from mbrl_jax.train import compilation, run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples_run_one_after_the_other(capsys):
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    said = capsys.readouterr().out
    assert "(50,)" in said
    assert "(5,)" in said


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if "scripts/train.py" in line]


class Reached(Exception):
    """The command was accepted."""


@pytest.mark.parametrize("line", COMMANDS)
def test_training_commands_are_accepted(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.split("scripts/train.py", 1)[1])
    if "--help" in words:
        assert cli.main(words) == 0
        return

    def reached(loop, job, out, **rest):
        raise Reached

    monkeypatch.setattr(run, "run", reached)
    monkeypatch.setattr(run, "check_folder", lambda job, out, resume: None)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    with pytest.raises(Reached):
        cli.main(words)


def test_both_set_up_commands_install_from_the_constraints():
    install = [line for block in blocks("bash") for line in block.splitlines() if "pip install" in line]
    assert len(install) == 2
    assert all("-c constraints.txt" in line for line in install)
    assert "scripts/train.py mbpo" in install[0]
    assert install[1].endswith("python -m pytest")


def test_constraints_name_versions_and_no_addresses():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert all(re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.]+", line) for line in lines)
