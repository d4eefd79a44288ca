"""Six floors and one direction of import (README, "Floors"), read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mbrl_jax"

FLOORS = {
    "core": 0, "ops": 1, "nets": 1, "envs": 1, "buffers": 1, "models": 2, "planners": 2, "agents": 3, "train": 4,
    "analysis": 4, "presets": 5, "cli": 5, "devices": 5, "flags": 5, "settings": 5,
    "reload": 5, "pictures": 5, "algorithms": 5, "settings_loop": 5,
}  # fmt: skip

# A floor may import those below it, and of its own floor only what stands here (its own folder aside).
BESIDE = {
    ("nets", "ops"),
    ("presets", "settings"),
    ("presets", "settings_loop"),
    ("presets", "algorithms"),
    ("presets", "cli"),
    ("cli", "presets"),
    ("cli", "flags"),
    ("cli", "devices"),
    ("cli", "pictures"),
    ("pictures", "presets"),
    ("pictures", "reload"),
    ("reload", "presets"),
    ("analysis", "train"),
}
# These know the words of `core` and of floor 1, but no model, planner or agent.
ONLY_UP_TO_ONE = {"train", "analysis"}

# Each of these libraries is known to the named places alone.
HOMES = {
    "flax": {"nets"},
    "distrax": {"ops/dists.py", "nets/heads.py"},
    "gymnax": {"envs/gymnax.py"},
    "pgx": {"envs/pgx.py"},
    "evosax": {"ops/evolution.py"},
    "orbax": {"train/checkpoint.py"},
    "matplotlib": {"analysis"},
    "tyro": {"flags.py", "cli.py"},
    "rich": {"train/log.py"},
}
CORE_LIBRARIES = {"jax", "chex"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def broken_rules(where: str, name: str, found: set[str]) -> list[str]:
    """What a file at `where` (a floor's name) and `name` (its path) may not import of what it does."""
    out = []
    for module in found:
        parts = module.split(".")
        if parts[0] == "mbrl_jax" and len(parts) > 1 and parts[1] in FLOORS:
            other = parts[1]
            down = FLOORS[other] < FLOORS[where]
            if where in ONLY_UP_TO_ONE and FLOORS[other] in (2, 3):
                out.append(f"{name} knows no {other}")
            elif other != where and not down and (where, other) not in BESIDE:
                out.append(f"{name} must not import {other}")
        home = HOMES.get(parts[0])
        if home is not None and not any(name == h or name.startswith(f"{h}/") for h in home):
            out.append(f"{name} must not know {parts[0]}")
        if where == "core" and parts[0] in {"flax", "optax", "distrax", "numpy", "tyro"}:
            out.append(f"{name} must not know {parts[0]}")
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    assert broken_rules(room(path), str(path.relative_to(PACKAGE)), imports(path)) == []


def test_the_rules_can_be_broken():
    assert broken_rules("core", "core/x.py", {"mbrl_jax.ops.losses"})
    assert broken_rules("models", "models/x.py", {"mbrl_jax.planners.mpc"})
    assert broken_rules("train", "train/x.py", {"mbrl_jax.agents.sac"})
    assert broken_rules("agents", "agents/x.py", {"flax.linen"})
    assert not broken_rules("agents", "agents/mbpo.py", {"mbrl_jax.agents.sac", "mbrl_jax.models.fit"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 320


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_and_modules_are_documented(path):
    module = ast.parse(path.read_text())
    if path.name == "__init__.py" and not module.body:
        return
    missing = [] if ast.get_docstring(module) else ["the module"]
    for node in module.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node) and not _is_record(node):
            missing.append(node.name)
    assert missing == []


def _is_record(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """NamedTuples may let their fields' comments speak, and Protocols their `__call__`."""
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    if "Protocol" in bases:
        call = next(item for item in node.body if isinstance(item, ast.FunctionDef))
        return ast.get_docstring(call) is not None
    return "NamedTuple" in bases
