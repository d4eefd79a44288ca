"""A run equals the compiled loop, also where it is interrupted and resumed."""

import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.walk import CHUNK, WARMUP, AgentConfig, make_job, make_loop

from mbrl_jax.train import checkpoint
from mbrl_jax.train import run as runs
from mbrl_jax.train.loop import Loop
from mbrl_jax.train.run import resume_command, run, seed_keys, settings


def rows(folder, name, drop_wall=True):
    lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
    wall = lines[0].index("wall_seconds") if drop_wall and "wall_seconds" in lines[0] else None
    return [[cell for i, cell in enumerate(line) if i != wall] for line in lines]


def same(a, b):
    plain = [jax.tree.leaves(t._replace(key=jax.random.key_data(t.key))) for t in (a, b)]
    for x, y in zip(*plain, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    drawn = []
    result = run(make_loop(), make_job(), out, quiet=True, draw=drawn.append)
    assert drawn == [out]
    return out, result


def test_equals_the_compiled_train(uninterrupted):
    out, result = uninterrupted
    state, report = jax.jit(lambda keys: jax.vmap(lambda key: make_loop().train(key, 4))(keys))(seed_keys(3, 2))
    same(result.state, state)
    assert result.finished
    table = rows(out, "metrics.csv", drop_wall=False)
    assert table[0] == [
        "seed", "env_steps", "updates", "wall_seconds", "return", "episodes", "loss", "eval_return",
    ]  # fmt: skip
    losses = np.array([[float(line[6]) for line in table[1 + i :: 2]] for i in range(2)], np.float32)
    np.testing.assert_array_equal(losses, report.metrics["loss"])
    assert [line[:3] for line in table[1:4]] == [["3", "84", "20"], ["4", "84", "20"], ["3", "144", "40"]]
    assert [line[4] for line in table[1:3]] == ["", ""]
    assert float(table[-1][7]) == np.mean(np.float64(report.returns[1, -1]))
    evals = rows(out, "eval.csv")
    assert len(evals) == 1 + 2 * 4 * 2
    assert evals[1][:3] == ["3", "84", "0"]
    assert np.float32(evals[1][3]) == report.returns[0, 0, 0]
    assert evals[-1][4] == "11"


def test_summary_and_config(uninterrupted):
    out, result = uninterrupted
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary) == [
        "algo", "env", "seeds", "env_steps", "updates", "wall_seconds", "compile_seconds", "env_steps_per_second",
        "eval_return", "recent_eval_return", "training_return", "threshold", "steps_to_threshold", "diverged",
        "versions",
    ]  # fmt: skip
    assert (summary["env_steps"], summary["updates"], summary["seeds"]) == (264, 80, 2)
    means = np.array([float(line[-1]) for line in rows(out, "metrics.csv")[1:]]).reshape(4, 2).T
    assert summary["eval_return"] == means[:, -1].tolist()
    assert summary["recent_eval_return"] == pytest.approx(means.mean(1).tolist())
    expected = [[84, 144, 204, 264][int(np.argmax(row >= 20))] for row in means]
    assert summary["steps_to_threshold"] == expected
    assert summary["env_steps_per_second"] == pytest.approx(264 * 2 / summary["wall_seconds"], rel=0.2)
    assert summary == result.summary
    config = json.loads((out / "config.json").read_text())
    assert config["agent"] == {"lr": 1e-3, "hidden": [8, 8]}
    assert config["loop"]["inner"] == 5
    assert (config["seed"], config["seeds"], config["steps"]) == (3, 2, 264)
    assert config["command"] == "python scripts/train.py fake --out x --steps 5"
    assert config["versions"]["jax"] == jax.__version__
    assert checkpoint.latest(out / "checkpoints") == 4


class Killed(BaseException):
    pass


@pytest.mark.parametrize("chunks_before", [0, 1, 3])
def test_killed_and_resumed_is_bitwise_the_same(uninterrupted, tmp_path, monkeypatch, chunks_before):
    """Killed after a chunk whose rows are written and whose checkpoint is not yet."""
    out = tmp_path / "run"
    save = checkpoint.save

    def die(folder, chunk, state, **rest):
        if chunk.chunk > chunks_before:
            raise Killed
        save(folder, chunk, state, **rest)

    monkeypatch.setattr(runs.checkpoint, "save", die)
    with pytest.raises(Killed):
        run(make_loop(), make_job(), out, quiet=True, checkpoint_seconds=0)
    assert len(rows(out, "metrics.csv")) == 1 + 2 * (chunks_before + 1)
    assert not (out / "summary.json").exists()
    monkeypatch.undo()
    result = run(make_loop(), make_job(), out, resume=True, quiet=True)
    whole, expected = uninterrupted
    same(result.state, expected.state)
    for name in ("metrics.csv", "eval.csv"):
        assert rows(out, name) == rows(whole, name)
    volatile = ("wall_seconds", "compile_seconds", "env_steps_per_second")
    assert {k: v for k, v in result.summary.items() if k not in volatile} == {
        k: v for k, v in expected.summary.items() if k not in volatile
    }


def test_more_steps_extend_a_finished_run(uninterrupted, tmp_path):
    out = tmp_path / "run"
    run(make_loop(), make_job(steps=WARMUP + 2 * CHUNK), out, quiet=True)
    result = run(make_loop(), make_job(), out, resume=True, quiet=True)
    same(result.state, uninterrupted[1].state)
    assert rows(out, "metrics.csv") == rows(uninterrupted[0], "metrics.csv")
    assert json.loads((out / "config.json").read_text())["steps"] == WARMUP + 4 * CHUNK
    again = run(make_loop(), make_job(), out, resume=True, quiet=True)  # nothing left to do
    assert again.summary == result.summary
    assert again.finished
    with pytest.raises(ValueError, match="--steps must be at least 264"):
        run(make_loop(), make_job(steps=WARMUP + CHUNK), out, resume=True, quiet=True)


def test_seed_keys_are_those_of_single_runs(uninterrupted, tmp_path):
    data = jax.random.key_data(seed_keys(3, 5))
    for i, row in enumerate(data):
        np.testing.assert_array_equal(row, jax.random.key_data(jax.random.key(3 + i)))
    run(make_loop(), make_job(seed=4, seeds=1), tmp_path / "one", quiet=True)
    alone, both = rows(tmp_path / "one", "eval.csv"), rows(uninterrupted[0], "eval.csv")
    assert alone[1:] == [line for line in both if line[0] == "4"]


def test_waves_give_the_same_rows(tmp_path):
    for wave in (1, 2):
        run(make_loop(), make_job(seeds=3, wave=wave), tmp_path / str(wave), quiet=True)
    assert rows(tmp_path / "1", "metrics.csv") == rows(tmp_path / "2", "metrics.csv")
    assert len({line[-1] for line in rows(tmp_path / "1", "metrics.csv")[1:4]}) == 3  # no two seeds alike


def slow_loop(products: int = 1000) -> Loop:
    """The same loop with longer chunks, so that a signal arrives within one."""
    fast = make_loop()

    def chunk(state):
        spin = jax.lax.fori_loop(0, products, lambda _, m: jnp.tanh(m @ m), jnp.ones((96, 96)))
        state, report = fast.chunk(state)
        return state, report._replace(metrics={**report.metrics, "spin": jnp.sum(spin)})

    return fast._replace(chunk=chunk)


def test_a_signal_stops_after_the_chunk_and_the_run_can_be_resumed(tmp_path, capsys):
    out = tmp_path / "run"
    job = make_job(steps=WARMUP + 4000 * CHUNK, seeds=1)

    def interrupt():
        while not (out / "metrics.csv").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    result = run(slow_loop(), job, out, checkpoint_seconds=0)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    done = int(result.state.count[0])
    assert not result.finished
    assert 0 < done < 4000
    assert checkpoint.latest(out / "checkpoints") == done
    assert len(rows(out, "metrics.csv")) == 1 + done
    assert json.loads((out / "summary.json").read_text())["env_steps"] == WARMUP + done * CHUNK
    said = capsys.readouterr().out.splitlines()
    assert "stopping after the work under way; a second signal stops at once" in said
    assert said[-1] == f"resume with: python scripts/train.py --resume {out}"
    job = job._replace(steps=WARMUP + (done + 1) * CHUNK)
    assert int(run(slow_loop(), job, out, resume=True, quiet=True).state.count[0]) == done + 1


def test_a_second_signal_stops_at_once(tmp_path):
    out = tmp_path / "run"
    sent = []

    def interrupt():
        while not checkpoint.latest(out / "checkpoints"):
            time.sleep(0.005)
        for _ in range(2):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        sent.append(time.monotonic())

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):  # chunks take seconds: both signals arrive within one
        run(slow_loop(20_000), make_job(steps=WARMUP + 99 * CHUNK, seeds=1), out, quiet=True, checkpoint_seconds=0)
    thread.join()
    assert time.monotonic() - sent[0] < 0.5
    assert checkpoint.latest(out / "checkpoints") == 1
    assert not (out / "summary.json").exists()


def test_folders_that_cannot_be_used(uninterrupted, tmp_path):
    out, _ = uninterrupted
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    loop = make_loop()
    with pytest.raises(ValueError, match=r"--out .* holds another run"):
        run(loop, make_job(), out, quiet=True)
    for changes, words in [
        ({"agent": AgentConfig(lr=0.5)}, r"agent.lr is 0.001 there, 0.5 here"),
        ({"agent": AgentConfig(hidden=(8,))}, r"agent.hidden is \[8, 8\] there, \[8\] here"),
        ({"seeds": 3, "seed": 0}, r"seed is 3 there, 0 here; seeds is 2 there, 3 here"),
        ({"algo": "other"}, r"algo is 'fake' there, 'other' here"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(loop, make_job(**changes), out, resume=True, quiet=True)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(ValueError, match="--resume needs a run in --out"):
        run(loop, make_job(), tmp_path / "none", resume=True, quiet=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        run(loop, make_job(), tmp_path / "full", quiet=True)
    assert not (tmp_path / "none").exists()


def test_settings_are_what_json_reads_back():
    made = settings(make_job(threshold=float("inf")))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["threshold"] is None


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("python t.py sac --out a --seeds 2", "python t.py --resume b"),
        ("python t.py sac --out=a --resume", "python t.py --resume b"),
        ("mbrl-jax train sac --agent.lr 1", "mbrl-jax train --resume b"),
        (
            "mbrl-jax train sac --quiet --env-workers 3 --devices=2 --checkpoint-seconds 0",
            "mbrl-jax train --resume b --quiet --env-workers 3 --devices=2 --checkpoint-seconds 0",
        ),
        (
            "mbrl-jax train sac --seeds 8 --out b --distributed 10.0.0.1:1234,2,0",
            "mbrl-jax train sac --seeds 8 --out b --distributed 10.0.0.1:1234,2,0 --resume",
        ),
        ("", "mbrl-jax train --resume b"),
    ],
)
def test_resume_command(command, again):
    assert resume_command(command, "b") == again
