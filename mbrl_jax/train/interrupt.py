"""A clean stop: signals are handled while compiled code runs, and request a stop between calls of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


def begin(fn: Callable[[], Any]) -> Callable[..., Any]:
    """Calls `fn` on another thread.

    Args:
      fn: what to call.
    Returns:
      what waits for its end, and returns what it returned or raises what it raised; on the main thread, Python handles
      signals at once meanwhile. It takes a function without arguments, called about once a second.
    """
    box: dict[str, Any] = {}

    def call() -> None:
        try:
            box["value"] = fn()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()

    def wait(meanwhile: Callable[[], None] | None = None) -> Any:
        turns = 0
        while thread.is_alive():
            thread.join(0.05)
            turns += 1
            if meanwhile is not None and turns % 20 == 0:
                meanwhile()
        if "error" in box:
            raise box["error"]
        return box["value"]

    return wait


def aside(fn: Callable[[], Any], meanwhile: Callable[[], None] | None = None) -> Any:
    """Calls `fn` on another thread and returns what it returns.

    Python handles signals on the main thread, at once while that waits; inside compiled code it would not.

    Args:
      fn: what to call.
      meanwhile: called on this thread about once a second while that lasts.
    """
    if threading.current_thread() is not threading.main_thread():
        return fn()
    return begin(fn)(meanwhile)


class Stop:
    """A context that handles SIGINT and SIGTERM: the first sets `asked`, the second raises KeyboardInterrupt.

    Args:
      say: (text) -> None, called with a message to the user at the first signal.
    """

    def __init__(self, say: Callable[[str], None]):
        self.asked, self.say = False, say
        self.old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old[number] = signal.signal(number, self.handle)
        return self

    def handle(self, number: int, frame: Any) -> None:
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("stopping after the work under way; a second signal stops at once")

    def __exit__(self, *problem: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
