"""Sizes that no machine holds, for every agent: one line that names the flag, soon, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import contract

from mbrl_jax import presets
from mbrl_jax.cli.train import main
from mbrl_jax.core.config import flat
from mbrl_jax.train import compilation

LARGE = {
    "--loop.capacity": "2000000000",
    "--loop.inner": "99999999999999",
    "--loop.num-envs": "1000000000",
    "--steps": "9" * 27,
    "--seeds": "1000000000",
}


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Runs go to a folder of their own, and compiled programs are not kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)


TRACED = ("--loop.capacity", "--seeds")
"""Flags that only the shapes of a run's state can judge."""


def commands() -> Iterator[Any]:
    """Every agent with every flag that can be too large; its own batches among them."""
    for algo, entry in presets.AGENTS.items():
        env = presets.default_env(algo)
        settings = flat(presets.preset(algo, env).agent, "agent.")
        batches = [f"--{name.replace('_', '-')}" for name in settings if name.rpartition(".")[2] == "batch"]
        sizes = LARGE | {"--env": f"{env}-x99999999999999999999"} | dict.fromkeys(batches, "999999999")
        if entry.replay == "latest":  # what is stored is one trajectory, whatever fits
            del sizes["--loop.capacity"]
        for slow in (False, True):
            some = {flag: value for flag, value in sizes.items() if slow == (algo in contract.LARGE and flag in TRACED)}
            if some:
                yield pytest.param(algo, some, id=f"{algo}{'-state' * slow}", marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("algo", "sizes"), [*commands()])
def test_a_size_that_no_machine_holds_is_refused_by_its_flag(algo, sizes, tmp_path, capsys):
    for flag, value in sizes.items():
        assert main([algo, flag, value, "--quiet"]) == 2, (flag, value)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("error: ")
        assert flag in said.err
        assert " must " in said.err
        assert list(tmp_path.iterdir()) == []
