"""A clean stop: signals are heard while compiled code runs, and ask for a stop between chunks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


def aside(fn: Callable[[], Any]) -> Any:
    """Calls `fn` on another thread and returns what it returns.

    Signals reach the main thread, and are heard there at once while it waits; inside compiled code they would not be.
    """
    if threading.current_thread() is not threading.main_thread():
        return fn()
    box: dict[str, Any] = {}

    def call() -> None:
        try:
            box["value"] = fn()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
    if "error" in box:
        raise box["error"]
    return box["value"]


class Stop:
    """A context that hears SIGINT and SIGTERM: the first sets `asked`, the second raises KeyboardInterrupt.

    Args:
      say: tells the user that the first was heard.
    """

    def __init__(self, say: Callable[[str], None]):
        self.asked, self.say = False, say
        self.old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old[number] = signal.signal(number, self.hear)
        return self

    def hear(self, number: int, frame: Any) -> None:
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("stopping after this chunk; once more stops at once")

    def __exit__(self, *problem: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
