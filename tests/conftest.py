"""Which tests share a worker: those of one file, and in the contract those of one agent, for what they compile once."""

from __future__ import annotations

import gc
import os
from importlib.metadata import version
from pathlib import Path

if version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
    # Tests compile much and compute little: without these emitters programs compile in two thirds of the time.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()

# Nor do compiled programs need to know the lines of Python that they come from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import pytest
from helpers.dear import DEAR

jax.config.update("jax_enable_compilation_cache", False)  # the user's, which a run turns on for its process

gc.set_threshold(200_000, 50, 100)  # tracing makes objects by the million, few of them in cycles

DEAREST = (
    "test_docs.py", "presets/test_builder.py", "contract/test_losses.py", "agents/test_muzero.py",
    "train/test_kill_and_resume.py", "train/test_host.py", "train/test_driver.py", "contract/test_search.py",
    "scripts/test_figures.py", "faults/test_every_agent.py", "faults/test_runs.py", "faults/test_search.py",
    "test_notebooks.py", "test_packaging.py", "test_public_api.py", "cli/test_plot.py",
)  # fmt: skip
"""Groups of half a minute: these first, so that no worker has one left when the other is done."""


TESTS = Path(__file__).parent


def is_dear(item: pytest.Item) -> bool:
    """Whether the table `DEAR` names a test, or all of its file with its parameters."""
    name, bracket, case = item.name.partition("[")
    return bool({item.name, name, bracket + case} & set(DEAR.get(item.path.relative_to(TESTS).as_posix(), ())))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, name in enumerate(DEAREST) if item.path.match(name)), len(DEAREST)))
    for item in items:
        if is_dear(item):
            item.add_marker(pytest.mark.slow)
        case = getattr(item, "callspec", None)
        part = case.params.get("algo", "") if case and "kind" in case.params else ""
        kind = case.params["kind"].__name__ if part else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path}:{part}{kind}"))


def pytest_collection_finish() -> None:
    """Modules and tests stay: no later collection of garbage has to look through them."""
    gc.collect()
    gc.freeze()


SLOW_AND_QUICK = {"contract", "testing", "planners", "scripts", "models", "envs", "buffers", "cli", "dreamer"}
SLOW_AND_QUICK |= {
    f"test_{name}.py"
    for name in ("open_loop_models", "dyna_dqn", "mbpo", "pets", "sac", "nan_planning", "integer_observations")
}
"""Folders and files whose slow tests do little but compile, as those of the default run do everywhere."""


def quick(item: pytest.Item) -> bool:
    """Whether a test does next to nothing but compile: all of the default run, but for those marked `optimized`."""
    if item.get_closest_marker("optimized"):
        return False
    return is_dear(item) or not item.get_closest_marker("slow") or bool(SLOW_AND_QUICK & set(item.path.parts))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiling takes half as long where tests do next to nothing else, in the programs they start too.

    A hook and not a fixture, for it must come before the fixtures of a module, which train what its tests look at.
    """
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick(item)))
    jax.config.update("jax_disable_most_optimizations", quick(item))


@pytest.fixture(autouse=True)
def compiled_programs_are_not_kept(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests count compilations, and leave nothing in the user's cache."""
    if request.path.name != "test_compilation.py":
        from mbrl_jax.presets import api
        from mbrl_jax.train import compilation

        monkeypatch.setattr(compilation, "enable_compilation_cache", lambda folder=None: None)
        monkeypatch.setattr(api, "enable_compilation_cache", lambda folder=None: None)
        monkeypatch.setattr(compilation, "_keep", lambda what, seconds: None)
