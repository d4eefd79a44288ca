"""Sizes that no machine holds, for every agent: one line that names the flag, soon, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import contract

from mbrl_jax import presets
from mbrl_jax.buffers import datasets
from mbrl_jax.cli.train import main
from mbrl_jax.core.config import flat, replace
from mbrl_jax.envs.registry import make_env
from mbrl_jax.presets.checks import checked
from mbrl_jax.train import compilation, memory
from mbrl_jax.train.loop import env_steps
from mbrl_jax.train.run import Job

LARGE = {
    "--loop.capacity": "2000000000",
    "--loop.inner": "99999999999999",
    "--loop.num-envs": "1000000000",
    "--loop.unroll": "1000000000",
    "--loop.updates": "1000000000",
    "--loop.warmup": "2147483647",
    "--loop.cycles": "2147483647",
    "--loop.eval-episodes": "1000000000",
    "--steps": "9" * 27,
    "--seeds": "1000000000",
}


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Runs go to a folder of their own, compiled programs are not kept, and the machine has 16 GB."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available", lambda devices=1: 16 * 10**9)
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)


TRACED = ("--loop.capacity", "--seeds")
"""Flags that only the shapes of a run's state can judge."""

PLAYED = "--loop.eval-episodes"
"""The flag that only the whole program can judge."""


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
            late = {*TRACED, PLAYED} if algo in contract.LARGE else {PLAYED} if algo != "q_learning" else set()
            late = {*sizes} if algo in ("morel", "combo", "rambo") else late  # the settings are those of mopo
            some = {flag: value for flag, value in sizes.items() if slow == (flag in late)}
            if some:
                yield pytest.param(algo, some, id=f"{algo}{'-state' * slow}", marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("algo", "sizes"), [*commands()])
def test_a_size_that_no_machine_holds_is_refused_by_its_flag(algo, sizes, tmp_path, capsys, tmp_path_factory):
    data = []
    if presets.AGENTS[algo].offline:
        space = make_env(presets.default_env(algo)).spec
        file = tmp_path_factory.mktemp("data") / "zeros.npz"
        zeros = {name: np.zeros(4) for name in ("reward", "terminated", "truncated")}
        obs, action = np.zeros((4, *space.obs.shape)), np.zeros((4, *space.action.shape))
        datasets.save(file, datasets.checked(zeros | {"obs": obs, "action": action, "next_obs": obs}))
        data = ["--data", str(file)]
    for flag, value in sizes.items():
        assert main([algo, flag, value, *data, "--quiet"]) == 2, (flag, value)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("error: ")
        assert flag in said.err
        assert " must " in said.err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(presets.AGENTS))
def test_a_billion_in_any_setting_is_refused_by_its_name_or_fits(algo):
    """No other exception, no array allocated: what fits is a count, or a size of a part that is not the chosen one."""
    kind, table = presets.AGENTS[algo].actions[0], presets.AGENTS[algo].table
    cfg, loop_cfg = contract.settings(algo), contract.loop_settings(algo)
    for name, value in flat(cfg).items():
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(type(item) is not int for item in values):
            continue
        changed = replace(cfg, {name: (10**9,) * len(values) if isinstance(value, tuple) else 10**9})
        try:
            loop = presets.build(algo, contract.world(kind, table), changed, loop_cfg)
            _, told = checked(loop, Job(algo, "a small world", changed, loop_cfg, env_steps(loop_cfg, 2)))
        except ValueError as error:
            told = str(error)
        last = name.rpartition(".")[2]
        assert told.startswith("memory: ") or last in told, (name, told)
        assert "\n" not in told
