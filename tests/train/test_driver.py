"""A chunk in pieces: whatever their lengths, the numbers are those of the compiled loop; a run stops between them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.ordered import CFG, UNITS, agent_and_env, job_of, loop_of, rows, same

from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.train import checkpoint, driver
from mbrl_jax.train.driver import CompiledDriver, Note, Pace, pieces_of
from mbrl_jax.train.interrupt import aside
from mbrl_jax.train.log import Progress
from mbrl_jax.train.loop import LoopConfig, make_loop
from mbrl_jax.train.run import run, seed_keys


@pytest.fixture(scope="module")
def expected():
    """Three chunks of three seeds by the compiled loop."""
    return jax.jit(lambda keys: jax.lax.map(lambda key: loop_of().train(key, 3), keys))(seed_keys(3, 3))


@pytest.fixture
def short_calls(monkeypatch):
    """Calls of one or two units."""
    monkeypatch.setattr(Pace, "stop", lambda self, start: min(self.units, start + 1 + start % 2))


@pytest.fixture(scope="module")
def started():
    """Drivers by their waves, which are compiled once."""
    made = cache(lambda wave: CompiledDriver(loop_of(), seed_keys(3, 3), wave, 1))
    begun = cache(lambda wave: jax.device_get(made(wave).start(None).work))
    return lambda wave: (made(wave), jax.tree.map(jnp.array, begun(wave)))


@pytest.mark.parametrize("length", [1, 3, 7, UNITS])
@pytest.mark.parametrize("wave", [1, 2])
def test_pieces_of_any_length_give_the_numbers_of_the_loop(expected, started, wave, length):
    made, work = started(wave)
    made.pace.stop = lambda start: min(UNITS, start + length)
    reports, calls = [], 0
    while len(reports) < 3:
        work, report = made.piece(work)
        calls += 1
        reports += [] if report is None else [report]
    assert calls == 3 * -(-UNITS // length)
    state, report = expected
    same(work.state, state)
    same(jax.tree.map(lambda *leaves: np.stack(leaves, 1), *reports), report)


def test_blocks_of_iterations_give_the_numbers_of_the_loop():
    cfg = LoopConfig(inner=12, cycles=2, warmup=3, eval_episodes=1, capacity=64)  # one step each: six at a time
    made = CompiledDriver(loop_of(cfg), seed_keys(0, 2), 2, 1)
    assert (made.pieces.block, made.pieces.blocks, made.pieces.units) == (6, 2, 7)
    made.pace.stop = lambda start: start + 1
    work, seen = made.start(None).work, []
    for _ in range(7):
        seen.append(made.note(work))
        work, report = made.piece(work)
    doing = ("refresh {} of 2", "iteration 1 of 12, cycle {} of 2", "iteration 7 of 12, cycle {} of 2")
    words = [text.format(cycle) for cycle in (1, 2) for text in doing]
    assert seen == [Note(*note) for note in zip((0, 0, 6, 12, 12, 18, 24), [*words, "evaluation"], strict=True)]
    state, whole = jax.jit(lambda keys: jax.lax.map(lambda key: loop_of(cfg).train(key, 1), keys))(seed_keys(0, 2))
    same(work.state, state)
    same(report, jax.tree.map(lambda leaf: leaf[:, 0], whole))


def test_a_replaced_chunk_runs_in_one_call():
    loop = loop_of()
    assert pieces_of(loop).units == UNITS
    assert pieces_of(loop._replace(chunk=lambda state: loop.chunk(state))).units == 1


def test_a_run_of_short_calls_equals_the_loop(expected, short_calls, tmp_path):
    result = run(loop_of(), job_of(wave=3), tmp_path / "run", quiet=True, checkpoint_seconds=1e-9)
    same(result.state, expected[0])
    table = rows(tmp_path / "run", "metrics.csv")
    at = table[0].index("fit")
    fits = np.array([[float(line[at]) for line in table[1 + i :: 3]] for i in range(3)], np.float32)
    np.testing.assert_array_equal(fits, expected[1].metrics["fit"])


@pytest.mark.parametrize("calls", [1, 14])
def test_stopped_within_a_chunk_and_resumed_is_bitwise_the_same(expected, short_calls, tmp_path, monkeypatch, calls):
    """A signal in the midst of the first or the second chunk: its checkpoint loads, and the run goes on from there."""
    out, count = tmp_path / "run", []
    piece = CompiledDriver.piece

    def counted(self, work):
        count.append(work.position)
        if len(count) == calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return piece(self, work)

    monkeypatch.setattr(CompiledDriver, "piece", counted)
    stopped = run(loop_of(), job_of(), out, quiet=True, checkpoint_seconds=0)
    assert not stopped.finished
    assert len(count) <= calls + 1  # Python may notice the signal one call later
    place = checkpoint.latest_place(out / "checkpoints")
    assert place.position > 0
    same(checkpoint.restore(out / "checkpoints", place, jax.eval_shape(lambda: stopped.state)), stopped.state)
    again = run(loop_of(), job_of(), out, resume=True, quiet=True, checkpoint_seconds=0)
    same(again.state, expected[0])
    assert again.finished
    table = rows(out, "eval.csv")
    assert [np.float32(line[3]) for line in table[1:]] == expected[1].returns.swapaxes(0, 1).ravel().tolist()
    table = rows(out, "metrics.csv")
    at = table[0].index("fit")
    assert [np.float32(line[at]) for line in table[1:]] == expected[1].metrics["fit"].T.ravel().tolist()
    assert checkpoint.latest_place(out / "checkpoints") == (3, 0)


def test_a_damaged_checkpoint_within_a_chunk_falls_back(expected, short_calls, tmp_path, monkeypatch, capsys):
    out, save = tmp_path / "run", checkpoint.save

    class Killed(BaseException):
        pass

    def die(folder, place, state, **rest):
        save(folder, place, state, **rest)
        if place.position >= 8:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", die)
    with pytest.raises(Killed):
        run(loop_of(), job_of(), out, quiet=True, checkpoint_seconds=1e-9)
    monkeypatch.undo()
    places = checkpoint.places(out / "checkpoints")
    assert [place.chunk for place in places] == [0, 0]
    folder = out / "checkpoints" / places[-1].name
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-20])
    result = run(loop_of(), job_of(), out, resume=True)
    assert "is damaged" in capsys.readouterr().out
    same(result.state, expected[0])


# How long calls are ---------------------------------------------------------------------------------------------------


def played(pace: Pace, costs: dict[str, float], chunks: int) -> list[list[float]]:
    """The seconds of every call of some chunks where units cost what is given."""
    out = []
    for _ in range(chunks):
        at, calls = 0, []
        while at < pace.units:
            stop = pace.stop(at)
            assert at < stop <= pace.units
            seconds = 1e-3 + sum(costs[pace.kind(unit)] for unit in range(at, stop))
            pace.took(at, stop, seconds)
            calls.append(seconds)
            at = stop
        out.append(calls)
    return out


@pytest.mark.parametrize(
    ("refresh", "iteration", "evaluation"),
    [(0, 1e-6, 1e-4), (0, 0.01, 1), (3, 0.05, 0.5), (15, 0.2, 8), (60, 4, 0.1), (0.1, 15, 30), (1e-3, 1e-3, 1e-3)],
)
@pytest.mark.parametrize(("blocks", "cycles"), [(1, 1), (1, 40), (50, 5), (1000, 1), (3000, 2)])
def test_no_call_lasts_longer_than_allowed(refresh, iteration, evaluation, blocks, cycles):
    pace = Pace(cycles * (blocks + 1) + 1, blocks)
    costs = {"refresh": refresh, "iteration": iteration, "evaluation": evaluation}
    chunks = played(pace, costs, 4)
    allowed = max(driver.SECONDS, *costs.values()) + 0.1
    assert max(max(calls) for calls in chunks) <= allowed
    total = cycles * (refresh + blocks * iteration) + evaluation
    if total < driver.SECONDS / 4:
        assert [len(calls) for calls in chunks[1:]] == [1, 1, 1]  # one call a chunk
    else:
        need = total / driver.SECONDS + cycles * (refresh > 1) + 1
        assert len(chunks[-1]) <= 6 * need + 4


def test_a_call_that_takes_longer_makes_the_next_ones_shorter():
    pace = Pace(101, 99)
    costs = {"refresh": 0.01, "iteration": 0.05, "evaluation": 0.01}
    played(pace, costs, 2)
    assert pace.stop(0) == 101
    costs["iteration"] = 0.19  # say another process takes the machine
    first, second = played(pace, costs, 2)
    assert first == [pytest.approx(18.83, abs=0.1)]
    assert len(second) > 1
    assert max(second) < 12


def test_units_are_counted():
    pace = Pace(3 * 5 + 1, 4)
    for start in range(16):
        for stop in range(start, 17):
            kinds = [pace.kind(unit) for unit in range(start, stop)]
            assert pace.count(start, stop) == {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def test_several_devices_equal_one_bitwise(tmp_path):
    """In a process of its own, with eight CPU devices."""
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
import jax; jax.config.update("jax_num_cpu_devices", 8)
from pathlib import Path
from helpers import ordered as t
from mbrl_jax.train.driver import CompiledDriver, Pace
from mbrl_jax.train.run import run
Pace.stop = lambda self, start: min(self.units, start + 3)
out = Path({str(tmp_path)!r})
results = [
    run(t.loop_of(), t.job_of(seeds=8, devices=n), out / str(n), quiet=True, checkpoint_seconds=1e-9) for n in (1, 8)
]
assert len(jax.tree.leaves(results[1].state)[0].sharding.device_set) == 8
t.same(results[0].state, results[1].state)
# Begun in two groups on two devices with three short calls, taken up on one.
class Killed(BaseException): pass
piece, calls = CompiledDriver.piece, []
def mortal(self, work):
    calls.append(1)
    if len(calls) == 4: raise Killed
    return piece(self, work)
CompiledDriver.piece = mortal
job = t.job_of(seeds=4, wave=2, devices=2)
try: run(t.loop_of(), job, out / "moved", quiet=True, checkpoint_seconds=1e-9)
except Killed: pass
moved = run(t.loop_of(), job._replace(devices=1), out / "moved", resume=True, quiet=True)
whole = run(t.loop_of(), job, out / "whole", quiet=True)
t.same(moved.state, whole.state)
assert t.rows(out / "moved", "metrics.csv") == t.rows(out / "whole", "metrics.csv")
assert t.rows(out / "1", "metrics.csv") == t.rows(out / "8", "metrics.csv")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_long_call_says_what_it_does(capsys, monkeypatch):
    progress = Progress("ordered count", 100, 1)
    progress.begin(0)
    progress.wait(0, "refresh 1 of 3")
    assert capsys.readouterr().out == ""  # not before half a minute has passed
    clock = time.monotonic() + 31
    monkeypatch.setattr("mbrl_jax.train.log.time.monotonic", lambda: clock)
    progress.wait(4, "refresh 1 of 3")
    progress.wait(4, "refresh 1 of 3")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("ordered count  4/100 steps")
    assert said[0].endswith("left · refresh 1 of 3")


def test_what_is_done_meanwhile_is_done_once_a_second():
    turns: list[int] = []
    assert aside(lambda: time.sleep(2.3) or 7, lambda: turns.append(1)) == 7
    assert 1 <= len(turns) <= 2


def loops_around(program: str, text: str) -> list[int]:
    """How many loops each place of a compiled program that has a text in it lies in."""
    callers: dict[str, list[tuple[str, bool]]] = {}
    places, name = [], ""
    for line in program.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
        for kind, called in re.findall(r"(\w+)=%?([\w.-]+)", line):
            if kind in ("body", "calls", "to_apply"):
                callers.setdefault(called, []).append((name, kind == "body"))
        if text in line:
            places.append(name)

    def depth(name: str) -> int:
        return max((loop + depth(caller) for caller, loop in callers.get(name, [])), default=0)

    return [depth(name) for name in places]


@pytest.mark.optimized
def test_a_piece_without_the_evaluation_does_not_evaluate():
    """XLA would compute what no round of a loop changes before it, also where the loop has no round."""
    agent, env = agent_and_env()

    def step(key, state, action):
        state, obs, reward, *rest = env.step(key, state, action)
        return state, obs, reward + 1234.5, *rest

    loop = make_loop(agent, env, uniform(64), CFG, env._replace(step=step))
    made = CompiledDriver(loop, seed_keys(0, 1), 1, 1)
    found = loops_around(made.lowered(made.shapes()).compile().as_text(), "constant(1234.5)")
    assert found
    assert min(found) >= 2, "its steps, within the loop that has a round at the end of a chunk alone"
