"""The compiled loop, and runs of it: logs, checkpoints, resume, seeds over devices."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
