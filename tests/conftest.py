"""Which tests share a worker: those of one file, and in the contract those of one agent, for what they compile once."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None)
        part = case.params.get("algo", "") if case and "kind" in case.params else ""
        kind = case.params["kind"].__name__ if part else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path}:{part}{kind}"))


@pytest.fixture(autouse=True)
def hardly_optimised(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiling a third quicker where tests do next to nothing else: in the contract, and with small planners."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", bool({"contract", "planners"} & set(request.path.parts)))
    yield
    jax.config.update("jax_disable_most_optimizations", before)
