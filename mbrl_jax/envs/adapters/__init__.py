"""Environment libraries: an adapter each, the one file that imports the library."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
