"""The pages that are made from the code say what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import agent_pages
import numpy as np
import pandas as pd
import pytest

from mbrl_jax.core.config import flat
from mbrl_jax.presets.registry import AGENTS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", AGENTS)
def test_a_page_names_paper_losses_and_every_setting(name):
    text = agent_pages.page(name)
    assert text.startswith(f"# {name}\n")
    assert name == "mpc" or re.search(r"\b(19|20)\d\d\b", text), "a year, of the paper"
    flags = set(re.findall(r"^\| `--agent\.([\w.-]+)` \|", text, re.MULTILINE))
    assert flags == {setting.replace("_", "-") for setting in flat(AGENTS[name].config())}
    places = re.findall(r"^\| `(\w+)` \| `(mbrl_jax/[\w/]+\.py):(\d+)` \| \S", text, re.MULTILINE)
    for function, file, line in places:
        assert (ROOT / file).read_text().splitlines()[int(line) - 1].startswith(f"def {function}(")
    assert len(places) >= 1 or name in ("mpc", "uct")
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        assert len(re.split(r"(?<!\\)\|", row)) in (4, 5, 6)


def test_a_page_shows_the_values_that_metrics_had_in_a_recorded_run():
    text = agent_pages.page("mbpo").partition("## Values to expect")[2]
    rows = dict(re.findall(r"^\| `([\w/]+)` \| (.*) \|$", text, re.MULTILINE))
    with (ROOT / "results" / "pendulum-mbpo" / "metrics.csv").open() as file:
        table = pd.read_csv(file)
    assert set(rows) == set(table.columns) - {"seed", "env_steps", "updates", "wall_seconds", "episodes"}
    steps = sorted(set(table.env_steps))
    at = [steps[0], steps[len(steps) // 2], steps[-1]]
    assert "| column | " + " | ".join(f"{step:,} steps" for step in at) + " |" in text
    medians = table.groupby("env_steps")[["eval_return", "alpha"]].median()
    for column in medians:
        cells = [float(cell.replace(",", "")) for cell in rows[column].split(" | ")]
        np.testing.assert_allclose(cells, [medians[column][step] for step in at], rtol=5e-3)
    assert rows["return"].startswith("- | ")  # no episode has ended in the first chunk


@pytest.mark.parametrize("name", agent_pages.RECORDED)
def test_recorded_values_are_of_that_agent(name):
    assert f"`{agent_pages.RECORDED[name]}`" in agent_pages.page(name)
    config = json.loads((ROOT / "results" / agent_pages.RECORDED[name] / "config.json").read_text())
    assert config["algo"] == name


def test_the_pages_are_those_of_all_agents():
    assert [path.split("/")[-1] for path in agent_pages.pages()] == [f"{name}.md" for name in AGENTS]
    with pytest.raises(ValueError, match=r"mbrl_jax\.agents\.sac has no function nothing"):
        agent_pages.definition("mbrl_jax.agents.sac", "nothing")
