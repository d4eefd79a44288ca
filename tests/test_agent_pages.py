"""The pages that are made from the code say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import agent_pages
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


def test_the_pages_are_those_of_all_agents():
    assert [path.split("/")[-1] for path in agent_pages.pages()] == [f"{name}.md" for name in AGENTS]
    with pytest.raises(ValueError, match=r"mbrl_jax\.agents\.sac has no function nothing"):
        agent_pages.definition("mbrl_jax.agents.sac", "nothing")
