"""Kills a run of a small agent and resumes it: `python -m helpers.broken_run ALGO KIND WAVE FOLDER`, with two devices.

Four seeds share the devices, in waves of one or two. The run is killed in the midst of its first chunk and of its
second, and loses what came after its last checkpoint. It must end with the rows and the state of an unbroken one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np

from helpers import contract
from mbrl_jax.train import checkpoint
from mbrl_jax.train.driver import CompiledDriver, Pace
from mbrl_jax.train.loop import env_steps
from mbrl_jax.train.run import Job, run


class Killed(BaseException):
    """The end of a process."""


def rows(folder: Path, name: str) -> list[list[str]]:
    """The cells of a CSV without the wall-clock times."""
    lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    return [[cell for cell, column in zip(line, lines[0], strict=True) if column != "wall_seconds"] for line in lines]


def numbers(state) -> list[np.ndarray]:
    plain = lambda x: jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(state)]


def main(algo: str, kind: str, wave: int, folder: Path) -> None:
    """Prints "bitwise" at the end; an assertion fails where a number differs."""
    assert jax.device_count() == 2
    kinds = {made.__name__: made for name, made in contract.CASES if name == algo}
    loop, cfg = contract.build(algo, kinds[kind]), contract.loop_settings(algo)
    job = Job(algo, kind, contract.settings(algo), cfg, env_steps(cfg, 2), seed=5, seeds=4, wave=wave, devices=2)
    whole = run(loop, job, folder / "whole", quiet=True)
    piece, reports, killed = CompiledDriver.piece, [], []
    Pace.stop = lambda self, start: min(self.units, start + max(1, self.units // 3))

    def mortal(self, work):
        if work.position and len(killed) <= len(reports) < 2:
            killed.append(work.position)
            raise Killed
        work, report = piece(self, work)
        reports.extend([] if report is None else [report])
        return work, report

    CompiledDriver.piece = mortal
    for attempt in range(3):
        try:
            broken = run(loop, job, folder / "broken", resume=attempt > 0, quiet=True, checkpoint_seconds=1e-9)
        except Killed:
            place = checkpoint.latest_place(folder / "broken" / "checkpoints")
            assert place is not None
            assert place.position > 0, "killed in the midst of a chunk"
            continue
        break
    assert attempt == 2
    for name in ("metrics.csv", "eval.csv"):
        assert rows(folder / "broken", name) == rows(folder / "whole", name), name
    for x, y in zip(numbers(broken.state), numbers(whole.state), strict=True):
        np.testing.assert_array_equal(x, y)
    print("bitwise")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
