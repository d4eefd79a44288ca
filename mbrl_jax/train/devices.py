"""The devices that share a run's seeds; the cores of a CPU become devices where there are several seeds."""

from __future__ import annotations

import contextlib
import os


def settle_devices(words: list[str]) -> None:
    """Makes the cores of a CPU devices where a command line asks for several seeds.

    Must be called first: jax fixes the devices of a process when its first array is made, as importing gymnax does.

    Args:
      words: of the command line, `--seeds N` and `--loop.mesh data=N` among them.
    """
    import jax

    from mbrl_jax.core.sharding import mesh_size

    def last(flag: str) -> str:
        at = [i for i, word in enumerate(words) if word.split("=")[0] == flag]
        return words[at[-1]].partition("=")[2] or "".join(words[at[-1] + 1 : at[-1] + 2]) if at else ""

    given = last("--seeds")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # the process has its devices already
        several = cores if given.isdigit() and int(given) > 1 else 1
        mesh = last("--loop.mesh")
        jax.config.update("jax_num_cpu_devices", mesh_size(mesh) if mesh else several)


def devices_for(asked: int, seeds: int) -> int:
    """The number of devices that share the seeds.

    Args:
      asked: by the user; 0 chooses the most devices that divide the seeds.
      seeds: of the run.
    Raises:
      ValueError: more devices than available, or a number that does not divide the seeds.
    """
    import jax

    available = jax.local_device_count()
    if asked > available:
        raise ValueError(f"devices must be at most {available}, got {asked}")
    if asked and seeds % asked:
        raise ValueError(f"devices must divide the seeds ({seeds}), got {asked}")
    return asked or max(n for n in range(1, available + 1) if seeds % n == 0)


def shared_by(most: int, seeds: int) -> int:
    """The number of devices that share seeds evenly.

    Args:
      most: of them that may be used; 0: all there are.
      seeds: to be shared.
    """
    import jax

    most = min(most or jax.local_device_count(), jax.local_device_count())
    return max(n for n in range(1, most + 1) if seeds % n == 0)
