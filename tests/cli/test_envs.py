"""`mbrl-jax envs`: what it says of each environment is so, and a list of them imports nothing."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys

import pytest

from mbrl_jax.cli import envs as cli
from mbrl_jax.envs import registry

SAID = """
import jax.numpy as jnp
import mbrl_jax as mbrl

def make():
    spec = mbrl.Spec(mbrl.Box((2,)), mbrl.Discrete(3), time_limit=1, name="one")
    return mbrl.Env(spec, lambda key: (jnp.zeros(2), jnp.zeros(2)), lambda key, state, action: (
        state, state, jnp.ones(()), jnp.ones(()) * %s, jnp.ones((), bool)))
"""


@pytest.mark.parametrize("name", registry.ABOUT)
def test_what_the_list_says_is_so(name):
    assert registry.about(registry.make_env(name).spec) == registry.ABOUT[name]


def test_every_environment_is_listed_and_nothing_is_imported():
    code = """
import sys
from mbrl_jax.cli import main
assert main(["envs"]) == 0
assert not {"jax", "numpy", "gymnax", "brax", "mujoco", "craftax"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in registry.ABOUT:
        assert f"\n{name} " in done.stdout
    for library, entry in registry.LIBRARIES.items():
        assert f"\n{library}:NAME " in done.stdout
        for name, known in entry.examples.items():
            row = next(line for line in done.stdout.splitlines() if line.startswith(f"{library}:{name} "))
            assert all(f" {word}" in row for word in (known.obs, known.action, str(known.time_limit)))
            extra, modules = registry.needs(f"{library}:{name}")
            missing = any(importlib.util.find_spec(module) is None for module in modules)
            assert row.endswith(f" pip install 'mbrl_jax[{extra}]'") == missing


EXAMPLES = [(library, name) for library, entry in registry.LIBRARIES.items() for name in entry.examples]


@pytest.mark.parametrize(("library", "name"), EXAMPLES)
def test_what_the_list_says_of_libraries_is_so(library, name):
    full = f"{library}:{name}"
    for module in registry.needs(full)[1]:
        pytest.importorskip(module, reason=f"{module} comes with an extra")
    assert registry.about(registry.make_env(full).spec) == registry.LIBRARIES[library].examples[name]
    adapter = importlib.import_module(registry.LIBRARIES[library].make.partition(":")[0])
    assert name.partition("-pixels")[0] in adapter.names()


def test_json_lists_the_same(capsys, monkeypatch):
    monkeypatch.setitem(registry.ENVS, "mine", registry.Entry(lambda: registry.make_env("DynaMaze")))
    assert cli.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["environments"]] == list(registry.ENVS)
    assert found["environments"][-1] == {"name": "mine", "obs": "54 states", "action": "4 discrete", "time_limit": 2000}
    assert {row["library"] for row in found["libraries"]} == set(registry.LIBRARIES)


@pytest.mark.parametrize(
    ("discount", "code", "fault"), [("1", 0, "none was found"), ("0.5", 1, "discount must be 0, 1")]
)
def test_one_is_described_and_checked(discount, code, fault, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_env.py").write_text(SAID % discount)
    try:
        assert cli.main([f"{tmp_path}/own_env.py:make"]) == code
    finally:
        sys.modules.pop("own_env", None)
    said = capsys.readouterr().out
    assert "observation   2 numbers\naction        3 discrete\ntime limit    1\n" in said
    assert fault in said


def test_the_names_of_a_library_are_listed(capsys):
    assert cli.main(["craftax:"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "craftax:Craftax-Classic-Symbolic-v1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Nope"], "env must be one of Pendulum-v1"),
        (["none.py:make"], "there is no file none.py"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_what_is_not_there_is_one_line(words, message, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err
