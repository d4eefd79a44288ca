"""The contract of the library's records as functions: what an agent, a planner, a buffer or an environment must keep.

    mbrl.testing.check_agent(make, cfg, spec)
    mbrl.testing.check_planner(make, "continuous")
    mbrl.testing.check_buffer(make)
    mbrl.testing.check_env(env)

Each raises one ValueError that lists all that is wrong, and is silent where nothing is. The library's own tests call
the same functions.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
