"""Trials that begin and end on their own in one program equal trials alone, also where the program was killed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import ordered

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.train import checkpoint
from mbrl_jax.train import run as runs
from mbrl_jax.train.driver import Pace
from mbrl_jax.train.log import Progress
from mbrl_jax.train.loop import env_steps, make_loop
from mbrl_jax.train.refilled import DIVERGED, FINISHED, PRUNED, Trial, Wave
from mbrl_jax.train.swept import Swept

SEEDS, SLOTS, CHUNKS = 2, 3, 3
RATES = [0.9, 0.8, 0.7, 0.6, math.nan, 0.4, 0.3]
ENDS = {1: 1, 0: 2, 5: 1}
"""Trials that are pruned, and after how many chunks."""


def built(values: dict[str, Any]) -> Any:
    agent, env = ordered.agent_and_env()

    def update(key: Any, learner: Any, replay: Any) -> Any:
        new = values["lr"] * learner + jax.random.normal(key, (3,))
        return new, {"first": new[0]}, ()

    return make_loop(agent._replace(update=update), env, uniform(64), ordered.CFG)


class Script:
    """Trials one after the other, of which some end early."""

    def __init__(self, numbers: list[int]):
        self.numbers, self.told = numbers, []
        self.left = list(numbers)

    def next(self) -> int | None:
        return self.left.pop(0) if self.left else None

    def trial(self, number: int) -> Trial:
        return Trial(f"trial-{number}", ordered.job_of(CHUNKS, seeds=SEEDS), {"lr": RATES[number]})

    def after(self, standings: Any) -> list[str]:
        self.told.append([[one.number, one.env_steps, *one.scores] for one in standings])
        chunks = lambda one: (one.env_steps - env_steps(ordered.CFG, 0)) / 24  # noqa: E731
        early = lambda one: PRUNED if chunks(one) == ENDS.get(one.number) else ""  # noqa: E731
        return [DIVERGED if one.diverged else FINISHED if one.finished else early(one) for one in standings]

    def steps(self) -> tuple[int, int]:
        return 0, 1000

    def mark(self) -> dict[str, Any]:
        return {"left": self.left, "told": self.told}

    def back(self, mark: Any, running: Any) -> None:
        self.left, self.told = (list(self.numbers), []) if mark is None else (mark["left"], mark["told"])


def wave(folder: Any, numbers: list[int], **changes: Any) -> Script:
    """Trains trials in a wave of `SLOTS` slots, with changes of its job."""
    script = Script(numbers)
    swept = Swept(built, {"lr": RATES[:SLOTS]}, 3, SEEDS)
    job = ordered.job_of(CHUNKS, seeds=SEEDS * SLOTS, wave=SEEDS * SLOTS)._replace(**changes)
    folder.mkdir(exist_ok=True)
    assert Wave(swept, job, folder, folder / "wave", script, Progress("", 1, 1, quiet=True)).run(1e-9)
    return script


def rows(folder: Any) -> list[Any]:
    return [ordered.rows(folder, name) for name in ("metrics.csv", "eval.csv")]


@pytest.fixture(scope="module")
def waves(tmp_path_factory: Any) -> Any:
    """A wave of seven trials in three slots, and one that is killed at its eighth checkpoint and resumed."""
    folder, saves, save = tmp_path_factory.mktemp("waves"), [], checkpoint.save

    def die(*args: Any, **rest: Any) -> None:
        save(*args, **rest)
        saves.append(args[1])
        if args[0].parent.name == "wave" and len(saves) == 8:
            raise KeyError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "stop", lambda self, start: min(self.units, start + 5))
        whole = wave(folder / "whole", [*range(7)])
        with patch.context() as inner:
            inner.setattr(checkpoint, "save", die)
            with pytest.raises(KeyError, match="killed"):
                wave(folder / "killed", [*range(7)])
        assert saves[-1].position > 0, "in the midst of a chunk"
        again = wave(folder / "killed", [*range(7)])
    return folder, whole, again


def test_trials_leave_the_folder_of_a_run_when_they_end(waves):
    folder, script, _ = waves
    done = {0: 2, 1: 1, 2: 3, 3: 3, 4: 1, 5: 1, 6: 3}
    for number, chunks in done.items():
        told = json.loads((folder / "whole" / f"trial-{number}" / "summary.json").read_text())
        assert told["env_steps"] == env_steps(ordered.CFG, chunks)
        assert told.get("ended", FINISHED) == (PRUNED if number in ENDS else DIVERGED if number == 4 else FINISHED)
        assert len(ordered.rows(folder / "whole" / f"trial-{number}", "metrics.csv")) == 1 + chunks * SEEDS
    # Slots are filled in order: 3 follows 1, 4 follows 0, and so on.
    assert [[one[0] for one in line] for line in script.told] == [[0, 1, 2], [0, 3, 2], [4, 3, 2], [5, 3, 6], [6], [6]]


def test_a_trial_equals_a_run_of_its_own(waves):
    folder = waves[0]
    runs.run(
        built({"lr": np.float32(RATES[3])}), ordered.job_of(CHUNKS, seeds=SEEDS, wave=SEEDS), folder / "run", quiet=True
    )
    for got, want in zip(rows(folder / "whole" / "trial-3"), rows(folder / "run"), strict=True):
        assert got[0] == want[0]
        one, other = ([[float(cell or "nan") for cell in row] for row in table[1:]] for table in (got, want))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_trial_equals_that_of_another_wave_as_wide_bitwise(waves):
    folder = waves[0]
    wave(folder / "single", [6, 3])  # which begin after three chunks and after one, and in other slots
    for number in (6, 3):
        assert rows(folder / "single" / f"trial-{number}") == rows(folder / "whole" / f"trial-{number}")


def test_a_wave_that_was_killed_goes_on_bitwise(waves):
    folder, whole, again = waves
    assert again.told == whole.told
    for number in range(7):
        one, other = folder / "whole" / f"trial-{number}", folder / "killed" / f"trial-{number}"
        assert rows(one) == rows(other)
        like = jax.eval_shape(jax.vmap(built({"lr": np.float32(0)}).init), runs.seed_keys(3, SEEDS))
        kept = [checkpoint.newest(path / "checkpoints", like).state for path in (one, other)]
        ordered.same(*kept)


DEVICES = """
import sys; sys.path.insert(0, {tests!r})
import jax; jax.config.update("jax_num_cpu_devices", 2)
from pathlib import Path
from train import test_refilled as t
for devices in (1, 2):
    t.wave(Path({out!r}) / str(devices), [*range(7)], wave=1, devices=devices)
"""


@pytest.mark.slow
def test_a_wave_on_two_devices_equals_one_on_one_bitwise(tmp_path):
    code = DEVICES.format(tests=str(Path(__file__).parents[1]), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for number in range(7):
        assert rows(tmp_path / "1" / f"trial-{number}") == rows(tmp_path / "2" / f"trial-{number}")
