"""The docs' examples run, their commands are ones the programs accept, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.documents import DOCS, PAGES, ROOT, accept, blocks, commands, libraries, links, name, prose, run_blocks

RECORDED = ROOT / "results" / "README.md"
WITH_EXAMPLES = [page for page in PAGES if blocks(page, "python")]
COMMANDS = [command for page in PAGES for command in commands(page)]
EVERYWHERE = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", RECORDED]

OBSCURE = re.compile(r"\b(lanes?|lives|lived|worlds|told|judges?|judged|beginnings|borne|foretells?|prevails?|stray)\b")
"""Words that are not the field's for what they would stand for here."""


NEEDS = {"docs/how_to/export_a_policy.md": "flatbuffers"}
"""Pages whose examples need an extra."""


DEAR = ("docs/tutorials/your_own_agent.md",)
"""Pages whose examples take half a minute of a core."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if name(page) in DEAR else (), id=name(page)) for page in WITH_EXAMPLES],
)
def test_python_examples_run_one_after_the_other(page, tmp_path, monkeypatch):
    if name(page) in NEEDS:
        pytest.importorskip(NEEDS[name(page)], reason="the extra that the page is about is not installed")
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name)
def test_python_examples_need_no_file_of_the_repository(page):
    assert libraries(page) <= {"csv", "gymnasium", "jax", "math", "mbrl_jax", "numpy", "optax", "pathlib", "typing"}


TRACED: set[tuple[str, ...]] = set()
"""Agent and environment of the commands so far: each pair is traced once."""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line[:60])
def test_commands_are_accepted(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pair = tuple(re.findall(r"(?:train(?:\.py)?|--env) ([^\s-]\S*)", command.line))
    accept(command.line, monkeypatch, traced=pair not in TRACED)
    TRACED.add(pair)


def test_commands_of_the_recorded_runs_are_accepted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"`(python scripts/train\.py [^`]+)`", RECORDED.read_text())
    assert len(found) > 40
    for line in found:
        with monkeypatch.context() as patched:
            accept(line.replace(":TASK", ":walker-walk"), patched, traced=False)  # their presets are traced elsewhere


@pytest.mark.parametrize("page", EVERYWHERE, ids=name)
def test_links_lead_to_files_and_sections(page):
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, section = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        if section and target.suffix == ".md" and not section.startswith("mbrl_jax."):
            assert section in sections(target), f"{name(page)} links to {link}"


def sections(page: Path) -> set[str]:
    """The anchors that headings get, in the site and on a host of repositories."""
    titles = re.findall(r"^#+ (.+)$", prose_with_code(page), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def prose_with_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    nav = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    made = {"results/runs.md"}  # from results/README.md
    assert sorted(set(nav) - made) == sorted(str(page.relative_to(DOCS)) for page in PAGES)
    assert len(nav) == len(set(nav))


@pytest.mark.parametrize("page", EVERYWHERE, ids=name)
def test_pages_use_the_words_of_the_field(page):
    assert OBSCURE.findall(prose(page)) == []


def test_every_agent_has_a_section():
    from mbrl_jax.presets.registry import AGENTS

    titles = re.findall(r"^## (.+)$", (DOCS / "reference" / "agents.md").read_text(), re.MULTILINE)
    named = {word for title in titles for word in title.split()}
    assert set(AGENTS) <= named


def source(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def functions(module: str) -> set[str]:
    return set(re.findall(r"^def ([a-z]\w*)", source(module).read_text(), re.MULTILINE))


def test_losses_and_updates_of_each_agent_are_where_its_section_says_and_no_loss_is_missing():
    text = (DOCS / "reference" / "agents.md").read_text()
    bullets = " ".join(re.findall(r"^- \*\*Losses and updates\*\*: (.*?)\.$", text, re.MULTILINE | re.DOTALL))
    named: set[tuple[str, str]] = set()
    for module, names in re.findall(r"`(mbrl_jax[\w.]+)`\s+\(([^)]+)\)", bullets):
        listed = set(re.findall(r"`(\w+)`", names))
        assert listed <= functions(module), f"{module} has no {listed - functions(module)}"
        named |= {(module, function) for function in listed}
    files = [*(ROOT / "mbrl_jax" / "agents").rglob("*.py"), *(ROOT / "mbrl_jax" / "models").glob("[!d]*/*.py")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__init__"]
    losses = {(module, found) for module in modules for found in functions(module) if found.endswith("_loss")}
    assert len(losses) > 15
    assert losses <= named


def test_api_pages_hold_every_module_and_no_other():
    lines = [line for page in PAGES for line in page.read_text().splitlines() if line.startswith("::: ")]
    listed = {line.removeprefix("::: ") for line in lines}
    assert len(listed) == len(lines)
    assert [module for module in listed if not source(module).exists()] == []
    files = [
        path for part in ("agents", "buffers", "models", "ops") for path in (ROOT / "mbrl_jax" / part).rglob("*.py")
    ]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__init__"}
    assert modules <= listed
