"""Compiled programs kept on disk from one process to the next."""

from __future__ import annotations

import os
from pathlib import Path


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
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mbrl_jax"
        folder = base if folder is None else Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
