"""Two processes on loopback that share the seeds of a run leave what one process leaves."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ordered as t

from mbrl_jax.train import hosts
from mbrl_jax.train.checkpoint import latest
from mbrl_jax.train.hosts import Hosts, connect
from mbrl_jax.train.run import run

WORDS = [
    "q_learning", "--env", "FrozenLake", "--seeds", "4", "--wave", "2", "--quiet", "--loop.inner", "10",
    "--loop.cycles", "1", "--loop.eval-episodes", "2", "--checkpoint-seconds", "0",
]  # fmt: skip

CODE = """
import os, sys; os.sched_getaffinity = lambda pid: {0, 1}
import jax
from mbrl_jax.cli.train import main
from mbrl_jax.train import devices
if sys.argv[1] == "one": jax.config.update("jax_num_cpu_devices", 4); devices.settle_devices = lambda words: None
sys.exit(main(sys.argv[2:]))
"""


def begun(mode: str, words: list[str]) -> subprocess.Popen[str]:
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # these programs are compiled for a few steps
    return subprocess.Popen([sys.executable, "-c", CODE, mode, *words], stderr=subprocess.PIPE, text=True, env=quick)


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes, and what the processes said."""
    said = [process.communicate(timeout=900)[1] for process in processes]
    return [process.returncode for process in processes], "".join(text[-3000:] for text in said)


def two(words: list[str]) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [begun("two", [*words, "--distributed", f"127.0.0.1:{port},2,{i}"]) for i in range(2)]


def sent(number: int, processes: list[subprocess.Popen[str]], out: Path, chunk: int) -> tuple[list[int], str]:
    """Sends a signal to the second process once there is a checkpoint of a chunk; how both end."""
    deadline = time.monotonic() + 600
    while (latest(out / "checkpoints") or 0) < chunk and processes[0].poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].send_signal(number)
    return ended(processes)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_equal_one_and_go_on_where_they_stopped(tmp_path):
    """One of them is killed, which ends both; later one is asked to stop, which saves a checkpoint."""
    words = [*WORDS, "--steps", "1000", "--out"]
    assert ended([begun("one", [*words, str(tmp_path / "one")])])[0] == [0]
    out = tmp_path / "two"
    codes, said = sent(signal.SIGKILL, two([*words, str(out)]), out, 3)
    assert codes == [1, -signal.SIGKILL], said
    assert "error: --distributed: another process of the run has ended" in said
    killed = latest(out / "checkpoints")
    assert 3 <= killed < 100
    codes, said = sent(signal.SIGTERM, two([*words, str(out), "--resume"]), out, killed + 3)
    assert codes == [130, 130], said
    assert killed + 3 <= latest(out / "checkpoints") < 100
    codes, said = ended(two([*words, str(out), "--resume"]))
    assert codes == [0, 0], said
    for name in ("metrics.csv", "eval.csv"):
        assert rows(out, name) == rows(tmp_path / "one", name)
    assert {row["seed"] for row in rows(out, "metrics.csv")} == {"0", "1", "2", "3"}


@pytest.mark.slow
def test_a_folder_that_holds_another_run_ends_both(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    codes, said = ended(two([*WORDS, "--steps", "20", "--out", str(tmp_path)]))
    assert codes == [2, 2]
    assert "holds another run" in said
    assert "--distributed: the first process cannot begin, and says why" in said


def test_all_that_one_process_orders_gives_what_a_run_without_orders_does(tmp_path, monkeypatch, capsys):
    """In one process the operations between processes do nothing; asked to stop, as by another, it goes on later."""
    job = t.job_of()._replace(groups=1)
    plain = run(t.loop_of(), job, tmp_path / "plain", quiet=True)
    told = hosts._rows
    with monkeypatch.context() as patch:
        # The one array of shape [1] is the flag that asks to stop.
        patch.setattr(hosts, "_rows", lambda array: np.ones(1) if array.shape == (1,) else told(array))
        with Hosts(t.loop_of()) as shared:
            assert not run(shared, job, tmp_path / "shared").finished
    assert "stopping: another process of the run was asked to" in capsys.readouterr().out
    with Hosts(t.loop_of()) as shared:
        resumed = run(shared, job, tmp_path / "shared", quiet=True, resume=True)
    assert resumed.finished
    t.same(resumed.state, plain.state)
    for name in ("metrics.csv", "eval.csv"):
        assert t.rows(tmp_path / "shared", name) == t.rows(tmp_path / "plain", name)


def test_arrays_of_any_type_and_size_pass_as_bytes(monkeypatch):
    sizes = []

    def both(some):
        sizes.append(some.size)
        return np.stack([some, 255 - some])

    monkeypatch.setattr(hosts, "MOST", 1 << 13)
    draws = np.random.default_rng(0)
    for array in (
        draws.normal(size=(3, 1000)), draws.integers(0, 9, (5,), np.int32), np.array([True, False]), np.float32(2.5),
        np.zeros((0, 4)), np.asarray(jnp.ones(7, jnp.bfloat16)),
    ):  # fmt: skip
        found = hosts._exchanged(np.asarray(array), both)
        assert found.shape == (2, *np.shape(array))
        assert found.dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found[0], array)
        assert (np.asarray(array).tobytes() == found[1].tobytes()) == (np.size(array) == 0)
    assert sizes[:3] == [1 << 13, 1 << 13, 1 << 13]  # 24,000 bytes
    assert set(sizes[3:]) == {1 << 12}


def test_no_order_is_given_while_another_is_carried_out(monkeypatch):
    """The other processes would take it for something else."""
    orders = []
    monkeypatch.setattr(hosts, "_order", lambda *order: orders.append(order))
    with Hosts(t.loop_of()) as shared:
        shared.finished = True
    assert orders == [(hosts.END, True)]
    with pytest.raises(KeyboardInterrupt), Hosts(t.loop_of()) as shared, shared.together():
        raise KeyboardInterrupt
    assert len(orders) == 1


def test_groups_that_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match=r"divides the 2 groups in which the run computes its seeds, got 3"):
        Hosts(t.loop_of()).driver(t.job_of(seeds=6, devices=2))
    with pytest.raises(ValueError, match="seeds must be a multiple of the 3 processes, got 4"):
        hosts.shared(t.job_of(seeds=4))


@pytest.mark.parametrize("text", ["", "here", "1.2.3.4,2,0", "1.2.3.4:5,2", "1.2.3.4:5,2,x", "1.2.3.4:5,2,2"])
def test_wrong_addresses_are_named(text):
    with pytest.raises(ValueError, match="distributed must"):
        connect(text)
