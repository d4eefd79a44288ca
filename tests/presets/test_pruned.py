"""A search that prunes: what Optuna is told and decides, which trials share programs, and that a killed one goes on."""

from __future__ import annotations

import csv
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from mbrl_jax.cli.sweep import main
from mbrl_jax.presets import pruned, search
from mbrl_jax.train import checkpoint, compilation
from mbrl_jax.train.loop import env_steps
from mbrl_jax.train.refilled import DIVERGED, FINISHED, PRUNED, Standing

optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")

TRIALS, AT_ONCE, CHUNKS = 16, 4, 6
WORDS = [
    "sac", "--env", "ContinuousCartPole", "--search", "optuna", "--trials", str(TRIALS), "--at-once", str(AT_ONCE),
    "--seeds", "2", "--sample", "agent.lr=1e-5..1e-1", "--sample", "agent.gamma=0.9..0.99", "--steps", "60", "--quiet",
    "--loop.warmup", "0", "--loop.inner", "10", "--loop.cycles", "1",
]  # fmt: skip
CHOICES = ["--set", "agent.hidden=8x8,16x16"]


def score(values, chunk):
    """Best at a rate of 1e-3 and a discount of 0.95, and better after every chunk."""
    return -abs(math.log10(values["agent.lr"]) + 3) - 10 * abs(values["agent.gamma"] - 0.95) - 0.6**chunk


class Simulated:
    """In place of `Wave`: trials have their scores by `score`; a rate above 0.05 diverges. Saves every third chunk."""

    kept: ClassVar[list] = []  # what every search was told, and what it answered

    def __init__(self, swept, job, out, folder, source, progress, draw):
        self.job, self.out, self.path, self.source = job, out, folder / "saved.json", source
        self.slots = [None] * swept.trials

    def fill(self):
        for i, slot in enumerate(self.slots):
            if slot is None and (number := self.source.next()) is not None:
                self.slots[i] = [number, 0]

    def run(self, seconds):
        del seconds
        if self.path.exists():
            told = json.loads(self.path.read_text())
            self.slots, chunks = told["slots"], told["chunks"]
            self.source.back(told["source"], [slot[0] for slot in self.slots if slot])
        else:
            self.source.back(None, ())
            chunks = 0
            self.fill()
        while any(self.slots):
            chunks += 1
            there = [(i, slot) for i, slot in enumerate(self.slots) if slot]
            for _, slot in there:
                slot[1] += 1
            standings = [self.standing(*slot) for _, slot in there]
            fates = self.source.after(standings)
            self.kept.append((standings, fates))
            for (i, (number, done)), fate in zip(there, fates, strict=True):
                if fate:
                    self.leave(number, done, fate)
                    self.slots[i] = None
            self.fill()
            if chunks % 3 == 0:
                told = {"slots": self.slots, "chunks": chunks, "source": self.source.mark()}
                self.path.write_text(json.dumps(told))
        return True

    def standing(self, number, done):
        values = self.source.trial(number).values
        scores = [score(values, done) - 0.1, score(values, done) + 0.1]
        at = env_steps(self.job.loop, done)
        return Standing(number, done, at, scores, scores, done == CHUNKS, values["agent.lr"] > 0.05)

    def leave(self, number, done, fate):
        trial = self.source.trial(number)
        (self.out / trial.name).mkdir(exist_ok=True)
        told = {"env_steps": env_steps(self.job.loop, done), "seeds": 2, "training_return": [0, 0]}
        told |= {"recent_eval_return": [score(trial.values, done)] * 2, "ended": fate}
        told |= {"diverged": [None, {"first": "loss"} if fate == DIVERGED else None]}
        (self.out / trial.name / "summary.json").write_text(json.dumps(told))


@pytest.fixture
def simulated(monkeypatch):
    Simulated.kept = []
    monkeypatch.setattr(pruned, "Wave", Simulated)
    monkeypatch.setattr(pruned, "planned", lambda sweep, workers=0: (sweep.groups(), ""))
    for name in ("picture", "parallel"):  # half the time
        monkeypatch.setattr(pruned.tables, name, lambda *args: b"")
    return Simulated.kept


def told(folder):
    return json.loads((folder / "sweep.json").read_text())


def study(folder):
    """What Optuna knows of each trial."""
    trials = search._study(folder).get_trials(deepcopy=False)
    return [(trial.state.name, trial.values, trial.params, trial.intermediate_values) for trial in trials]


def by_hand(kept, first, startup):
    """The fates of all trials by the rule of the median, chunk by chunk."""
    best, complete, fates = {}, [], []
    history = {}
    for standings, _ in kept:
        now = []
        for one in standings:
            history.setdefault(one.number, {})[one.chunks] = np.mean(one.scores)
            best[one.number] = max(best.get(one.number, -np.inf), np.mean(one.scores))
            now.append(DIVERGED if one.diverged else FINISHED if one.finished else "")
        complete += [one.number for one, fate in zip(standings, now, strict=True) if fate == FINISHED]
        for i, one in enumerate(standings):
            if not now[i] and one.chunks >= first and len(complete) >= startup:
                middle = np.median([history[number][one.chunks] for number in complete])
                now[i] = PRUNED if best[one.number] < middle else ""
        fates.append(now)
    return fates


def test_trials_below_the_median_end_and_others_begin_in_their_place(simulated, tmp_path):
    out = tmp_path / "x"
    assert main([*WORDS, "--prune", "median", "--prune-after", "2", "--out", str(out)]) == 0
    fates = [fate for _, fates in simulated for fate in fates]
    assert [fates.count(fate) > 0 for fate in (FINISHED, PRUNED, DIVERGED)] == [True] * 3
    assert len(fates) - fates.count("") == TRIALS
    assert [fates for _, fates in simulated] == by_hand(simulated, 2, TRIALS // 4)
    widths = [len(standings) for standings, _ in simulated]
    begun = [one.number for standings, _ in simulated for one in standings if one.chunks == 1]
    assert begun == [*range(TRIALS)]
    full = next(i for i, (standings, _) in enumerate(simulated) if any(one.number == 15 for one in standings))
    assert set(widths[:full]) == {AT_ONCE}, "no slot is free while there are trials left"
    assert told(out)["programs"] == [[*range(TRIALS)]]
    assert not (out / "programs").exists()
    ended = {one.number: fate for standings, all in simulated for one, fate in zip(standings, all, strict=True) if fate}
    names = {FINISHED: "COMPLETE", PRUNED: "PRUNED", DIVERGED: "FAIL"}
    for number, (state, values, params, steps) in enumerate(study(out)):
        assert state == names[ended[number]]
        assert params == [*told(out)["trials"].values()][number]
        reported = {one.chunks: np.mean(one.scores) for every, _ in simulated for one in every
                    if one.number == number and not one.diverged}  # fmt: skip
        assert steps == pytest.approx(reported)
        if state != "FAIL":
            assert values == pytest.approx([reported[max(reported)]])
    with open(out / "table.csv", newline="") as file:
        table = [*csv.DictReader(file)]
    kinds = [ended[int(row["trial"].removeprefix("trial-"))] for row in table]
    assert kinds == sorted(kinds, key=[FINISHED, PRUNED, DIVERGED].index)
    assert [row["pruned_at"] == "" for row in table] == [kind == FINISHED for kind in kinds]


def test_trials_of_other_shapes_wait_for_a_program_of_theirs(simulated, tmp_path):
    out = tmp_path / "x"
    assert main([*WORDS, *CHOICES, "--prune", "median", "--out", str(out)]) == 0
    programs, trials = told(out)["programs"], [*told(out)["trials"].values()]
    assert sorted(number for program in programs for number in program) == [*range(TRIALS)]
    assert all(len({str(trials[number]["agent.hidden"]) for number in program}) == 1 for program in programs)
    assert {tuple(values["agent.hidden"]) for values in trials} == {(8, 8), (16, 16)}
    assert max(len(program) for program in programs) > AT_ONCE, "slots were given to the next trials"
    most = max(len(standings) for standings, _ in simulated)
    assert most <= AT_ONCE
    assert all(state != "RUNNING" for state, *_ in study(out))


def test_successive_halving_judges_at_its_rungs_alone(simulated, tmp_path):
    out = tmp_path / "x"
    assert main([*WORDS, "--prune", "halving", "--out", str(out)]) == 0
    at = [one.chunks for standings, fates in simulated for one, fate in zip(standings, fates, strict=True)
          if fate == PRUNED]  # fmt: skip
    assert len(at) > TRIALS / 2
    assert set(at) == {1, 4}


PLACES = [
    (search.Study, "ask", 9), (search.Study, "tell", 3), (pruned.Search, "mark", 5), (search.Study, "report", 21),
    (search.Study, "prune", 14), (pruned.Search, "write", 7), (pruned.tables, "report", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [pytest.param(*place, id=place[1], marks=[pytest.mark.slow] * (i > 2)) for i, place in enumerate(PLACES)],
)
def test_a_search_that_was_killed_goes_on_as_it_would_have(simulated, tmp_path, monkeypatch, owner, name, call):
    words = [*WORDS, *CHOICES, "--prune", "median"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    usual, calls = getattr(owner, name), []

    def die(*args, **rest):
        calls.append(None)
        done = usual(*args, **rest) if len(calls) % 2 else None
        if len(calls) == call:
            raise KeyError("killed")
        return done if len(calls) % 2 else usual(*args, **rest)

    out = tmp_path / "broken"
    for more in ([], ["--resume"]):  # and once more on the way from there, unless that was short
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(KeyError, match="killed") if not more else suppress(KeyError):
                main([*words, "--out", str(out), *more])
        with open(out / "study.log", "ab") as file:
            file.write(b'{"op_code":6,"worker_i')  # a line that a kill cut short
    assert main([*words, "--out", str(out), "--resume"]) == 0
    for key in ("trials", "programs", "ended"):
        assert told(out)[key] == told(tmp_path / "whole")[key]
    assert study(out) == study(tmp_path / "whole")
    assert (out / "table.csv").read_text() == (tmp_path / "whole" / "table.csv").read_text()
    assert main([*words, "--out", str(out), "--resume"]) == 0, "nothing is left to do"
    assert study(out) == study(tmp_path / "whole")


SCRIPT = str(Path(__file__).parents[2] / "scripts" / "higher_or_lower.py")
CLIMBER = [
    "climber", "--agent-module", SCRIPT, "--env", f"{SCRIPT}:higher_or_lower", "--seeds", "2", "--steps", "25",
    "--loop.warmup", "0", "--loop.inner", "5", "--loop.cycles", "1", "--loop.eval-episodes", "1", "--quiet",
    "--sample", "agent.rate=1e-4..1", "--search", "optuna", "--trials", "8", "--at-once", "2", "--prune", "median",
    "--checkpoint-seconds", "0",
]  # fmt: skip


def test_a_search_that_trains_leaves_runs_and_goes_on_bitwise_where_it_was_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "enable_compilation_cache", lambda: None)
    assert main([*CLIMBER, "--out", str(tmp_path / "whole")]) == 0
    save, saves = checkpoint.save, []

    def die(path, *args, **rest):
        save(path, *args, **rest)
        saves.append(path)
        if len(saves) == 12:
            raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", die)
        with pytest.raises(KeyError, match="killed"):
            main([*CLIMBER, "--out", str(tmp_path / "broken")])
    assert len(told(tmp_path / "broken")["trials"]) < 8
    assert main([*CLIMBER, "--out", str(tmp_path / "broken"), "--resume"]) == 0
    assert told(tmp_path / "broken")["trials"] == told(tmp_path / "whole")["trials"]
    assert study(tmp_path / "broken") == study(tmp_path / "whole")
    cut = lambda path: [line.split(",")[:3] + line.split(",")[4:] for line in path.read_text().splitlines()]  # noqa: E731
    states = [state for state, *_ in study(tmp_path / "whole")]
    assert {*states} == {"COMPLETE", "PRUNED"}
    for i, state in enumerate(states):
        one, other = tmp_path / "whole" / f"trial-{i}", tmp_path / "broken" / f"trial-{i}"
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
        assert cut(one / "metrics.csv") == cut(other / "metrics.csv")
        summary = json.loads((one / "summary.json").read_text())
        assert summary.get("ended") == (PRUNED if state == "PRUNED" else None)
        assert (summary["env_steps"] < 25) == (state == "PRUNED")
    assert (tmp_path / "broken" / "table.csv").read_text() == (tmp_path / "whole" / "table.csv").read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--prune", "mean"], ["--prune"]),
        (["--prune", "median", "--prune-after", "6"], ["--prune-after must be below the 6 chunks", "got 6"]),
        (["--prune", "median", "--prune-after", "0"], ["--prune-after must be at least 1"]),
        (["--prune", "median", "--set", "loop.inner=5,10"], ["loop.inner must not be varied with --prune"]),
        (["--prune", "median", "--search", "pbt"], ["--prune must be none for --search pbt"]),
        (["--prune", "halving", "--search", "none"], ["--prune must be none for --search none"]),
    ],
)
def test_wrong_flags_are_named(words, named, capsys, tmp_path):
    assert main([*WORDS, *words, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert [word for word in named if word not in said] == []
    assert not (tmp_path / "x").exists()


def test_a_search_resumed_without_its_pruning_is_refused(simulated, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x")]
    assert main([*WORDS, "--prune", "median", *out]) == 0
    capsys.readouterr()
    assert main([*WORDS, *out, "--resume"]) == 2
    assert "prune is 'median' there" in capsys.readouterr().err
    (tmp_path / "x" / "study.log").write_bytes(b"")
    assert main([*WORDS, "--prune", "median", *out, "--resume"]) == 2
    assert "it has 0: it was changed" in capsys.readouterr().err
