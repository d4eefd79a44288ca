"""How a command ends: what the user can mend is one line on stderr and exit code 2."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def guarded(work: Callable[[], int]) -> int:
    """Runs a command; a mistake in the program itself keeps its traceback.

    Args:
      work: the command; returns its exit code, and raises ValueError or OSError for what the user can mend.
    Returns:
      the exit code; 2 where the command cannot be carried out. KeyboardInterrupt ends the process with 130.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal does not have ends no run
            stream.reconfigure(errors="replace")
    try:
        return work()
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last checkpoint, if there is one", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # compiled code may still be at work on another thread, and cannot be called off
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if PACKAGE not in Path(last).resolve().parents:
            raise
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
    except BrokenPipeError:  # who read the output has gone, `head` say: nothing can be printed any more, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2
