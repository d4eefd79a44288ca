"""`mbrl-jax envs`: the environments there are, or one of them, described and checked."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import Any

from mbrl_jax.cli.guard import guarded
from mbrl_jax.cli.parser import Parser
from mbrl_jax.envs import registry
from mbrl_jax.envs.own import FORM

PROG = "mbrl-jax envs"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Lists environments, or describes and checks one.

    Args:
      argv: the words after the program's name; those of this process where None.
      prog: how the program is called, for its help.
    Returns:
      the exit code: 0 done, 1 the environment has a fault, 2 a command that cannot be carried out.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _envs(words, prog), lambda message: message.replace("env: ", "", 1))


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
    libraries = [
        {
            "library": name, "example": entry.example, "summary": entry.summary, "extra": entry.extra,
            "installed": importlib.util.find_spec(entry.package) is not None,
        }
        for name, entry in registry.LIBRARIES.items()
    ]  # fmt: skip
    return {"environments": named, "libraries": libraries}


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
    rows = [("name", "observation", "action", "time limit")]
    rows += [
        (row["name"], row["obs"], row["action"], f"{row['time_limit'] or 'none'}") for row in every["environments"]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    further = [("NAME", "any other environment of gymnax, by its name", "installed")]
    further += [("NAME-pgx", "games of pgx: connect_four-pgx", _state("pgx", "games"))]
    further += [
        (f"{row['library']}:NAME", f"{row['summary']}: {row['example']}", _state(entry.package, entry.extra))
        for row, entry in zip(every["libraries"], registry.LIBRARIES.values(), strict=True)
    ]
    further += [("NAME-x4", "any of them with each action repeated 4 times, by any number", "")]
    further += [(FORM, "your own", "")]
    wide = min(max(len(row[0]) for row in further[:-1]), 40)
    lines += ["", "further names:"]
    lines += [f"  {name:<{wide}}  {text}{f' ({state})' if state else ''}" for name, text, state in further]
    return "\n".join([*lines, "", "One of them in full, and whether it keeps the contract: mbrl-jax envs NAME"])


def _state(package: str, extra: str) -> str:
    """Whether a library is there, or what installs it."""
    return "installed" if importlib.util.find_spec(package) is not None else f"pip install 'mbrl_jax[{extra}]'"
