"""Hand-made batches for every public loss: a file for each family, collected by the contract test of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class LossCase(NamedTuple):
    """One call of a loss, `loss(params, *args, **kwargs) -> (loss [], metrics)`."""

    agent: str  # a registry name that learns by it; "" where no agent uses the model
    loss: Callable[..., Any]
    params: Any  # what it is differentiated by
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    smooth: bool = True
    """False where the gradient differs from the value's on purpose: `stop_gradient` on what depends on `params`,
    straight-through draws, REINFORCE."""
