"""A page of the docs for each agent, made from the code: paper and equations, where each loss is, every setting.

`mkdocs_hooks.py` adds them to the site. What an agent's metrics mean, and its results, are on
`docs/reference/agents.md`; the values that they had come from a recorded run.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib
import inspect
import json
import re
import statistics
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OVERVIEW = ROOT / "docs" / "reference" / "agents.md"
RECORDED = {
    "q_learning": "dynamaze-q-learning", "dyna_q": "dynamaze-dyna-q", "dyna_q_plus": "dynamaze-dyna-q-plus",
    "sweeping": "dynamaze-sweeping", "dqn": "cartpole-dqn", "dyna_dqn": "cartpole-dyna-10", "ppo": "cartpole-ppo",
    "sac": "pendulum-sac", "mbpo": "pendulum-mbpo", "pets": "pendulum-pets", "alphazero": "tictactoe-alphazero",
    "muzero": "cartpole-muzero", "dreamer_v1": "pendulum-dreamer-v1", "dreamer_v2": "cartpole-dreamer-v2",
    "dreamer_v3": "pendulum-dreamer-v3", "world_models": "pendulum-world-models", "tdmpc2": "pendulum-tdmpc2",
}  # fmt: skip
"""The run under `results/` that shows what values an agent's metrics have."""
SHARED = ("seed", "env_steps", "updates", "wall_seconds", "episodes")
"""Columns of every `metrics.csv` that say nothing of how well it learns."""
REPLAY = {"transitions": "single transitions", "latest": "the newest trajectory", "windows": "windows of steps"}


def pages() -> dict[str, str]:
    """Path in `docs/` -> Markdown, for every agent."""
    from mbrl_jax.presets.registry import AGENTS

    return {f"reference/agent/{name}.md": page(name) for name in AGENTS}


def page(name: str) -> str:
    """An agent's page.

    Args:
      name: in `AGENTS`.
    """
    from mbrl_jax.presets.registry import AGENTS

    entry = AGENTS[name]
    module = home(name)
    section = section_of(name)
    parts = [
        f"# {name}",
        f"{entry.summary[0].upper()}{entry.summary[1:]}.",
        table(["", ""], takes(entry)),
        f"Metrics, differences and results: [Agents](../agents.md#{anchor(section)}). "
        f"Functions in full: [API](../api/agents.md#{module}).",
        "## Paper and equations",
        equations(module),
        "## Where each loss and update is",
        table(["function", "where", "what it is"], losses(section)),
        "## Settings",
        f"`mbrl-jax train {name} --env ENV --help` shows the defaults for an environment. Here are those of the "
        f"settings' class{'; what presets change, for other tasks too, stands below' * bool(presets(name))}.",
        table(["flag", "default", "allowed", "what it is"], settings(entry.config())),
        *presets(name),
        *expected(name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def home(name: str) -> str:
    """The module of an agent's settings, equations and `make`."""
    from mbrl_jax.presets.registry import AGENTS

    return str(AGENTS[name].config_part).partition(":")[0]


def takes(entry: Any) -> list[list[str]]:
    """What an agent can handle, in rows.

    Args:
      entry: of `AGENTS`.
    """
    actions = [*entry.action_kinds, *(["vectors of discrete ones"] if entry.factored else [])]
    if entry.table:
        seen = ["numbered states"]
    elif entry.simulator:
        seen = ["the simulator's state"]
    else:
        seen = ["vectors", "numbers, as one-hot vectors"]
        seen += ["planes", "images"] if entry.planes else ["images"] if entry.images else []
        seen += ["dicts of arrays"] if entry.dicts else []
    rows = [["actions", ", ".join(actions)], ["observations", ", ".join(seen)], ["learns from", REPLAY[entry.replay]]]
    rows += [["model", "the simulator itself" if entry.simulator else "learned" if entry.model_part else "none"]]
    return rows + ([["games", "illegal actions and a second player"]] if entry.games else [])


def equations(module: str) -> str:
    """A module's docstring, its indented equations as code."""
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    return re.sub(r"(?m)^(    .*\n?)+", lambda block: f"```text\n{textwrap.dedent(block[0]).rstrip()}\n```\n", text)


@cache
def sections() -> dict[str, str]:
    """The sections of the overview by title."""
    found = re.split(r"(?m)^## (.+)$", OVERVIEW.read_text())
    return dict(zip(found[1::2], found[2::2], strict=True))


def section_of(name: str) -> str:
    """The title of an agent's section."""
    return next(title for title in sections() if name in title.split())


def anchor(title: str) -> str:
    """A title's anchor."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def losses(section: str) -> list[list[str]]:
    """The functions that a section names under "Losses and updates", each with its file and line.

    Args:
      section: a title of the overview.
    """
    bullet = re.search(r"(?ms)^- \*\*Losses and updates\*\*: (.*?)(?=^- |\Z)", sections()[section])
    named = re.findall(r"`(mbrl_jax[\w.]+)`\s+\(([^)]+)\)", bullet[1] if bullet else "")
    return [
        [f"`{name}`", f"`{where}`", what]
        for module, names in named
        for name in re.findall(r"`(\w+)`", names)
        for where, what in [definition(module, name)]
    ]


def definition(module: str, name: str) -> tuple[str, str]:
    """Where a function is, as "file:line", and the first sentence of its docstring.

    Args:
      module: it is in.
      name: of the function.
    Raises:
      ValueError: the module has no such function.
    """
    path = ROOT / module.replace(".", "/")
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = (ast.get_docstring(node) or "").partition("\n\n")[0]
            return f"{path.relative_to(ROOT)}:{node.lineno}", " ".join(first.split())
    raise ValueError(f"{module} has no function {name}")


def settings(config: Any, prefix: str = "agent.") -> list[list[str]]:
    """Every setting of a config, with its default, its allowed values and its help.

    Args:
      config: an instance.
      prefix: of the flags.
    """
    from mbrl_jax.core.config import describe

    rows: list[list[str]] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            rows += settings(value, f"{prefix}{field.name}.")
            continue
        limits = field.metadata.get("limits", {})
        flag = f"--{prefix}{field.name}".replace("_", "-")
        rows.append([f"`{flag}`", shown(value), describe(limits) if limits else "", field.metadata.get("help", "")])
    return rows


def presets(name: str) -> list[str]:
    """The settings that differ in particular environments.

    Args:
      name: of the agent.
    """
    from mbrl_jax.presets.settings import TABLES

    own = {env: changes for env, changes in TABLES.get(name, {}).items() if changes}
    if not own:
        return []
    rows = [
        [f"`{env}`" if env else "any other", ", ".join(f"`{key}` {shown(value)}" for key, value in changes.items())]
        for env, changes in own.items()
    ]
    base = {"mbpo": "sac", "dyna_dqn": "dqn", "dyna_q": "q_learning", "sweeping": "q_learning"}.get(name)
    more = (
        f" Settings under `policy` are those of [`{base}`]({base}.md#presets) where none stands here." if base else ""
    )
    return ["## Presets", f"What an environment's preset changes.{more}", table(["environment", "settings"], rows)]


def expected(name: str) -> list[str]:
    """The values that an agent's metrics had in a recorded run, early, half way and at the end.

    Args:
      name: of the agent.
    """
    if name not in RECORDED:
        return []
    folder = ROOT / "results" / RECORDED[name]
    told = json.loads((folder / "config.json").read_text())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = sorted({int(row["env_steps"]) for row in rows})
    at = [steps[0], steps[len(steps) // 2], steps[-1]]
    columns = [column for column in rows[0] if column not in SHARED]
    cells = [
        [f"`{column}`", *(middle([row[column] for row in rows if int(row["env_steps"]) == step]) for step in at)]
        for column in columns
    ]
    run, task = f"[`{folder.name}`](../../../results/{folder.name}/metrics.csv)", told["env"]
    return [
        "## Values to expect",
        f"Medians over the {told['seeds']} seeds of {run}, on `{task}`, of the chunks that end after so many real "
        f"steps. What each column is: [Agents](../agents.md#{anchor(section_of(name))}). Other tasks have other "
        "values; what matters is which way they go.",
        table(["column", *(f"{step:,} steps" for step in at)], cells),
    ]


def middle(cells: list[str]) -> str:
    """The median of the cells that are not empty, as text; "-" where all are."""
    values = [float(cell) for cell in cells if cell]
    if not values:
        return "-"
    found = statistics.median(values)
    return f"{found:,.0f}" if abs(found) >= 1_000 else f"{found:.3g}"


def shown(value: Any) -> str:
    """A setting's value as text."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
