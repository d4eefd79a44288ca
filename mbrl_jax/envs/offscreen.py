"""Drawing MuJoCo's worlds without a display."""

from __future__ import annotations

import importlib
import os
import sys


def offscreen() -> None:
    """Has MuJoCo draw through EGL, which needs no display: sets `MUJOCO_GL=egl` where nothing is set.

    It is set for this process and those that it starts, on Linux, where EGL can be loaded.
    """
    if os.environ.get("MUJOCO_GL") or sys.platform != "linux":
        return
    before = os.environ.get("PYOPENGL_PLATFORM")
    try:
        importlib.import_module("mujoco.egl")  # sets PYOPENGL_PLATFORM
    except (ImportError, AttributeError, OSError):  # no mujoco, or no EGL on this machine
        if before is None:
            os.environ.pop("PYOPENGL_PLATFORM", None)
        return
    os.environ["MUJOCO_GL"] = "egl"
