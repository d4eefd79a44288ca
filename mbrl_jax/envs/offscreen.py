"""Drawing environments without a display."""

from __future__ import annotations

import importlib
import os
import sys


def offscreen() -> None:
    """Has MuJoCo and pygame draw without a display, here and in processes begun, where nothing else is set.

    On Linux `MUJOCO_GL` becomes `egl` where EGL can be loaded, and `SDL_VIDEODRIVER` `dummy` where there is no display;
    `SDL_AUDIODRIVER` becomes `dummy`.
    """
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
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
