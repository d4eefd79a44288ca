"""Agents that learn from a data set: a file each, and what the model-based ones share."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
