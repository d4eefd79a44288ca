"""Lets a page of the docs link to what lies outside `docs/`, by the path that also works in the repository.

    ![Pendulum-v1](../../results/pendulum.png)

Every agent gets a page that is made from the code (`scripts/agent_pages.py`), every notebook one with its kept outputs
(`scripts/notebook_pages.py`).

A picture or table is added to the site, `results/README.md` becomes the page `results/runs.md`, and of a link to any
other file, whose place on the web is not known here, its text stays.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
COPIED = {".png", ".gif", ".csv"}
RUNS = "results/README.md"
PLACES = {RUNS: "results/runs.md"}


def outside(page: str, link: str) -> str | None:
    """The path in the repository that a page's link leads to, None where that lies in `docs/`, or on the web."""
    target = link.split("#")[0]
    if not target or "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = os.path.normpath(PurePosixPath("docs", page).parent / target)
    return None if path.startswith(("docs/", "..")) else path


def place(path: str) -> str | None:
    """Where a file of the repository stands in the site, None where it has no place there."""
    if path in PLACES:
        return PLACES[path]
    return f"files/{path}" if Path(path).suffix in COPIED else None


def agent_pages() -> dict[str, str]:
    """Path in `docs/` -> Markdown, of the pages that are made from the code."""
    sys.path.append(str(Path(__file__).parent / "scripts"))
    from agent_pages import pages

    return pages()


def notebook_pages() -> dict[str, str]:
    """Path in `docs/` -> Markdown, of the pages that are notebooks."""
    sys.path.append(str(Path(__file__).parent / "scripts"))
    from notebook_pages import NOTEBOOKS, page

    return {f"notebooks/{path.stem}.md": page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}


def on_config(config: Any) -> Any:
    """Puts the agents' pages into the navigation, after their overview, and the notebooks after the tutorials."""
    made = {"Each agent": [{path.split("/")[-1].removesuffix(".md"): path} for path in agent_pages()]}
    for part in config.nav:
        if "Reference" in part and made not in part["Reference"]:
            part["Reference"].insert(1, made)
    notebooks = {"Notebooks": list(notebook_pages())}
    if notebooks not in config.nav:
        config.nav.insert(2, notebooks)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the page of the recorded runs, and whatever pictures and tables the pages link to."""
    root = Path(config.config_file_path).parent
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    files.append(File.generated(config, PLACES[RUNS], content=(root / RUNS).read_text()))
    made = agent_pages() | notebook_pages()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    pages |= made
    found = {outside(page, link) for page, text in pages.items() for _, _, link in LINK.findall(text)}
    for path in sorted(path for path in found if path is not None and path not in PLACES):
        uri = place(path)
        if uri is not None:
            files.append(File.generated(config, uri, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **rest: Any) -> str:
    """Rewrites the links of one page that lead out of `docs/`."""
    uri = page.file.src_uri
    here = PurePosixPath(uri).parent

    def rewritten(match: re.Match[str]) -> str:
        path = outside(uri, match[3])
        if path is None:
            return match[0]
        there = place(path)
        return match[2] if there is None else f"{match[1]}[{match[2]}]({os.path.relpath(there, here)})"

    return LINK.sub(rewritten, markdown)


class Sections(griffe.Extension):
    """Reads docstrings as they are written here.

    A blank line is put before "Returns:" and "Raises:", without which they are read as plain text. The fields of a
    record are listed with the comment or the `help` beside each.
    """

    def on_instance(self, *, obj: griffe.Object, **rest: Any) -> None:
        """Parts the sections of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?<=[^\n])\n(?=(Args|Returns|Raises|Source):)", "\n\n", obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **rest: Any) -> None:
        """Adds a record's fields to its docstring."""
        if cls.docstring is None or not isinstance(cls.filepath, Path):
            return
        lines = cls.filepath.read_text().splitlines()
        attributes = [item for item in cls.attributes.values() if item.annotation and "property" not in item.labels]
        fields = [f"  {field.name}: {about(field, lines)}" for field in attributes]
        if fields and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(fields)


def about(field: griffe.Attribute, lines: list[str]) -> str:
    """What the source says of a field: its `help`, or the comment at the end of its line, else nothing."""
    if field.value is not None and "help=" in str(field.value):
        for keyword in ast.walk(ast.parse(str(field.value), mode="eval")):
            if isinstance(keyword, ast.keyword) and keyword.arg == "help":
                return ast.literal_eval(keyword.value)
    line = lines[(field.endlineno or field.lineno or 1) - 1]
    comment = re.search(r"  # (?!noqa|pyright|fmt)(.*?)(  # .*)?$", line)
    return comment[1] if comment else "&#8203;"
