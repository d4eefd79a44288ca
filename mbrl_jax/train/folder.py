"""A run's folder: one writer at a time, and nothing written or removed but what lies in it.

The lock is the operating system's on an open file (`filelock`): it ends with the process that holds it, however that
ends. On network file systems it holds as far as the server passes locks on.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class DiskError(OSError):
    """A run's folder cannot be written any more: the disk is full, read-only or gone.

    Args:
      error: what the system said.
      path: what could not be written.
      left: what there is to go on from, in words.
    """

    def __init__(self, error: OSError, path: str, left: str):
        super().__init__(error.errno, error.strerror or str(error), path)
        self.left = left


class InUse(ValueError):
    """Another process writes in a folder.

    Args:
      folder: of both.
      owner: the other process, in words.
    """

    def __init__(self, folder: Path, owner: str):
        super().__init__(f"--out {folder} is in use by {owner}")
        self.owner = owner


LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def claimed(folder: Path | str, wait: float = 0.0) -> Iterator[Path]:
    """Makes this process the one writer of a folder for the time of a `with` block.

    Args:
      folder: made where it is missing.
      wait: seconds to wait for another process to leave it.
    Yields:
      the folder.
    Raises:
      InUse: a ValueError; another process writes there.
      ValueError: the folder is no folder.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} must be a folder")
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise InUse(folder, _owner(folder)) from error
    try:
        write_real(folder / OWNER, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
        yield folder
    except BaseException:
        if fresh:  # a refused command leaves nothing behind
            remove_empty(folder)
        raise
    finally:
        with suppress(OSError):  # the disk may be full, or gone
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def remove_empty(folder: Path) -> None:
    """Removes a folder in which there is nothing but the lock of `claimed`.

    Args:
      folder: of a run that did not come to write anything.
    """
    with suppress(OSError):
        if all(path.name in (LOCK, OWNER) for path in folder.iterdir()):
            shutil.rmtree(folder)


def _owner(folder: Path) -> str:
    try:
        told = json.loads((folder / OWNER).read_text())
        return f"process {int(told['process'])} on host {told['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock and has not written its name yet
        return "another process"


def new_folder(base: Path | str) -> Path:
    """A new folder named `base`, or `base-2`, `base-3`, ...: made in one step, so that no two processes share one."""
    base = Path(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        path = base if count == 1 else base.with_name(f"{base.name}-{count}")
        try:
            path.mkdir()
        except FileExistsError:
            count += 1
        else:
            return path


def write_real(path: Path | str, data: bytes) -> None:
    """Replaces a file in one step: written beside it, flushed to disk, then renamed over it.

    Neither the file nor the one beside it is followed where it is a link.

    Raises:
      OSError: it cannot be written; the file is as it was.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    with suppress(FileNotFoundError):  # left by a kill, or a link laid there
        beside.unlink()
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def remove_real(path: Path, within: Path) -> None:
    """Removes a folder that really lies in another; a link is left alone.

    Args:
      path: what to remove.
      within: the folder that it must lie in once all links are followed.
    Raises:
      ValueError: it is a link, or lies elsewhere.
    """
    if path.is_symlink() or path.resolve().parent != within.resolve():
        raise ValueError(f"{path} must be a real folder in {within} to be removed")
    shutil.rmtree(path, ignore_errors=True)
