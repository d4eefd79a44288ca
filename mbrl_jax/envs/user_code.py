"""Modules of the user's own: imported by name, or from a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def imported(part: Any) -> Any:
    """What "module:name" names, imported; anything else unchanged."""
    if not isinstance(part, str):
        return part
    module, _, name = part.partition(":")
    return getattr(importlib.import_module(module), name)


def import_user_module(where: str, flag: str) -> tuple[ModuleType, str]:
    """Imports a module of the user's.

    A module is imported once in a process. A file's folder is added to the end of the path that modules are searched
    in, so that the file finds the modules beside it.

    Args:
      where: "package.module", or the path of a file that ends in ".py". A name that is not found may also be that of a
        file in the current folder.
      flag: the setting that named it, which begins every message.
    Returns:
      the module; what names it from any folder: `where`, or the absolute path of the file.
    Raises:
      ValueError: there is no such module or file, or another module has the file's name. What the module itself raises
        passes unchanged.
    """
    if not where.endswith(".py"):
        beside = Path.cwd() / f"{where}.py"
        known = sys.modules.get(where)
        if "." not in where and beside.is_file() and (known is None or getattr(known, "__file__", "") == str(beside)):
            found = importlib.util.find_spec(where) if known is None else None
            if found is None or found.origin == str(beside):
                return _import_file(beside, where, flag), str(beside)
        try:
            return importlib.import_module(where), where
        except ModuleNotFoundError as error:
            if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            raise ValueError(f"{flag}: there is no module {where!r}") from error
    try:
        path = Path(where).expanduser().resolve()
    except RuntimeError as error:  # "~name" of a user who does not exist
        raise ValueError(f"{flag}: {where} is in the home of a user who does not exist") from error
    if not path.is_file():
        raise ValueError(f"{flag}: there is no file {where}")
    return _import_file(path, where, flag), str(path)


def _import_file(path: Path, where: str, flag: str) -> ModuleType:
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) != str(path):
            raise ValueError(f"{flag}: {where} must have another name, as there is a module {name!r}")
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
