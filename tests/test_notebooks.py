"""The code of every notebook runs from top to bottom, its own assertions with it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import notebook_pages
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def code(path: Path) -> list[tuple[int, str]]:
    """The code cells with their places."""
    cells = json.loads(path.read_text())["cells"]
    return [(i, "".join(cell["source"])) for i, cell in enumerate(cells) if cell["cell_type"] == "code"]


@pytest.mark.optimized
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path is NOTEBOOKS[0] else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
def test_code_runs(path, monkeypatch):
    from matplotlib import pyplot as plt

    before = matplotlib.get_backend()
    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda *args, **rest: plt.close("all"))
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        for i, source in code(path):
            exec(compile(source, f"{path.name}, cell {i}", "exec"), names)
    finally:
        plt.close("all")
        plt.switch_backend(before)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_documentation_shows_its_code_and_what_was_kept_of_its_outputs(path):
    text = notebook_pages.page(path)
    for _, source in code(path):
        assert source in text
    file = notebook_pages.KEPT / f"{path.stem}.json"
    if not file.exists():
        return
    kept = json.loads(file.read_text())
    assert kept["source"] == notebook_pages.source_hash(path), f"run python scripts/notebook_pages.py {path.stem}"
    pictures = [name for cell in kept["cells"].values() for name in cell.get("pictures", ())]
    assert pictures
    for name in pictures:
        assert f"(../../results/notebooks/{name})" in text
        assert (notebook_pages.KEPT / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_asserts_and_holds_no_outputs(path):
    assert sum("assert " in source for _, source in code(path)) >= 3
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs go stale, and make every change a large one"


def test_there_are_notebooks():
    assert NOTEBOOKS
