"""The floors of the package and one direction of import, read from the folders and the source."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mbrl_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())

FLOORS = (
    {"core"},
    {"ops", "buffers", "envs", "train"},
    {"nets", "analysis"},
    {"models", "planners"},
    {"agents"},
    {"presets"},
    {"cli", "testing"},
)
"""From the ground up: a room imports from lower floors alone, and rooms of one floor do not know each other."""

# Each of these libraries is known to the named places alone.
HOMES = {
    "flax": {"nets"},
    "distrax": {"ops/dists.py", "nets/heads.py"},
    "gymnax": {"envs/adapters/gymnax.py"},
    "pgx": {"envs/adapters/pgx.py"},
    "brax": {"envs/adapters/brax.py"},
    "craftax": {"envs/adapters/craftax.py"},
    "mujoco_playground": {"envs/adapters/playground.py"},
    "gymnasium": {"envs/adapters/gymnasium.py", "buffers/minari.py"},
    "minari": {"buffers/minari.py"},
    "dm_control": {"envs/adapters/dm_control.py"},
    "evosax": {"ops/evolution.py"},
    "orbax": {"train/checkpoint.py"},
    "matplotlib": {"analysis"},
    "jax2onnx": {"presets/export.py"},
    "imageio_ffmpeg": {"analysis/video.py"},
    "filelock": {"train/folder.py"},
    "tyro": {"cli/flags.py"},
    "rich": {"train/log.py"},
    "optuna": {"presets/search.py"},
    "submitit": {"cli/launchers.py"},
    "ray": {"cli/launchers.py"},
    "tensorboardX": {"train/trackers.py"},
    "wandb": {"train/trackers.py"},
    "mlflow": {"train/trackers.py"},
    "jinja2": {"analysis/report.py", "cli/report.py"},
    "pandas": {"presets/loaded.py"},
}


def imports(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it but for the sake of types."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typed = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in typed:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_in(found: set[str]) -> set[str]:
    """The rooms of the package among imported modules."""
    return {parts[1] for module in found if (parts := module.split("."))[0] == "mbrl_jax" and parts[1:2]} & set(ROOMS)


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def broken_rules(where: str, name: str, found: set[str]) -> list[str]:
    """What a file in the room `where` at the path `name` may not import of what it does."""
    out = []
    for other in rooms_in(found) - {where}:
        if floor(other) >= floor(where):
            out.append(f"{name} must not import {other}")
    for module in found:
        library = module.split(".")[0]
        home = HOMES.get(library)
        if home is not None and not any(name == h or name.startswith(f"{h}/") for h in home):
            out.append(f"{name} must not know {library}")
        if where == "core" and library in {"flax", "optax", "distrax", "numpy", "tyro"}:
            out.append(f"{name} must not know {library}")
    return out


def test_every_room_is_on_a_floor_and_no_file_lies_loose():
    assert sorted(room for rooms in FLOORS for room in rooms) == ROOMS
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    name = path.relative_to(PACKAGE)
    if len(name.parts) > 1:  # the package itself offers what all rooms have
        assert broken_rules(name.parts[0], str(name), imports(path)) == []


def files_of(room: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(PACKAGE).parts[0] == room]


def test_rooms_and_the_files_in_each_are_without_circles():
    graph = {room: set().union(*(rooms_in(imports(path)) for path in files_of(room))) - {room} for room in ROOMS}
    assert list(TopologicalSorter(graph).static_order())
    depth = lambda room: 1 + max((depth(below) for below in graph[room]), default=0)  # noqa: E731
    assert max(depth(room) for room in ROOMS) == len(FLOORS), "a floor that no import needs"
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    inner = {
        name: {
            other for other in modules if other != name and any(m == other or m.startswith(f"{other}.") for m in found)
        }
        for name, path in modules.items()
        if not name.endswith("__init__") and (found := imports(path))
    }
    assert list(TopologicalSorter(inner).static_order())


def test_the_rules_can_be_broken():
    assert broken_rules("core", "core/x.py", {"mbrl_jax.ops.losses"})
    assert broken_rules("models", "models/x.py", {"mbrl_jax.planners.mpc"})
    assert broken_rules("train", "train/x.py", {"mbrl_jax.agents.sac"})
    assert broken_rules("presets", "presets/x.py", {"mbrl_jax.cli.train"})
    assert broken_rules("agents", "agents/x.py", {"flax.linen"})
    assert not broken_rules("agents", "agents/mbpo.py", {"mbrl_jax.agents.sac", "mbrl_jax.models.dynamics.fit"})
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


LONG = "# Long because"
"""What a function over `MOST` lines says in a comment, and why."""
MOST = 60


def length(node: ast.FunctionDef) -> int:
    """Lines of a function, those of its docstring not counted."""
    first = node.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return (node.end_lineno or 0) - node.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if told else 0)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_short(path):
    text = path.read_text()
    lines = text.splitlines()
    long = [
        f"{node.name}: {length(node)} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and length(node) > MOST
        and not any(LONG in line for line in lines[node.lineno - 1 : node.end_lineno])
    ]
    assert long == []
