"""Reads the code blocks and links of the README and the docs, and tries the commands in them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mbrl_jax.cli import collect as collect_command
from mbrl_jax.cli import envs as envs_command
from mbrl_jax.cli import evaluate, launchers, plot
from mbrl_jax.cli import export as export_command
from mbrl_jax.cli import main as program
from mbrl_jax.cli import report as report_command
from mbrl_jax.cli import sweep as sweep_command
from mbrl_jax.cli import train as train_command
from mbrl_jax.envs.registry import ENVS
from mbrl_jax.presets import api, preset, pruned, restore, search, task
from mbrl_jax.presets.offline import Data, placeholder
from mbrl_jax.presets.registry import AGENTS
from mbrl_jax.train import compilation, devices, run

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


class Command(NamedTuple):
    """A line of a shell block that calls the library, and the page it stands on."""

    page: str
    line: str


class Reached(Exception):
    """The command was accepted."""


def name(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its code: what a reader reads as text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, as written."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^()\s]+)\)", text)


def run_blocks(page: Path) -> dict[str, object]:
    """Runs the Python blocks of a page one after the other, in one namespace, which it returns."""
    names: dict[str, object] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "enable_compilation_cache", lambda: None)
        tables: list[Any] = [AGENTS, ENVS]
        before = [dict(table) for table in tables]  # what a page registers goes with it
        try:
            for block in blocks(page, "python"):
                exec(compile(block, name(page), "exec"), names)
        finally:
            for table, entries in zip(tables, before, strict=True):
                table.clear()
                table.update(entries)
    return names


def agent_file(file: str) -> str:
    """A file that a page shows: the block that begins with its name as a comment, and those that register its agent."""
    for page in PAGES:
        shown = blocks(page, "python")
        if any(block.startswith(f"# {file}\n") for block in shown):
            return "\n\n".join(block for block in shown if block.startswith((f"# {file}\n", "mbrl.register_agent(")))
    raise AssertionError(f"no page shows {file}")


def libraries(page: Path) -> set[str]:
    """Top-level packages that a page's Python blocks import."""
    found: set[str] = set()
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def commands(page: Path) -> list[Command]:
    """Lines of a page's shell blocks that call `mbrl-jax`, or a script of this repository."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [Command(name(page), line) for line in lines if re.search(r"(mbrl-jax|scripts/\w+\.py)", line)]


LIBRARIES = {
    r"dm_control:\S+": ("dm_control", "gymnasium:Pendulum-v1"),
    r"gymnasium:\S+-v5": ("mujoco", "gymnasium:Pendulum-v1"),
    r"craftax:\S+": ("craftax", "Pendulum-v1"),
    r"scripts/general_tasks\.py:craftax\w+": ("craftax", "Pendulum-v1"),
    r"brax:\S+": ("brax", "Pendulum-v1"),
    r"playground:\S+": ("mujoco_playground", "Pendulum-v1"),
}
"""Names of environments, the library that each needs, which may be absent here, and what stands for it."""


def accept(line: str, monkeypatch: pytest.MonkeyPatch, traced: bool = True) -> None:
    """Holds a command against the parser of the program it calls; nothing is trained, drawn or timed.

    Call it in a folder of its own.

    Args:
      line: the command.
      monkeypatch: undone by the caller.
      traced: whether its training loop is traced, as a run does before it starts.

    Raises:
      AssertionError: the program is not one of this repository, or refuses the command.
    """
    found = re.search(r"(?:(?<=^)|(?<=[\s/]))(mbrl-jax|scripts/\w+\.py)(.*)", line)
    assert found, line
    words = shlex.split(found[2], comments=True)
    if found[1] == "mbrl-jax":
        known = {
            "train": train_command.main,
            "plot": plot.main,
            "evaluate": evaluate.main,
            "envs": envs_command.main,
            "report": report_command.main,
            "export": export_command.main,
            "sweep": sweep_command.main,
            "collect": collect_command.main,
        }
        called = known.get(words[0]) if words else None
        if called is None:
            assert program(words) == 0, line
            return
        words = words[1:]
    else:
        path = ROOT / found[1]
        assert path.exists(), f"no {found[1]}"
        scripts = {"train.py": train_command.main, "plot.py": plot.main, "evaluate.py": evaluate.main}
        called = scripts.get(path.name)
        if called is None:
            _accept_script(path, words, monkeypatch)
            return
    if "--help" in words:
        assert called(words) == 0, line
        return

    for pattern, (library, instead) in LIBRARIES.items():
        if re.search(rf"--env {pattern}", " ".join(words)) and importlib.util.find_spec(library) is None:
            # Flags are read after the environment: one that needs no library stands for it.
            words = re.sub(pattern, instead, " ".join(words)).split()

    files: dict[str, str] = {}
    for part, file, function in re.findall(
        r"(?:--agent\.known\.(\w+)[ =])?(?<![\w/])(\w+\.py):(\w+)", " ".join(words)
    ):  # of the reader's
        source = f"helpers.known_parts import {part}" if part else "mbrl_jax.envs.cartpole import continuous_cartpole"
        files[file] = f"{files.get(file, '')}from {source} as {function}\n"
    for file, text in files.items():
        Path(file).write_text(text)
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)

    for file in re.findall(r"--agent-module[ =](\w+\.py)", line):
        Path(file).write_text(agent_file(file))
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    for file in re.findall(r"(?:--agent-module|--env)[ =](scripts/\w+\.py)", line):  # commands run in the repository
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text((ROOT / file).read_text())
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)

    def reached(*args: object, **rest: object) -> None:
        raise Reached

    if "train" in found[0] and words[:1] == ["--resume"]:  # a run that is not there
        known = preset("dqn", "CartPole-v1")
        monkeypatch.setattr(restore, "saved_settings", lambda folder: {"env": "CartPole-v1", "seeds": 1})
        monkeypatch.setattr(restore, "saved_configs", lambda folder, saved: (known.agent, known.loop))
        monkeypatch.setattr(api, "resume", reached)
    monkeypatch.setattr(run, "run", reached)
    monkeypatch.setattr(search, "check_installed", lambda: None)
    monkeypatch.setattr(search, "run", reached)
    monkeypatch.setattr(pruned, "run", reached)
    monkeypatch.setattr(launchers, "launch", reached)
    monkeypatch.setattr("mbrl_jax.train.hosts.connect", lambda text: None)  # this process stays alone
    monkeypatch.setattr("mbrl_jax.train.loop.make_mesh", lambda text: None)
    if not traced:
        monkeypatch.setattr("mbrl_jax.presets.checks.checked", reached)
    monkeypatch.setattr(run, "check_folder", lambda job, out, resume: None)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(devices, "devices_for", lambda asked, seeds: 1)  # this process has one device
    monkeypatch.setattr(
        task, "given", lambda where, offline, raw, spec, digest="": Data(placeholder(spec), offline, where)
    )
    monkeypatch.setattr(restore, "load_run", reached)
    monkeypatch.setattr(plot, "_imagine", reached)
    monkeypatch.setattr(evaluate, "_play", reached)
    monkeypatch.setattr("mbrl_jax.analysis.video.need_ending", lambda path: None)  # a library that may be absent
    monkeypatch.setattr(report_command, "_write", reached)
    monkeypatch.setattr(api, "load", reached)
    for step in ("_overview", "described", "_names", "listed"):
        monkeypatch.setattr(envs_command, step, reached)
    monkeypatch.setattr("mbrl_jax.analysis.curves.draw", reached)
    before = dict(AGENTS)
    try:
        with pytest.raises(Reached):
            called(words)
    finally:
        AGENTS.clear()
        AGENTS.update(before)


def _accept_script(path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's command: its figure or its row is one that there is, and its flags are in the source of its parser."""
    if path.name == "figures.py":
        suite = importlib.import_module("figures.suite")
        made: list[object] = []
        figures = {figure: ("figures.suite", "documented", seeds) for figure, (_, _, seeds) in suite.FIGURES.items()}
        monkeypatch.setattr(suite, "FIGURES", figures)
        monkeypatch.setattr(suite, "documented", lambda out, **rest: made.append(out), raising=False)
        suite.main(words)
        assert made
        return
    source = path.read_text()
    if path.name == "benchmark.py":
        source += "".join(part.read_text() for part in (ROOT / "scripts" / "benchmarks").glob("*.py"))
    for word in words:
        assert word in source or f'"{word}"' in source, f"{path.name} knows no {word}"
