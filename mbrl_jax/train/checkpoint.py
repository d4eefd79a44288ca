"""Checkpoints: a pytree on disk, exact to the bit, random keys included, and either complete or absent.

Each checkpoint is a folder named by the chunks done, and by how far the next one has come if it has begun: `12`,
`12.300`. Orbax writes it under another name and renames it when it is complete, so a process killed at any moment
leaves the last complete one. A manifest among the arrays holds a checksum of each and what the run says of itself; a
checkpoint whose bytes differ from it is refused, and the one before it is taken.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Tree
from mbrl_jax.train.folder import remove_real

MANIFEST = "__manifest__"
NAME = re.compile(r"[0-9]{1,18}(\.[1-9][0-9]{0,17})?")
PART = "__part__"
"""What the names of the arrays of a chunk that has begun start with."""


class Place(NamedTuple):
    """Where in a run a checkpoint is."""

    chunk: int  # chunks that are complete
    position: int = 0  # how far the next one has come

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.chunk}.{self.position}" if self.position else str(self.chunk)


class DamagedError(ValueError):
    """A checkpoint that cannot be read, or whose bytes are not those that were written."""


class Found(NamedTuple):
    """The newest checkpoint that could be read."""

    chunk: int
    state: Tree
    about: dict[str, Any]  # what `save` was told of it
    damaged: list[str]  # what is wrong with each newer one
    part: Tree = ()  # of a chunk that has begun
    position: int = 0  # how far it has come


def save(
    folder: Path | str,
    chunk: int | Place,
    state: Tree,
    keep: int = 2,
    about: Mapping[str, Any] | None = None,
    part: Tree = (),
) -> None:
    """Writes a checkpoint, returns when it is complete, and then removes all but the newest `keep`.

    Args:
      folder: of one run's checkpoints; created where it is missing.
      chunk: names the checkpoint, as a place in the run if a chunk has begun; later is newer.
      state: any pytree of arrays and typed random keys.
      keep: number of checkpoints to keep, at least 1.
      about: what is written with it, as JSON takes it.
      part: what else a chunk that has begun needs.
    Raises:
      ValueError: `keep` is below 1, or the folder is a link.
      OSError: it cannot be written, because the disk is full for example; those before are as they were.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    folder = Path(folder).absolute()
    if folder.is_symlink():
        raise ValueError(f"{folder} must be a real folder, not a link")
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*orbax-checkpoint-tmp*"):  # incomplete, left by a killed process
        remove_real(path, folder)
    ocp = _orbax()
    place = Place(chunk) if isinstance(chunk, int) else chunk
    names, leaves, _ = _all_named(state, part)
    arrays = dict(zip(names, jax.device_get(leaves), strict=True))
    sums = {name: _checksum(array) for name, array in arrays.items()}
    manifest = json.dumps({"checksums": sums, "about": dict(about or {})}, sort_keys=True)
    arrays[MANIFEST] = np.frombuffer(manifest.encode(), np.uint8)
    path = folder / place.name
    try:
        with _unsaid(), _alone(ocp) as writer:
            writer.save(path, args=ocp.args.PyTreeSave(arrays), force=True)
    except Exception as error:  # storage has errors of its own
        raise _as_os_error(error, path) from error
    for old in places(folder)[:-keep]:
        remove_real(folder / old.name, folder)


def _as_os_error(error: Exception, path: Path) -> OSError:
    """What storage said, as the system says it."""
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror or str(error), str(path))
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
        if os.strerror(number).lower() in text.lower():
            return OSError(number, os.strerror(number), str(path))
    return OSError(errno.EIO, " ".join(text.split())[:200] or os.strerror(errno.EIO), str(path))


def latest(folder: Path | str) -> int | None:
    """The chunk of the newest checkpoint in a folder, None where there is none."""
    place = latest_place(folder)
    return None if place is None else place.chunk


def latest_place(folder: Path | str) -> Place | None:
    """Where the newest complete checkpoint in a folder is, None where there is none."""
    found = places(folder)
    return found[-1] if found else None


def restore(folder: Path | str, chunk: int | Place, like: Tree) -> Tree:
    """Reads a checkpoint back; of one within a chunk, the state alone.

    Args:
      folder: as given to `save`.
      chunk: which checkpoint.
      like: a pytree of the same structure, of arrays or of their shapes (`jax.eval_shape`).
    Returns:
      the saved tree, bitwise equal, on the default device.
    Raises:
      DamagedError: it cannot be read, or an array does not match its checksum.
      ValueError: there is no such checkpoint, or its contents do not fit `like`.
    """
    return _read(folder, Place(chunk) if isinstance(chunk, int) else chunk, like, None)[0]


def newest(folder: Path | str, like: Tree, part: Tree = ()) -> Found:
    """Reads the newest checkpoint that is whole.

    Args:
      folder: as given to `save`.
      like: as for `restore`.
      part: the same, of what a chunk that has begun needs.
    Returns:
      its place in the run, what it holds, and what is wrong with those after it.
    Raises:
      ValueError: there is no checkpoint, none is whole, or what it holds does not fit `like`.
    """
    damaged: list[str] = []
    for place in reversed(places(folder)):
        try:
            state, rest, about = _read(folder, place, like, part if place.position else ())
        except DamagedError as error:
            damaged.append(str(error))
        else:
            return Found(place.chunk, state, about, damaged, rest, place.position)
    raise ValueError(f"no checkpoint in {folder} can be read: {'; '.join(damaged) or 'there is none'}")


def _read(folder: Path | str, place: Place, like: Tree, part: Tree | None) -> tuple[Tree, Tree, dict[str, Any]]:
    """State, part (not read where None) and `about` of a checkpoint."""
    path = Path(folder).absolute() / place.name
    if place not in places(folder):
        raise ValueError(f"no checkpoint {path}")
    ocp = _orbax()
    try:
        with _unsaid(), _alone(ocp) as reader:
            saved: dict[str, Any] = reader.restore(path, args=ocp.args.PyTreeRestore())
        about = _verified(saved)
    except Exception as error:  # whatever orbax, its storage and its JSON make of damaged bytes
        raise DamagedError(f"checkpoint {path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if part is None:
        saved = {name: array for name, array in saved.items() if not name.startswith(PART)}
    names, leaves, rebuild = _all_named(_shapes(like), _shapes(part or ()))
    unmatched = sorted(set(names) ^ set(saved))
    if unmatched:
        problem = "is missing" if unmatched[0] in names else "is not part of this run"
        raise ValueError(f"checkpoint {path} does not fit this run: {unmatched[0]} {problem}")
    for name, leaf in zip(names, leaves, strict=True):
        have, want = saved[name], leaf
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(
                f"checkpoint {path} does not fit this run: {name} is {have.dtype}{list(have.shape)}, "
                f"not {want.dtype}{list(want.shape)}"
            )
    # A copy, because the first compiled step is donated this memory.
    return *rebuild([jnp.array(saved[name], copy=True) for name in names]), about


def _checksum(array: Any) -> str:
    array = np.ascontiguousarray(array)
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.blake2b(head + array.tobytes(), digest_size=16).hexdigest()


def _verified(saved: dict[str, Any]) -> dict[str, Any]:
    """Takes the manifest out and checks every array against it; a checkpoint from before there were any has none."""
    if MANIFEST not in saved:
        return {}
    manifest = json.loads(np.asarray(saved.pop(MANIFEST), np.uint8).tobytes())
    sums = manifest["checksums"]
    if set(sums) != set(saved):
        raise ValueError(f"{sorted(set(sums) ^ set(saved))[0]} is missing")
    for name, array in saved.items():
        if _checksum(array) != sums[name]:
            raise ValueError(f"{name} does not match its checksum")
    return manifest["about"]


def places(folder: Path | str) -> list[Place]:
    """Where the complete checkpoints in a folder are, from the oldest to the newest."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(
        Place(*map(int, path.name.split(".")))
        for path in folder.iterdir()
        if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and any(path.iterdir())
    )


def _shapes(tree: Tree) -> Tree:
    known = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))
    return tree if known else jax.eval_shape(lambda: tree)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _all_named(state: Tree, part: Tree) -> tuple[list[str], list[Any], Any]:
    """`_named` of both, the names of the second after `PART`; the function rebuilds a pair."""
    names, leaves, rebuild = _named(state)
    part_names, part_leaves, rebuild_part = _named(part)

    def both(arrays: list[Any]) -> tuple[Tree, Tree]:
        return rebuild(arrays[: len(names)]), rebuild_part(arrays[len(names) :])

    return [*names, *(PART + name for name in part_names)], [*leaves, *part_leaves], both


def _named(tree: Tree) -> tuple[list[str], list[Any], Any]:
    """The names of the leaves with data, the leaves (random keys as integers), and a function that rebuilds the tree.

    Empty arrays are left out: orbax does not write them, and their shape is all there is to know.
    """
    entries, structure = jax.tree_util.tree_flatten_with_path(tree)
    every = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for _, leaf in entries]
    plain = [_key_data(leaf) if _is_key(leaf) else leaf for leaf in every]
    full = [i for i, leaf in enumerate(plain) if leaf.size]

    def rebuild(arrays: list[Any]) -> Tree:
        given = dict(zip(full, arrays, strict=True))
        out = [given[i] if i in given else jnp.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(plain)]
        keys = [_wrap(array, like) if _is_key(like) else array for array, like in zip(out, every, strict=True)]
        return jax.tree_util.tree_unflatten(structure, keys)

    return [jax.tree_util.keystr(entries[i][0]) for i in full], [plain[i] for i in full], rebuild


def _key_data(key: Any) -> Any:
    if isinstance(key, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, key)
    return jax.random.key_data(key)


def _wrap(data: Any, like: Any) -> Any:
    impl: list[Any] = []  # only a (traced) key knows its generator, a shape does not
    jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(data, impl=impl[0])


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """A context in which the threads of orbax and of its storage print no traceback of errors that are raised as well.

    After an error storage still tells what came of the other arrays, but nobody waits for them any more. That it cannot
    is told within moments, and dropped also after the context.
    """
    log, hook = logging.getLogger("absl"), sys.unraisablehook
    level = log.level

    def drop(told: Any) -> None:
        if not isinstance(told.exc_value, RuntimeError) or str(told.exc_value) != "Event loop is closed":
            hook(told)

    log.setLevel(logging.CRITICAL)
    sys.unraisablehook = drop
    try:
        yield
        sys.unraisablehook = hook
    finally:
        log.setLevel(level)


def _alone(ocp: Any) -> Any:
    """What reads and writes for this process alone; orbax would otherwise wait until all processes of a run do so."""
    this = jax.process_index()
    only = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=only)
    return ocp.Checkpointer(handler, multiprocessing_options=only)


def _orbax() -> Any:
    """Orbax, imported on first use because that is slow, and with its warnings off."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp
