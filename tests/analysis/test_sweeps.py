"""Trials ranked, against hand-computed numbers."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mbrl_jax.analysis.sweeps import Trial, as_csv, axis, improvement, parallel, picture, ranked, read, report, table


def trial(name, scores, seeds=None, **values):
    return Trial(name, values or {"agent.lr": 0.1}, np.array(scores, float), len(scores) if seeds is None else seeds)


def test_probability_of_improvement_is_the_share_of_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 7), rng.integers(0, 5, 6)
    share = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert improvement(a, b) == pytest.approx(share)
    assert improvement(a, a) == 0.5
    assert improvement([1.0], [1.0]) == 0.5
    assert improvement([3.0, 2.0], [1.0]) == 1.0
    assert np.isnan(improvement([], b))


def test_trials_with_diverged_seeds_come_last():
    order = ranked(
        [trial("lost", [], 4), trial("part", [99, 99], 4), trial("low", [1, 2, 3, 4]), trial("high", [5, 6, 7, 100])]
    )
    assert [one.name for one in order] == ["high", "low", "part", "lost"]
    assert order[0].middle == 6.5
    lines = table(order).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["1", "high"], ["2", "low"], ["3", "part"], ["4", "lost"]]
    assert "2 of 4" in lines[3]
    assert "diverged" in lines[4]
    rows = [line.split(",") for line in as_csv(order).splitlines()]
    assert rows[0] == ["rank", "trial", "agent.lr", "seeds", "diverged", "iqm", "low", "high", "better_than_next"]
    assert rows[1][:6] == ["1", "high", "0.1", "4", "0", "6.5"]
    assert rows[1][8] == "1"
    assert rows[4] == ["4", "lost", "0.1", "4", "4", "", "", "", ""]


def test_the_picture_has_a_panel_for_each_setting():
    order = [trial(str(i), [i, i + 1.0], **{"agent.lr": 10.0**-i, "agent.hidden": [8 * i, 8]}) for i in range(1, 4)]
    one = Image.open(io.BytesIO(picture([trial("a", [1.0])], "x"))).size
    two = Image.open(io.BytesIO(picture(order, "x"))).size
    assert two[0] > one[0]
    assert picture([trial("a", [], 2)], "all diverged")[:4] == b"\x89PNG"


def test_axes_of_parallel_coordinates():
    place, marks = axis([1e-4, 1e-3, 1e-2])
    np.testing.assert_allclose([place(x) for x in (1e-4, 1e-3, 1e-2)], [0, 0.5, 1])
    assert [words for _, words in marks] == ["0.0001", "0.001", "0.01"]
    place, marks = axis([0.9, 0.95, 1.0])
    assert place(0.925) == pytest.approx(0.25)
    place, marks = axis([[64, 64], [8, 8]])
    assert place([8, 8]) != place([64, 64])
    assert [words for _, words in marks] == ["64x64", "8x8"]
    assert axis([3, 3])[0](3) == 0.5


def test_parallel_coordinates_show_the_best_trial_in_a_colour_of_its_own():
    order = [trial(str(i), [-i, -i - 1.0], **{"agent.lr": 10.0**-i, "agent.hidden": [8 * i, 8]}) for i in range(1, 4)]
    found = Image.open(io.BytesIO(parallel(order, "x"))).convert("RGB")
    count = lambda shown, colour: sum(n for n, pixel in shown.getcolors(2**24) if pixel == colour)  # noqa: E731
    best = (0xD5, 0x5E, 0x00)
    assert count(found, best) > 1000
    lost = Image.open(io.BytesIO(parallel([trial("a", [], 2)], "all diverged"))).convert("RGB")
    assert count(lost, best) == 0


def test_a_folder_is_read(tmp_path):
    asked = {"algo": "sac", "env": "X", "seeds": 2, "steps": 40}
    trials = {name: {"agent.lr": 1.0} for name in ("trial-0", "trial-1", "trial-2", "trial-3")}
    (tmp_path / "sweep.json").write_text(json.dumps({"asked": asked, "trials": trials}))
    fates = {"trial-0": [None, {"env_steps": 3, "first": "loss"}], "trial-1": [None, None]}
    fates |= {"trial-2": [None, None]}
    for name, fate in fates.items():
        (tmp_path / name).mkdir()
        steps = 39 if name == "trial-2" else 41  # the third was stopped
        told = {
            "env_steps": steps,
            "seeds": 2,
            "recent_eval_return": [1.0, 5.0],
            "training_return": [7, 7],
            "diverged": fate,
        }
        (tmp_path / name / "summary.json").write_text(json.dumps(told))
    assert [one.scores.tolist() for one in read(tmp_path)] == [[1.0], [1.0, 5.0]]
    said = report(tmp_path)
    assert said.splitlines()[1].split()[1] == "trial-1"
    assert (tmp_path / "table.csv").read_text().splitlines()[1].startswith("1,trial-1,1,2,0,3,")
    assert {path.name for path in tmp_path.glob("*.png")} == {"response.png", "parallel.png"}


def test_pruned_trials_follow_those_that_came_to_their_end():
    cut = lambda name, at, scores: trial(name, scores)._replace(pruned=at)  # noqa: E731
    order = ranked([cut("short", 1000, [9, 9]), cut("better", 2000, [5, 5]), trial("whole", [1, 2]),
                    cut("longer", 2000, [4, 4]), trial("lost", [1], 2)])  # fmt: skip
    assert [one.name for one in order] == ["whole", "better", "longer", "short", "lost"]
    lines = [line.split() for line in table(order).splitlines()]
    assert lines[0][-1] == "status"
    assert [line[-1] for line in lines[1:]] == ["finished", "2,000", "2,000", "1,000", "finished"]
    rows = [line.split(",") for line in as_csv(order).splitlines()]
    assert rows[0][-2:] == ["better_than_next", "pruned_at"]
    assert [row[-2:] for row in rows[1:]] == [["", ""], ["1", "2000"], ["", "2000"], ["", "1000"], ["", ""]]
    assert picture(order, "x")[:4] == parallel(order, "x")[:4] == b"\x89PNG"
