"""Runs the notebooks, and keeps what they print and draw for the documentation: `results/notebooks/`.

    python scripts/notebook_pages.py [NAME...]

The notebooks themselves hold no outputs. What is kept names the source that made it, so that a test
finds what is out of date.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
KEPT = ROOT / "results" / "notebooks"


def cells(path: Path) -> list[tuple[str, str]]:
    """The cells of a notebook: kind, "markdown" or "code", and source.

    Args:
      path: of the notebook.
    """
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]


def source_hash(path: Path) -> str:
    """Of all code of a notebook.

    Args:
      path: of the notebook.
    """
    code = [source for kind, source in cells(path) if kind == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def page(path: Path) -> str:
    """A notebook as Markdown, with the outputs that were kept of it. Pictures are named from a folder of `docs/`.

    Args:
      path: of the notebook.
    """
    kept = KEPT / f"{path.stem}.json"
    outputs = json.loads(kept.read_text())["cells"] if kept.exists() else {}
    parts = []
    for i, (kind, source) in enumerate(cells(path)):
        parts.append(source if kind == "markdown" else f"```python\n{source}\n```")
        found = outputs.get(str(i), {})
        if found.get("text"):
            parts.append("\n".join(f"    {line}".rstrip() for line in found["text"].splitlines()))
        parts += [f"![Drawn by the cell above](../../results/notebooks/{name})" for name in found.get("pictures", ())]
    title, _, rest = parts[0].partition("\n")
    where = f"This page is the notebook `notebooks/{path.name}`{', with what it prints and draws' if outputs else ''}."
    return "\n\n".join([f"{title}\n\n*{where}*\n{rest}", *parts[1:]]) + "\n"


def run(path: Path) -> None:
    """Runs a notebook, and keeps its outputs.

    Args:
      path: of the notebook.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{path.stem}-*.png"):
        old.unlink()
    drawn: list[str] = []

    def show(*_: Any, **__: Any) -> None:
        for number in plt.get_fignums():
            drawn.append(f"{path.stem}-{len(list(KEPT.glob(f'{path.stem}-*.png'))) + 1}.png")
            plt.figure(number).savefig(KEPT / drawn[-1], dpi=80, bbox_inches="tight", facecolor="white")
        plt.close("all")

    plt.show = show
    names: dict[str, object] = {"__name__": "__main__"}
    outputs: dict[str, Any] = {}
    for i, (kind, source) in enumerate(cells(path)):
        if kind != "code":
            continue
        said, drawn[:] = io.StringIO(), []
        with contextlib.redirect_stdout(said):
            exec(compile(source, f"{path.name}, cell {i}", "exec"), names)
        found = {"text": said.getvalue(), "pictures": list(drawn)}
        outputs |= {str(i): {name: value for name, value in found.items() if value}} if any(found.values()) else {}
    about = {"source": source_hash(path), "cells": outputs}
    (KEPT / f"{path.stem}.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def main(words: list[str]) -> int:
    """Runs the named notebooks, all if none is named; returns the exit code.

    Args:
      words: of the command line.
    """
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    known = {path.stem: path for path in paths}
    if unknown := [word for word in words if word not in known]:
        print(f"error: NAME must be one of {', '.join(known)}, got {unknown[0]!r}", file=sys.stderr)
        return 2
    for path in [known[word] for word in words] or paths:
        run(path)
        print(f"{path.stem}: kept in {KEPT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
