"""A reader's own environment by "module:function" or "file.py:function", called without arguments.

The function returns an `Env`, which is checked by `envs.check`, or a Gymnasium environment; the name may also be that
of an `Env` itself. Bounded continuous actions are scaled to [-1, 1], as those of gymnax's environments are.
"""

from __future__ import annotations

import difflib
import inspect
import re
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mbrl_jax.envs.user_code import import_user_module

if TYPE_CHECKING:
    from mbrl_jax.core.types import Env

VAR_POSITIONAL, VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
FORM = "module:function or path/to/file.py:function"
LONGEST = 4096
"""Characters of such a name at most: those of a path."""


class Named(NamedTuple):
    """Where a reader's environment comes from."""

    name: str  # "module:function" or "/absolute/path/file.py:function": names it from any folder
    made: Any  # the function, or an `Env`


def find(name: str, flag: str = "env") -> Named:
    """Imports what a name leads to, and calls nothing.

    Args:
      name: "module:function" or "path/to/file.py:function".
      flag: the setting that names it, which begins every message.
    Raises:
      ValueError: a name of another form, no such module, file or function, or what importing a module raised.
    """
    where, _, function = name.rpartition(":")
    if not where or not function.isidentifier():
        raise ValueError(f"{flag}: must be {FORM}, got {name!r}")
    if len(name) > LONGEST:
        raise ValueError(f"{flag}: must be a name of at most {LONGEST} characters, got one of {len(name)}")
    try:
        module, where = import_user_module(where, flag)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{flag}: "):
            raise
        raise ValueError(f"{flag}: importing {where} raised {blame(error, where)}") from error
    if not hasattr(module, function):
        near = difflib.get_close_matches(function, [word for word in vars(module) if word[0] != "_"], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"{flag}: there is no {function} in {where}{hint}")
    return Named(f"{where}:{function}", getattr(module, function))


def make(name: str, repeat: int = 1) -> Env:
    """A reader's environment by name.

    Args:
      name: "module:function" or "path/to/file.py:function".
      repeat: times that a Gymnasium environment repeats each action; an `Env` is not changed by it.
    Returns:
      The environment, its bounded actions scaled to [-1, 1]; named after the function where its spec has no name.
    Raises:
      ValueError: as `find`, what the function raised, or it returns no environment.
    """
    from mbrl_jax.core.types import Env

    found = find(name)
    made = _created(found)
    if is_gymnasium(made):
        return host_environment(found.name, made, repeat)
    if not isinstance(made, Env):
        raise ValueError(f"env: {name} must return an Env or a Gymnasium environment, got {_shown(made)}")
    return _in_form(made, name.rpartition(":")[2])


def is_gymnasium(made: Any) -> bool:
    """Whether an object has Gymnasium's interface: `reset`, `step` and the two spaces."""
    return all(hasattr(made, word) for word in ("reset", "step", "observation_space", "action_space"))


def host_environment(name: str, made: Any, repeat: int) -> Any:
    """What stands for a Gymnasium environment, whose steps are Python.

    Args:
      name: from any folder; `create(name)` makes further ones, in any process.
      made: the first of them.
      repeat: times that each action is repeated.
    Returns:
      a `HostEnv`.
    Raises:
      ValueError: its spaces cannot be handled.
    """
    from mbrl_jax.envs.adapters import gymnasium

    if hasattr(made, "close"):
        made.close()
    return gymnasium.from_env(partial(create, name), name, repeat)


def create(name: str) -> Any:
    """What the function of a name returns, unchanged.

    Args:
      name: "module:function" or "path/to/file.py:function".
    Raises:
      ValueError: as `find`, or what the function raised.
    """
    return _created(find(name))


def _created(found: Named) -> Any:
    """What the function returns, or the `Env` that has the name."""
    from mbrl_jax.core.types import Env

    if isinstance(found.made, Env):
        return found.made
    if not callable(found.made):
        raise ValueError(f"env: {found.name} must be a function or an Env, got {_shown(found.made)}")
    try:
        needed = [
            parameter.name
            for parameter in inspect.signature(found.made).parameters.values()
            if parameter.default is parameter.empty and parameter.kind not in (VAR_POSITIONAL, VAR_KEYWORD)
        ]
    except (TypeError, ValueError):  # a function of C code
        needed = []
    if needed:
        raise ValueError(f"env: {found.name} must be a function without arguments, it needs {', '.join(needed)}")
    try:
        return found.made()
    except Exception as error:
        raise ValueError(f"env: {found.name} raised {blame(error, found.name)}") from error


def _in_form(env: Env, function: str) -> Env:
    """The environment with actions in [-1, 1], where they are bounded, and a name."""
    import numpy as np

    from mbrl_jax.core.types import Box, Spec
    from mbrl_jax.envs import wrappers

    if env.spec.name == Spec._field_defaults["name"]:
        env = env._replace(spec=env.spec._replace(name=function))
    action = env.spec.action
    if not isinstance(action, Box):
        return env
    unit = np.all(np.asarray(action.low) == -1) and np.all(np.asarray(action.high) == 1)
    bounded = np.all(np.isfinite(action.low)) and np.all(np.isfinite(action.high))
    return wrappers.scale_action(env) if bounded and not unit else env


def blame(error: BaseException, where: str) -> str:
    """An exception in a line: its class, its message, and the line of the user's file that it came from.

    Args:
      error: what was raised.
      where: a module, file or function of the user's; the last frame in it, or else the last of all, is named.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} (line {error.lineno} of {error.filename})"
    frames = traceback.extract_tb(error.__traceback__)
    stem = Path(where.rpartition(":")[0] if re.fullmatch(r".*:\w+", where) else where).stem.rpartition(".")[2]
    theirs = [frame for frame in frames if Path(frame.filename).stem == stem] or list(frames)
    place = f" (line {theirs[-1].lineno} of {theirs[-1].filename})" if theirs else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{place}" if text else f"{type(error).__name__}{place}"


def _shown(made: Any) -> str:
    if made is None:
        return "None"
    kind = type(made)
    return f"an object of type {kind.__qualname__}" + (
        "" if kind.__module__ == "builtins" else f" of {kind.__module__}"
    )


def folder_name(name: str) -> str:
    """A word for the folder of a run: "/a/file.py:make-x2" becomes "file-make-x2".

    Args:
      name: of any environment, as `config.json` holds it.
    """
    short = name.rpartition("/")[2] if re.search(r"/.*:|\.py:", name) else name
    return re.sub(r"[^\w.+-]+", "-", short.replace(".py:", ":")).strip("-")


def title(name: str) -> str:
    """An environment's name without the folder of its file: "/a/file.py:make" becomes "file.py:make".

    Args:
      name: of any environment, as `config.json` holds it.
    """
    return name.rpartition("/")[2] if ".py:" in name else name
