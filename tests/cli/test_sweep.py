"""Sweeps from the command line: trials equal plain runs, killed sweeps go on, wrong flags are named."""

import csv
import json
import shutil

import numpy as np
import pytest

from mbrl_jax import presets
from mbrl_jax.cli import main as program
from mbrl_jax.cli.sweep import main, read_flags
from mbrl_jax.cli.train import main as train
from mbrl_jax.presets import api, checks, sweep_run
from mbrl_jax.presets.sweep import Range, draw
from mbrl_jax.train import checkpoint, compilation
from mbrl_jax.train import run as runs
from mbrl_jax.train.folder import claimed

SMALL = [
    "--seeds", "2", "--seed", "5", "--steps", "60", "--quiet", "--loop.inner", "10", "--loop.cycles", "1",
    "--loop.eval-episodes", "2", "--wave", "4", "--checkpoint-seconds", "0",
]  # fmt: skip
MAZE = ["dyna_q", "--env", "FrozenLake", "--loop.warmup", "20", *SMALL]
SWEEP = [*MAZE, "--set", "agent.policy.lr=0.1,0.5", "--set", "agent.planning=1,2"]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)


def rows(path, drop=("wall_seconds",)):
    with open(path, newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in drop} for row in csv.DictReader(file)]


def numbers(path):
    return np.array([[float(cell or "nan") for cell in row.values()] for row in rows(path)])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep that is stopped within its second program and resumed, beside one that is not."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "enable_compilation_cache", lambda: None)
        assert main([*SWEEP, "--out", str(folder / "whole")]) == 0
        save = checkpoint.save

        def die(path, chunk, *args, **rest):
            if path.parent.parent.name == "programs" and path.parent.name == "1" and chunk.chunk > 1:
                raise KeyError("killed")
            save(path, chunk, *args, **rest)

        patch.setattr(checkpoint, "save", die)
        with pytest.raises(KeyError, match="killed"):
            main([*SWEEP, "--out", str(folder / "broken")])
        patch.setattr(checkpoint, "save", save)
        left = sorted(path.name for path in (folder / "broken").iterdir() if not path.name.startswith("."))
        begun, run = [], runs.run
        patch.setattr(
            runs, "run", lambda loop, job, out, **rest: (begun.append(out.name), run(loop, job, out, **rest))[1]
        )
        assert main([*SWEEP, "--out", str(folder / "broken"), "--resume"]) == 0
    return folder, left, begun


def test_a_sweep_leaves_a_table_a_picture_and_the_folder_of_a_run_for_each_trial(swept):
    whole = swept[0] / "whole"
    told = json.loads((whole / "sweep.json").read_text())
    pairs = [(lr, planning) for lr in (0.1, 0.5) for planning in (1, 2)]
    assert told["trials"] == {
        f"trial-{i}": {"agent.policy.lr": lr, "agent.planning": planning} for i, (lr, planning) in enumerate(pairs)
    }
    assert told["programs"] == [[0, 2], [1, 3]]
    assert not (whole / "programs").exists()
    files = {"config.json", "metrics.csv", "eval.csv", "summary.json", "curve.png", "checkpoints"}
    for name, values in told["trials"].items():
        assert {path.name for path in (whole / name).iterdir()} == files
        config = json.loads((whole / name / "config.json").read_text())
        assert (config["agent"]["policy.lr"], config["agent"]["planning"]) == (*values.values(),)
        assert (config["seed"], config["seeds"]) == (5, 2)
        loaded = api.load(whole / name, seed=1)
        assert loaded.settings["agent"]["policy.lr"] == values["agent.policy.lr"]
        assert int(loaded.policy(3)[0]) in range(4)
    assert (whole / "response.png").read_bytes()[:4] == b"\x89PNG"
    table = rows(whole / "table.csv")
    scores = {
        name: np.mean(json.loads((whole / name / "summary.json").read_text())["recent_eval_return"])
        for name in told["trials"]
    }
    assert [row["trial"] for row in table] == sorted(scores, key=scores.__getitem__, reverse=True)
    assert [float(row["iqm"]) for row in table] == pytest.approx(sorted(scores.values(), reverse=True))


@pytest.mark.slow
def test_a_trial_has_the_numbers_of_a_plain_run(tmp_path):
    """To rounding: in the program of several trials a setting is an array, and float32 before anything is computed."""
    small = ["--loop.warmup", "20", "--agent.batch", "8", "--agent.hidden", "8", "8"]
    common = ["sac", "--env", "ContinuousCartPole", *SMALL, *small]
    assert main([*common, "--set", "agent.lr=1e-3,3e-2", "--out", str(tmp_path / "sweep")]) == 0
    assert train([*common, "--agent.lr", "3e-2", "--out", str(tmp_path / "run")]) == 0
    other, trial = tmp_path / "sweep" / "trial-0", tmp_path / "sweep" / "trial-1"
    assert rows(trial / "metrics.csv")[0].keys() == rows(tmp_path / "run" / "metrics.csv")[0].keys()
    for name in ("metrics.csv", "eval.csv"):
        np.testing.assert_allclose(numbers(trial / name), numbers(tmp_path / "run" / name), rtol=2e-3, atol=1e-4)
    assert not np.allclose(
        numbers(trial / "metrics.csv"), numbers(other / "metrics.csv"), rtol=2e-3, atol=1e-4, equal_nan=True
    ), "another rate, other numbers"


def test_a_trial_alone_in_its_program_is_that_run_bitwise(swept, tmp_path):
    words = [*MAZE, "--set", "agent.planning=2", "--agent.policy.lr", "0.5", "--out", str(tmp_path / "sweep")]
    assert main(words) == 0
    assert train([*MAZE, "--agent.planning", "2", "--agent.policy.lr", "0.5", "--out", str(tmp_path / "run")]) == 0
    for name in ("metrics.csv", "eval.csv"):
        one = rows(tmp_path / "sweep" / "trial-0" / name)
        assert one == rows(tmp_path / "run" / name)
        assert len(one) == len(rows(swept[0] / "whole" / "trial-3" / name))
    beside = numbers(swept[0] / "whole" / "trial-3" / "metrics.csv")
    np.testing.assert_allclose(numbers(tmp_path / "run" / "metrics.csv"), beside, rtol=2e-3, atol=1e-4)


def test_a_killed_sweep_goes_on_bitwise_and_runs_nothing_twice(swept):
    folder, left, begun = swept
    assert left == ["programs", "sweep.json", "trial-0", "trial-2"]
    assert begun == ["1"]
    for i in range(4):
        for name in ("metrics.csv", "eval.csv"):
            assert rows(folder / "broken" / f"trial-{i}" / name) == rows(folder / "whole" / f"trial-{i}" / name)
    assert (folder / "broken" / "table.csv").read_text() == (folder / "whole" / "table.csv").read_text()


def test_a_trial_goes_on_as_a_run(swept, tmp_path):
    shutil.copytree(swept[0] / "whole" / "trial-2", tmp_path / "run")
    command = json.loads((tmp_path / "run" / "config.json").read_text())["command"]
    words = command.replace("--steps 60", "--steps 80").split()
    assert words[:3] == ["mbrl-jax", "train", "dyna_q"]
    extra = ["--out", str(tmp_path / "run"), "--resume", "--quiet"]
    assert program([*words[1:], *extra]) == 0
    assert numbers(tmp_path / "run" / "metrics.csv")[-1, 1] == 80
    before = rows(swept[0] / "whole" / "trial-2" / "metrics.csv")
    assert rows(tmp_path / "run" / "metrics.csv")[: len(before)] == before


def refused(words, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", ["--set or --sample"]),
        ("--set agent.lr", ["--set needs", "'agent.lr'"]),
        ("--set agent.rl=1", ["--set agent.rl=1", "did you mean agent.lr"]),
        ("--set lr=1", ["--set lr=1", "did you mean agent.lr"]),
        ("--set agent.lr=1e-4,fast", ["--set agent.lr=", "a finite number", "'fast'"]),
        ("--set agent.lr=-1", ["--set agent.lr=-1", "above 0"]),
        ("--set agent.lr=1,1", ["--set agent.lr=1,1", "twice"]),
        ("--set agent.batch=1.5", ["--set agent.batch=1.5", "a whole number"]),
        ("--set agent.hidden=64xa", ["--set agent.hidden", "64x64"]),
        ("--set agent.lr=1e-3 --sample agent.lr=1..2", ["--sample agent.lr", "already"]),
        ("--sample agent.lr=1e-3..1e-2", ["--trials must be given with --sample"]),
        ("--sample agent.lr=1e-2..1e-3 --trials 3", ["--sample agent.lr", "below"]),
        ("--sample agent.lr=1e-3..1e-2:quad --trials 3", ["--sample agent.lr", ":log"]),
        ("--sample agent.gamma=0.9..1.5 --trials 3", ["--sample agent.gamma", "at most 1"]),
        ("--sample agent.hidden=4..8 --trials 3", ["--sample agent.hidden", "--set"]),
        ("--set agent.lr=1e-3,1e-2 --trials 1", ["--trials must be 2"]),
        ("--set agent.lr=1e-3,1e-2 --sample agent.tau=0.1..0.2 --trials 1", ["--trials must be at least 2"]),
        ("--set agent.batch=8,99999 --quiet", ["trial-1 (agent.batch=99999)", "loop.capacity"]),
        ("--set agent.lr=1e-3,1e-2 --resume", ["--resume", "no sweep.json"]),
        ("--set agent.lr=1e-3,1e-2 --seeds 0", ["--seeds must be at least 1"]),
        ("--sample agent.lr=1e-3..1e-2 --search optuna", ["--trials must be given with --search optuna"]),
        ("--sample agent.lr=1e-3..1e-2 --trials 8 --search pbt --workers 2", ["--workers must be 1"]),
        ("--sample agent.lr=1e-3..1e-2 --trials 3 --search pbt", ["--trials must be at least 4", "got 3"]),
        ("--set agent.lr=1e-3,1e-2 --trials 8 --search pbt", ["--search pbt", "agent.lr is none"]),
        ("--sample agent.batch=8..16 --trials 8 --search pbt", ["--search pbt", "agent.batch is none"]),
        ("--sample agent.lr=1e-3..1e-2 --trials 8 --search grid", ["--search"]),
        ("--set agent.lr=1e-3,1e-2 --workers 2 --launcher-args x", ["--launcher-args needs key=value"]),
        ("--set agent.lr=1e-3,1e-2 --workers 2 --launcher-args x=1", ["--launcher-args must not be given"]),
        ("--set agent.lr=1e-3,1e-2 --launcher moon", ["--launcher"]),
    ],
)
def test_wrong_flags_are_named(words, named, capsys, tmp_path):
    line = refused(["sac", "--env", "Pendulum-v1", "--out", str(tmp_path / "x"), *words.split()], capsys)
    assert [word for word in named if word not in line] == []
    assert not (tmp_path / "x").exists()


def test_another_sweep_in_the_folder_is_left_alone(swept, capsys):
    out = ["--out", str(swept[0] / "whole")]
    assert "holds another sweep" in refused([*SWEEP, *out], capsys)
    line = refused([*SWEEP, *out, "--resume", "--agent.policy.gamma", "0.5"], capsys)
    assert "there, 0.5 here" in line
    assert "agent.policy.gamma is " in line


def test_programs_are_divided_until_they_fit_into_memory(tmp_path, monkeypatch, capsys):
    """What eight rows need does not fit, what four need does; `--together` asks for smaller ones."""
    words = ["dyna_q", "--env", "FrozenLake", "--steps", "40", "--loop.inner", "10", "--loop.cycles", "1"]
    words += ["--loop.warmup", "20", "--seeds", "2", "--set", "agent.policy.lr=0.1,0.2,0.3,0.4"]
    needs = []
    monkeypatch.setattr(sweep_run, "work", lambda *args: sweep_run.Outcome(True))
    monkeypatch.setattr(checks.memory, "describe", lambda need, have: str(needs.append(need)))
    assert main([*words, "--out", str(tmp_path / "all")]) == 0
    whole = needs[-1].total
    monkeypatch.setattr(checks.memory, "available", lambda devices=1: 0.7 * whole)
    assert main([*words, "--out", str(tmp_path / "half")]) == 0
    assert main([*words, "--together", "1", "--out", str(tmp_path / "one")]) == 0
    programs = [json.loads((tmp_path / name / "sweep.json").read_text())["programs"] for name in ("all", "half", "one")]
    assert programs == [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]]
    monkeypatch.setattr(checks.memory, "available", lambda devices=1: 10)
    capsys.readouterr()
    assert "memory: a run needs" in refused([*words, "--out", str(tmp_path / "none")], capsys)


def test_a_program_that_another_process_runs_is_left_to_it(tmp_path, capsys):
    words = [*MAZE, "--set", "agent.planning=1,2", "--out", str(tmp_path / "sweep")]
    with claimed(tmp_path / "sweep" / ".claims" / "0"):
        assert main([word for word in words if word != "--quiet"]) == 0
        said = capsys.readouterr().out
    assert "left to another process: program 1 by process" in said
    assert [row["trial"] for row in rows(tmp_path / "sweep" / "table.csv")] == ["trial-1"]
    assert main([*words, "--worker-index", "0"]) == 0  # as a worker does, begun or not
    assert len(rows(tmp_path / "sweep" / "table.csv")) == 2


def test_values_are_drawn_over_the_whole_range():
    known = presets.preset("sac", "Pendulum-v1")
    given = [
        ("sample", "agent.lr=1e-5..1e-2"),
        ("sample", "agent.gamma=0.9..0.999"),
        ("sample", "agent.batch=8..64:log"),
    ]
    grid, ranges = read_flags([("set", "agent.hidden=8x8,16x16"), *given], known.agent, known.loop)
    assert grid == {"agent.hidden": [(8, 8), (16, 16)]}
    assert ranges == {
        "agent.lr": Range(1e-5, 1e-2, True, False),
        "agent.gamma": Range(0.9, 0.999, False, False),
        "agent.batch": Range(8, 64, True, True),
    }
    trials = draw(grid, ranges, 64, seed=1)
    assert trials == draw(grid, ranges, 64, seed=1) != draw(grid, ranges, 64, seed=2)
    assert [trial["agent.hidden"] for trial in trials[:3]] == [(8, 8), (16, 16), (8, 8)]
    # a Latin hypercube: one in each of 64 equal parts, in the logarithm for the rate
    for name, place in (("agent.lr", lambda x: np.log10(x) / 3 + 5 / 3), ("agent.gamma", lambda x: (x - 0.9) / 0.099)):
        at = np.sort([place(trial[name]) for trial in trials])
        np.testing.assert_allclose(at, (np.arange(64) + 0.5) / 64, atol=0.5 / 64 + 1e-3)
    batches = [trial["agent.batch"] for trial in trials]
    assert all(type(batch) is int and 8 <= batch <= 64 for batch in batches)
    assert draw({}, {"agent.batch": Range(2, 4, False, True)}, 9, 0) in [
        [{"agent.batch": x} for x in order]
        for order in ((2, 3, 4), (2, 4, 3), (3, 2, 4), (3, 4, 2), (4, 2, 3), (4, 3, 2))
    ]
