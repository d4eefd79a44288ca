"""The table of the offline agents: scores from the committed rows, and rows from data sets."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from figures import offline

from mbrl_jax.buffers import datasets


def write(folder, returns):
    folder.mkdir(exist_ok=True)
    with (folder / "references.csv").open("w") as file:
        file.write("env,data,rows,episodes,return\nPendulum-v1,random,9,9,-1000\nPendulum-v1,expert,9,9,-200\n")
    with (folder / "returns.csv").open("w") as file:
        file.write("env,data,agent,seed,updates,return\n")
        file.writelines(
            f"Pendulum-v1,{d},{a},{i},9,{r}\n" for (d, a), own in returns.items() for i, r in enumerate(own)
        )


def test_scores_are_0_for_random_and_100_for_expert(tmp_path, capsys):
    rows = {("random", "bc"): [-1000, -1000], ("random", "mopo"): [-600, -400], ("expert", "bc"): [-200, -280]}
    write(tmp_path, rows)
    scores = offline.offline_figure(tmp_path)
    np.testing.assert_allclose(scores["random"]["bc"], [0, 0])
    np.testing.assert_allclose(scores["random"]["mopo"], [50, 75])
    np.testing.assert_allclose(scores["expert"]["bc"], [100, 90])
    said = capsys.readouterr().out
    assert "62 [50, 75]" in said
    assert (tmp_path / "offline.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="--runs must name a folder of data sets: there is no"):
        offline.offline_figure(tmp_path / "none")


@pytest.mark.slow
def test_rows_are_written_as_each_agent_has_ended_and_only_its_own_replaced(tmp_path):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(61, 3))
    arrays = {"obs": obs[:-1], "action": rng.uniform(-1, 1, (60, 1)), "reward": -np.ones(60), "next_obs": obs[1:]}
    for name, mean in {"random": -1000.0, "medium": -500.0, "mixed": -600.0, "expert": -100.0}.items():
        about = {"episodes": 3, "mean_return": mean}
        made = datasets.checked(arrays | {"terminated": np.zeros(60), "truncated": np.zeros(60)}, about=about)
        datasets.save(tmp_path / f"{name}.npz", made)
    how = {"seeds": 2, "runs": tmp_path, "updates": 2, "episodes": 1}
    offline.offline_figure(tmp_path / "out", agents=("bc", "iql"), **how)
    first = (tmp_path / "out" / "returns.csv").read_text().splitlines()
    offline.offline_figure(tmp_path / "out", agents=("bc",), **how)
    with (tmp_path / "out" / "returns.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(first) - 1 == 2 * 2 * 4
    assert {row["agent"] for row in rows} == {"bc", "iql"}
    assert sorted(first) == sorted((tmp_path / "out" / "returns.csv").read_text().splitlines())  # the same numbers
