"""What the host loop costs next to environment, acting and learning: `python scripts/benchmarks/host.py`.

Milliseconds of an iteration by what they went to, of SAC on Gymnasium's Pendulum with `--loop.overlap` 0 and 10, and of
an environment that does nothing. "other" is the overhead of the loop. CPU time is given too: on a machine
that others use, wall-clock time says little.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from mbrl_jax import presets
from mbrl_jax.core.config import replace
from mbrl_jax.core.types import Box, HostEnv, Spec
from mbrl_jax.envs.host import One, host_env
from mbrl_jax.envs.registry import make_env
from mbrl_jax.train.host import HostLoop
from mbrl_jax.train.run import Job


def nothing() -> One:
    """An environment that does nothing."""
    obs = np.zeros(3, np.float32)
    return One(lambda seed: obs, lambda action: (obs, 0.0, 1.0, False), lambda: None)


def measured(env: HostEnv, overlap: int, iterations: int) -> dict[str, float]:
    """Milliseconds of an iteration of SAC with small networks, by what they went to.

    Args:
      env: to train in.
      overlap: of the loop.
      iterations: to time, after as many that are not.
    """
    known = presets.preset("sac", env)
    agent = replace(known.agent, {"hidden": (64, 64)})
    changes = {"inner": iterations, "cycles": 1, "eval_episodes": 0, "warmup": 500, "overlap": overlap}
    cfg = replace(known.loop, changes)
    loop = presets.build("sac", env, agent, cfg)
    assert isinstance(loop, HostLoop)
    driver = loop.driver(Job("sac", env.spec.name, agent, cfg, 0))
    work = driver.start(None).work
    before: dict[str, float] = {}
    for chunk in range(2):
        if chunk == 1:
            before = {**driver.seconds(), "wall": time.perf_counter(), "CPU": time.process_time()}
        report = None
        while report is None:
            work, report = driver.piece(work)
    after = {**driver.seconds(), "wall": time.perf_counter(), "CPU": time.process_time()}
    driver.close()
    return {name: 1e3 * (after[name] - before[name]) / iterations for name in after}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2_000, help="iterations to time")
    count = parser.parse_args().iterations
    idle = host_env(Spec(Box((3,)), Box((1,), -1.0, 1.0), name="nothing"), nothing)
    pendulum: HostEnv = make_env("gymnasium:Pendulum-v1")  # pyright: ignore[reportAssignmentType]
    for env, overlap in ((idle, 0), (pendulum, 0), (pendulum, 10)):
        times = measured(env, overlap, count)
        line = ", ".join(f"{name} {value:.3f}" for name, value in times.items())
        print(f"{env.spec.name}, overlap {overlap}: ms per iteration: {line}")


if __name__ == "__main__":
    main()
