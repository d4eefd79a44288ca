"""Environments as records of pure functions; each environment library has one adapter, imported on first use."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
