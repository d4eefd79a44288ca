"""`Net`: a network as two pure functions, so that no code outside `nets/` imports flax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from mbrl_jax.core.types import Array, Key, Params


class Net(NamedTuple):
    """A network over one unbatched input."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]  # (params, *inputs) -> outputs


def as_net(module: nn.Module, *examples: Array) -> Net:
    """A flax module as a `Net`.

    Args:
      module: any `flax.linen` module with no mutable state.
      examples: unbatched inputs of the shapes and dtypes that it will get.
    Returns:
      the network's `init` and `apply`.
    """
    return Net(lambda key: module.init(key, *examples), module.apply)
