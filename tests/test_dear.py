"""The table of tests that the default run leaves out names tests that are there."""

import ast
from pathlib import Path

import pytest
from helpers.dear import DEAR

TESTS = Path(__file__).parent


@pytest.mark.parametrize("file", DEAR)
def test_what_is_left_out_is_there(file):
    defined = {
        node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(node, ast.FunctionDef)
    }
    named = {name.partition("[")[0] for name in DEAR[file]} - {""}
    assert named <= defined
    assert len(set(DEAR[file])) == len(DEAR[file])
