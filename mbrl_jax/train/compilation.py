"""Compiled programs kept on disk from one process to the next."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONG = 10.0
"""Seconds of compiling after which a run says that it still does."""


def enable_compilation_cache(folder: Path | str | None = None) -> None:
    """Keeps compiled programs between processes; does nothing where the folder cannot be written.

    A folder that jax already has, from `JAX_COMPILATION_CACHE_DIR` for example, is kept.

    Args:
      folder: where to keep them; `$XDG_CACHE_HOME/mbrl_jax` or `~/.cache/mbrl_jax` if None.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        folder = _base() if folder is None else Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _base() -> Path:
    """Where compiled programs are kept by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mbrl_jax"


@contextmanager
def notice(what: str, say: Callable[[str], None], after: float = LONG) -> Iterator[Callable[[float], None]]:
    """A context that says so when compiling takes long, and for how long it took the last time.

    Args:
      what: is compiled, by which its time is kept.
      say: (text) -> None.
      after: seconds.
    Yields:
      (seconds) -> None, to be called with the time that compiling took; shorter ones than `after` are not kept.
    """
    last = _times().get(what)
    hint = f"; the last time it took {last:.0f} s" if isinstance(last, int | float) else ""
    timer = threading.Timer(after, lambda: say(f"still compiling after {after:.0f} s{hint}"))
    timer.daemon = True
    timer.start()
    try:
        yield lambda seconds: _keep(what, seconds) if seconds >= after else None
    finally:
        timer.cancel()


def _file() -> Path:
    return _base() / "compile_seconds.json"


def _times() -> dict[str, float]:
    """Seconds that compiling took, by what was compiled; empty where nothing can be read."""
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(what: str, seconds: float) -> None:
    """Keeps a time; does nothing where the folder cannot be written."""
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(_times() | {what: round(seconds, 1)}))
        fresh.replace(path)
    except (OSError, RuntimeError):
        return
