"""The README's examples run, its commands are ones the programs accept, and it stays short."""

from __future__ import annotations

import re

import pytest
from helpers.documents import ROOT, accept, blocks, commands, libraries, links, run_blocks

README = ROOT / "README.md"
COMMANDS = commands(README)


def test_python_examples_run_one_after_the_other(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(README)
    said = capsys.readouterr().out
    assert "(50,)" in said
    assert "(4,)" in said


def test_python_examples_need_no_file_of_the_repository():
    assert libraries(README) <= {"jax", "mbrl_jax"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line[:60])
def test_commands_are_accepted(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    accept(command.line, monkeypatch)


def test_training_is_shown_by_both_names():
    lines = " ".join(command.line for command in COMMANDS)
    assert "mbrl-jax train" in lines
    assert "scripts/train.py" in lines


def test_both_set_up_commands_install_from_the_constraints():
    install = [line for block in blocks(README, "bash") for line in block.splitlines() if "pip install" in line]
    assert len(install) == 2
    assert all("-c constraints.txt" in line for line in install)
    assert "scripts/train.py mbpo" in install[0]
    assert install[1].endswith("python -m pytest")


def test_links_lead_to_files():
    missing = [link for link in links(README) if "://" not in link and not (ROOT / link.split("#")[0]).exists()]
    assert missing == []


def test_it_fits_on_a_few_screens():
    assert len(README.read_text().splitlines()) <= 120


def test_constraints_name_versions_and_no_addresses():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert all(re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.]+", line) for line in lines)
