"""How a command ends: what the user can mend is one line on stderr and exit code 2."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

PACKAGE = Path(__file__).parents[1]


class Main(Protocol):
    """What a subcommand's module offers."""

    def __call__(self, argv: Sequence[str] | None = None, prog: str = ...) -> int:
        """Carries a command line out.

        Args:
          argv: the words after the program's name; those of this process where None.
          prog: how the program is called, for its help.
        Returns:
          the exit code: 0 done, 1 something failed on the way, 2 a command that cannot be carried out, 130 stopped by a
          signal.
        """
        ...


def program(work: Callable[[list[str], str], int], prog: str, wording: Callable[[str], str] = str) -> Main:
    """The `main` of a subcommand.

    Args:
      work: (words, how the program is called) -> exit code; raises ValueError or OSError for what the user can mend.
      prog: how the program is called, where nobody says otherwise.
      wording: as for `guarded`.
    """
    usual = prog

    def main(argv: Sequence[str] | None = None, prog: str = usual) -> int:
        words = list(sys.argv[1:] if argv is None else argv)
        return guarded(lambda: work(words, prog), wording)

    return main


def as_flags(*names: str) -> Callable[[str], str]:
    """A wording for `program`: a message that begins with one of these names and "must" names the flag instead.

    Args:
      names: of flags, without dashes.
    """

    def wording(message: str) -> str:
        return f"--{message}" if message.partition(" must ")[0] in names else message

    return wording


def guarded(work: Callable[[], int], wording: Callable[[str], str] = str) -> int:
    """Runs a command; a mistake in the program itself keeps its traceback.

    Args:
      work: the command; returns its exit code, and raises ValueError or OSError for what the user can mend.
      wording: (message of a ValueError) -> the message in the command line's words.
    Returns:
      the exit code; 2 where the command cannot be carried out, 1 where memory or disk did not suffice or an
      environment failed. SIGINT ends the
      process with 130, at any time from the first import on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal does not have ends no run
            stream.reconfigure(errors="replace")
    try:
        with interruptible():
            return work()
    except KeyboardInterrupt:
        interrupted()
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if PACKAGE not in Path(last).resolve().parents:
            raise
        print("error: " + wording(" ".join(str(error).split())), file=sys.stderr)
    except BrokenPipeError:  # who read the output has gone, `head` say: nothing can be printed any more, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        if left := getattr(error, "left", ""):  # a `train.folder.DiskError`, in the midst of a run
            print(f"error: {error.filename}: {error.strerror}; {left}", file=sys.stderr)
            if getattr(error, "at_once", False):  # a `train.hosts.ProcessLost`: exit would wait for that process
                sys.stdout.flush()
                os._exit(1)
            return 1
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    except (MemoryError, RuntimeError) as error:
        if _is_failed_environment(error):
            print(f"error: {error}", file=sys.stderr)
            return 1
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"error: out of memory: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return 1
    return 2


def _is_failed_environment(error: BaseException) -> bool:
    types = sys.modules.get("mbrl_jax.core.types")  # loaded, if it raised it
    return types is not None and isinstance(error, types.EnvironmentFailed)


@contextmanager
def interruptible() -> Iterator[None]:
    """A context in which SIGINT ends the process at once, with 130 and one line.

    An exception would not do: raised while modules are imported, it can be lost in a library's callback. What is
    written is safe, for every file is replaced in one step. A run handles the signal itself while it lasts.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted(*_: Any) -> NoReturn:
    """Ends the process: compiled code may still be at work on another thread, and cannot be called off."""
    os.write(2, b"stopped; --resume goes on from the last checkpoint, if there is one\n")
    try:
        sys.stdout.flush()
    finally:
        os._exit(130)
