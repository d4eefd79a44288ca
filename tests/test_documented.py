"""Every public function says what it does, what it takes and what it returns."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mbrl_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

FEW = 2
"""Arguments that a docstring may leave to its sentence; more are listed one by one."""

USUAL = {"self", "key", "cfg", "spec"}
"""Arguments that mean the same everywhere: a random key, used once; the settings; what is known of an environment."""

SECTION = re.compile(r"^ *(Args|Returns|Raises|Yields):\s*$")
ORDER = re.compile(r"(?!\w+s of )[A-Z][a-z]+s\b")
"""How a first line begins that says what is done, "Adds rows": not what is returned, "The sum" or "Means of rows"."""


def sections(text: str) -> dict[str, str]:
    """A docstring's parts under "Args:", "Returns:" and so on; what stands before them under ""."""
    found, at = {"": ""}, ""
    for line in text.splitlines():
        if match := SECTION.match(line):
            at = match[1]
        found[at] = f"{found.get(at, '')}{line}\n"
    return found


def listed(args: str) -> set[str]:
    """The names that an "Args:" part explains: `name: text`, or `a, b: text`."""
    names: set[str] = set()
    for line in args.splitlines():
        if match := re.match(r"^ +((?:\*{0,2}\w+(?:, )?)+):(?: |$)", line):
            names |= {name.strip("* ") for name in match[1].split(",")}
    return names


def in_a_sentence(name: str, text: str) -> bool:
    """Whether a docstring speaks of an argument, in backticks or with its shape."""
    return bool(re.search(rf"`{re.escape(name)}`|\b{re.escape(name)} \[", text))


def arguments(node: ast.FunctionDef) -> list[str]:
    args = node.args
    found = [*args.posonlyargs, *args.args, *([args.vararg] if args.vararg else []), *args.kwonlyargs,
             *([args.kwarg] if args.kwarg else [])]  # fmt: skip
    return [arg.arg for arg in found if arg.arg not in USUAL and not arg.arg.startswith("_")]


def returns_something(node: ast.FunctionDef) -> bool:
    return node.returns is not None and ast.unparse(node.returns) not in ("None", "typing.NoReturn", "NoReturn")


def gaps(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """What a public definition's docstring leaves out."""
    text = ast.get_docstring(node)
    if isinstance(node, ast.ClassDef) and "Protocol" in [ast.unparse(base) for base in node.bases]:
        return [gap for call in node.body if isinstance(call, ast.FunctionDef) for gap in gaps(call)]
    if not text:
        return [f"{node.name} has no docstring"]
    if isinstance(node, ast.ClassDef):
        return []
    parts, names, found = sections(text), arguments(node), []
    if len(names) > FEW:
        said = listed(parts.get("Args", ""))
        missing = [name for name in names if name not in said and not in_a_sentence(name, text)]
        if missing:
            found.append(f"{node.name} does not name {', '.join(missing)}")
    strange = listed(parts.get("Args", "")) - set(arguments(node)) - USUAL
    if strange:
        found.append(f"{node.name} lists {', '.join(sorted(strange))}, which it does not take")
    if len(names) > FEW and returns_something(node) and "Returns" not in parts and ORDER.match(text):
        found.append(f"{node.name} does not say what it returns")
    return found


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and "overload" not in [ast.unparse(decorator) for decorator in node.decorator_list]
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_and_classes_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    assert [gap for node in public(tree) for gap in gaps(node)] == []


def node_of(text: str) -> ast.FunctionDef | ast.ClassDef:
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    return node


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(a): pass", "f has no docstring"),
        ("class A: pass", "A has no docstring"),
        ('def f(a, b, c) -> int:\n    """The sum."""', "f does not name a, b, c"),
        (
            'def f(a, b, *, c) -> int:\n    """The sum.\n\n    Args:\n      a: x.\n      b: y.\n    """',
            "f does not name c",
        ),
        (
            'def f(a, b, c) -> int:\n    """Adds.\n\n    Args:\n      a, b: x.\n      c: y.\n    """',
            "f does not say what it returns",
        ),
        (
            'def f(a) -> int:\n    """Adds.\n\n    Args:\n      a: x.\n      d: y.\n    """',
            "f lists d, which it does not take",
        ),
    ],
)
def test_gaps_are_found(text, said):
    assert gaps(node_of(text)) == [said]


def test_what_is_documented_passes():
    whole = '''
def f(key, a, b, *rest, c=1, **more) -> int:
    """Adds.

    Args:
      a, b: x.
      *rest: further ones,
        on two lines: this one.
      c: y.
      more: by name.
    Returns:
      the sum.
    """
'''
    assert gaps(node_of(whole)) == []
    assert gaps(node_of('def f(a, b):\n    """The sum of two."""')) == []
