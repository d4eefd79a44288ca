"""Comparisons that end in words: what is wrong, one line for each fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import Tree
from mbrl_jax.envs.own import blame


def numbers(tree: Tree) -> list[np.ndarray]:
    """All leaves as NumPy arrays, keys as their data."""

    def plain(leaf: Any) -> np.ndarray:
        is_key = jnp.issubdtype(jnp.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype,
                                jax.dtypes.prng_key)  # fmt: skip
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [plain(leaf) for leaf in jax.tree.leaves(tree)]


def differences(one: Tree, two: Tree, what: str, rtol: float = 0.0, atol: float = 0.0) -> Iterator[str]:
    """Where two trees are not the same, leaf by leaf.

    Args:
      one: a tree of arrays.
      two: another.
      what: the two are, which begins every line.
      rtol: relative tolerance of floats; 0 with `atol` 0 for the same bits.
      atol: absolute tolerance of floats.
    """
    if jax.tree.structure(one) != jax.tree.structure(two):
        yield f"{what}: structures differ, {short(jax.tree.structure(one))} and {short(jax.tree.structure(two))}"
        return
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(one)]
    for name, x, y in zip(names, numbers(one), numbers(two), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            yield f"{what}: {name} is {x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}"
        elif rtol or atol:
            if not np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=x.dtype.kind == "f"):
                yield f"{what}: {name} differs by up to {np.max(np.abs(x - y)):.3g}"
        elif not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
            yield f"{what}: {name} differs"


def short(value: Any, most: int = 120) -> str:
    """An object as text of at most so many characters."""
    text = str(value).removeprefix("PyTreeDef(").removesuffix(")") if "PyTreeDef" in str(value) else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def attempted(name: str, look: Callable[[], Iterable[str]], where: str) -> list[str]:
    """The faults that a check finds; what it raises is one more.

    Args:
      name: of the check.
      look: yields faults.
      where: the file of the user's code, whose line is named where it raised something.
    """
    found: list[str] = []
    try:
        for fault in look():
            found.append(fault)
    except Exception as error:
        found.append(f"{name}: raised {blame(error, where)}")
    return found


def refuse(what: str, faults: list[str]) -> None:
    """Raises one ValueError that lists faults; silent where there are none.

    Args:
      what: has them.
      faults: one line each.
    Raises:
      ValueError: there is a fault.
    """
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise ValueError(f"{what} breaks its contract:\n{lines}")


def source_file(function: Any) -> str:
    """The file that a function is from, "" where it has none."""
    import inspect

    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return "" if code is None else code.co_filename
