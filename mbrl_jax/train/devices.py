"""The devices that share a run's seeds; a processor's cores are made devices where several seeds can use them."""

from __future__ import annotations

import contextlib
import os


def settle_devices(words: list[str]) -> None:
    """Makes a processor's cores devices where there are several seeds to share them, by the words of a command line.

    Before all else: whatever asks jax for an array, as importing gymnax does, settles the devices of the process.
    """
    import jax

    at = [i for i, word in enumerate(words) if word.split("=")[0] == "--seeds"]
    given = words[at[-1]].partition("=")[2] or "".join(words[at[-1] + 1 : at[-1] + 2]) if at else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # called from a program whose devices are settled
        jax.config.update("jax_num_cpu_devices", cores if given.isdigit() and int(given) > 1 else 1)


def devices_for(asked: int, seeds: int) -> int:
    """How many devices share the seeds.

    Raises:
      ValueError: more were asked for than there are, or than can share the seeds evenly.
    """
    import jax

    there = jax.device_count()
    if asked > there:
        raise ValueError(f"devices must be at most {there}, got {asked}")
    if asked and seeds % asked:
        raise ValueError(f"devices must divide the seeds ({seeds}), got {asked}")
    return asked or max(n for n in range(1, there + 1) if seeds % n == 0)
