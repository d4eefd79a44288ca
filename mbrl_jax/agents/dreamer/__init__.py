"""The Dreamers: a file each for versions 1, 2 and 3, and what they share."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
