"""Functional model-based reinforcement learning in JAX.

    import mbrl_jax as mbrl

    run = mbrl.train("mbpo", "Pendulum-v1", out="runs/mbpo", seeds=4)
    loaded = mbrl.load("runs/mbpo")

Names are loaded when they are first used.
"""

import sys
from types import ModuleType
from typing import Any

import lazy_loader as lazy

import mbrl_jax.train  # noqa: F401, light: it loads what it holds on first use

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


class _Train(ModuleType):
    """`mbrl_jax.train` is a package and, as users write `mbrl.train(...)`, a function too.

    Python binds a package's name to the package as soon as any of its modules is imported, so the two can only be one.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mbrl_jax.presets.api import train

        return train(*args, **kwargs)


sys.modules["mbrl_jax.train"].__class__ = _Train
