"""`mbrl-jax envs`: the environments there are, or one of them, described and checked."""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any

from mbrl_jax.cli.guard import program
from mbrl_jax.cli.parser import Parser
from mbrl_jax.envs import registry
from mbrl_jax.envs.own import FORM

PROG = "mbrl-jax envs"
INSTALL = "pip install 'mbrl_jax[{}]'"


def _envs(words: list[str], prog: str) -> int:
    parser = Parser(prog=prog, description="Lists the environments; with a name, describes and checks one.")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help=f"an environment, {FORM}, or LIBRARY: to list its names"
    )
    parser.add_argument("--check", action="store_true", help="look for faults in one of a library too: takes a minute")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parsed(words)
    if isinstance(args, int):
        return args
    if args.name is None:
        print(json.dumps(listed(), indent=2) if args.json else _overview())
        return 0
    if args.name.endswith(":") and args.name[:-1] in registry.LIBRARIES:
        print("\n".join(f"{args.name}{name}" for name in _names(args.name[:-1])))
        return 0
    found, faults = described(args.name, args.check)
    if args.json:
        print(json.dumps(found | {"faults": faults}, indent=2))
    else:
        width = max(map(len, found))
        print("\n".join(f"{name.replace('_', ' '):<{width}}  {value}" for name, value in found.items()))
        what = ["not looked for; --check does"] if faults is None else faults or ["none was found"]
        print("\n".join(f"{'fault':<{width}}  {fault}" for fault in what))
    return 1 if faults else 0


def listed() -> dict[str, list[dict[str, Any]]]:
    """All environments with a name of their own, and the libraries that further names come from.

    Nothing is imported for those that the library describes itself.
    """
    named = []
    for name in registry.ENVS:
        known = registry.ABOUT.get(name) or registry.about(registry.make_env(name).spec)
        named.append({"name": name, **known._asdict()})
    libraries = []
    for library, entry in registry.LIBRARIES.items():
        examples = []
        for name, known in entry.examples.items():
            extra, modules = registry.needs(f"{library}:{name}")
            there = all(map(_importable, modules))
            examples.append({"name": f"{library}:{name}", **known._asdict(), "extra": extra, "installed": there})
        libraries.append(
            {
                "library": library, "summary": entry.summary, "extra": entry.extra, "steps_in_jax": not entry.host,
                "installed": _importable(registry.EXTRAS[entry.extra]), "examples": examples,
            }
        )  # fmt: skip
    return {"environments": named, "libraries": libraries}


def _importable(module: str) -> bool:
    """Whether a module is there; it is not imported."""
    return importlib.util.find_spec(module) is not None


def described(name: str, check: bool = False) -> tuple[dict[str, Any], list[str] | None]:
    """One environment in words, and what is wrong with it.

    Args:
      name: of any environment.
      check: look for faults in one of a library too, which compiles for long.
    Returns:
      what it is, by name; its faults, None where they were not looked for.
    Raises:
      ValueError: no environment has this name.
    """
    from mbrl_jax.core.types import Env
    from mbrl_jax.envs.check import find_faults

    env = registry.make_env(name)
    checked = isinstance(env, Env) and (check or name.partition(":")[0] not in registry.LIBRARIES)
    known = registry.about(env.spec)
    found = {
        "name": name,
        "observation": known.obs,
        "action": known.action,
        "time_limit": env.spec.time_limit if env.spec.time_limit is not None else "none",
        "terminates": "yes" if env.spec.terminates else "no, episodes end at the time limit alone",
        "can_be_drawn": "yes" if (env.render is not None if isinstance(env, Env) else env.drawable) else "no",
    }
    return found, find_faults(env) if checked else None


def _names(library: str) -> list[str]:
    module = registry.LIBRARIES[library].make.partition(":")[0]
    return importlib.import_module(module).names()


def _overview() -> str:
    every = listed()
    rows = [("name", "observation", "action", "time limit", "")]
    rows += [_row(row) for row in every["environments"]]
    for library in every["libraries"]:
        rows.append(("",) * 5)
        rows.append((f"{library['library']}:NAME", library["summary"], "", "", ""))
        rows += [_row(row) for row in library["examples"]]
    widths = [max(len(row[i]) for row in rows if row[2] or i == 0) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    games = INSTALL.format("games")
    further = [("NAME", f"any other environment of gymnax by its name, and any of {', '.join(registry.LIBRARIES)}")]
    further += [("NAME-pgx", f"games of pgx: connect_four-pgx{'' if _importable('pgx') else f' ({games})'}")]
    further += [("NAME-x4", "any of them with each action repeated 4 times, by any number")]
    further += [("NAME-stack3", "the last 3 frames as one, of images and planes")]
    further += [("LIBRARY:NAME-pixels-84-grey", "of gymnasium and dm_control: as a grey picture of 84 x 84")]
    further += [(FORM, "your own")]
    wide = min(max(len(row[0]) for row in further[:-1]), 40)
    lines += ["", "further names:"]
    lines += [f"  {name:<{wide}}  {text}" for name, text in further]
    lines += ["", "One of them in full, and whether it keeps the contract: mbrl-jax envs NAME"]
    return "\n".join([*lines, "All names of a library: mbrl-jax envs LIBRARY:"])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    missing = "" if row.get("installed", True) else INSTALL.format(row["extra"])
    return row["name"], row["obs"], row["action"], f"{row['time_limit'] or 'none'}", missing


main = program(_envs, PROG, lambda message: message.replace("env: ", "", 1))
