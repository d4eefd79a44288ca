"""Host environments seen as pictures: a camera in place of the observation, grey or of another size.

Pictures are made where an environment is stepped, so that processes send small ones (`core.images` in NumPy).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mbrl_jax.envs.host import One

if TYPE_CHECKING:
    from mbrl_jax.core.types import Box

SIZE, SMALLEST, LARGEST = 64, 8, 1024
"""Pixels of a side: where a name says nothing, and those it may say."""


class View(NamedTuple):
    """How an environment is seen."""

    size: int  # pixels of a side
    grey: bool = False  # one channel in place of three

    @property
    def suffix(self) -> str:
        """What names end in: "-pixels-84-grey"."""
        return f"-pixels{'' if self.size == SIZE else f'-{self.size}'}{'-grey' if self.grey else ''}"


def viewed(name: str) -> tuple[str, View | None]:
    """What "NAME-pixels", "NAME-pixels-84" or "NAME-pixels-84-grey" shows, and how.

    Args:
      name: of an environment.
    Returns:
      the environment's own name, and the view; None where there is none.
    Raises:
      ValueError: a size that cannot be.
    """
    found = re.fullmatch(r"(.+)-pixels(-\d+)?(-grey)?", name)
    if found is None:
        return name, None
    size = int(found[2][1:]) if found[2] else SIZE
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"env must have pictures of {SMALLEST} to {LARGEST} pixels a side, got {name!r}")
    return found[1], View(size, found[3] is not None)


def space_of(view: View) -> Box:
    """The space of a view's pictures: bytes [size, size, 3], or [size, size, 1] in grey."""
    from mbrl_jax.core.types import Box

    return Box((view.size, view.size, 1 if view.grey else 3), 0, 255, np.uint8)


def through(make: Callable[[], One], view: View, pictures: bool) -> One:
    """An environment seen in a view; a `functools.partial` of it can be pickled if `make` can.

    Args:
      make: () -> One.
      view: how it is seen.
      pictures: whether its observations are pictures already; else they come from its `render`.
    """
    one = make()
    newest: list[Any] = [None]

    def observe() -> np.ndarray:
        return seen(newest[0] if pictures or one.render is None else one.render(), view)

    def reset(seed: int) -> np.ndarray:
        newest[0] = one.reset(seed)
        return observe()

    def step(action: Any) -> tuple[Any, float, float, bool]:
        newest[0], reward, discount, last = one.step(action)
        return None, reward, discount, last

    return one._replace(reset=reset, step=step, observe=observe)


def check_drawn(make: Callable[[], One], name: str) -> None:
    """Draws an environment once, so that one that cannot be drawn is found before a run starts.

    Args:
      make: () -> One, seen through a view.
      name: of the environment.
    Raises:
      ValueError: it cannot be drawn.
    """
    try:
        one = make()
        try:
            one.reset(0)
        finally:
            one.close()
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        hint = f"; MUJOCO_GL is {os.environ.get('MUJOCO_GL', 'not set')}: MuJoCo draws through EGL (libegl1), or OSMesa"
        raise ValueError(f"env {name} cannot be drawn: {type(error).__name__}: {text}{hint}") from error


def seen(image: Any, view: View) -> np.ndarray:
    """A picture in the size and the colours of a view.

    Args:
      image: uint8 [H, W, 3] or [H, W, 1].
      view: how it is seen.
    Returns:
      uint8 [size, size, 3], or [size, size, 1] in grey.
    Raises:
      ValueError: it is no picture.
    """
    from mbrl_jax.core import images

    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"a picture must be uint8 [H, W, 3] or [H, W, 1], got {array.dtype}{list(array.shape)}")
    array = images.grey(array) if view.grey else np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
    return array if array.shape[:2] == (view.size, view.size) else images.resize(array, view.size, view.size)
