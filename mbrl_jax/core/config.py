"""`@config`: frozen dataclasses whose floats are pytree leaves, so that `vmap` can sweep every one of them.

A field annotated `float`, or with another config, is a leaf; every other field is static and part of what `jit`
compiles for. `setting` gives a field its default and its allowed range, and `check` tests a config against them.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import jax

LARGEST: dict[type, float] = {int: 2**31 - 1, float: 3.4028234663852886e38}
"""The largest numbers in the types that compiled code counts and computes in, int32 and float32."""

T = TypeVar("T")
C = TypeVar("C")


def setting(
    *,
    default: T,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    help: str = "",
) -> T:
    """A field of a config, with its allowed values.

    Args:
      default: the default value.
      low: smallest allowed value.
      above: every allowed value is larger.
      high: largest allowed value.
      below: every allowed value is smaller.
      choices: all allowed values.
      help: one line for the command line's help: a noun phrase with its unit.
    Returns:
      the dataclass field.
    """
    limits = dict(low=low, above=above, high=high, below=below, choices=choices)
    metadata = {"limits": {name: value for name, value in limits.items() if value is not None}, "help": help}
    return dataclasses.field(default=default, metadata=metadata)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, dataclasses.field))
def config(cls: type[C]) -> type[C]:
    """Makes a class of annotated fields a frozen, keyword-only dataclass and a pytree.

    `jit` retraces when a static field changes, not when a float does.

    Args:
      cls: a class of annotated fields with defaults, most of them `setting`s.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    hints = typing.get_type_hints(made)
    fields = dataclasses.fields(made)  # pyright: ignore[reportArgumentType]
    data = [f.name for f in fields if hints[f.name] is float or dataclasses.is_dataclass(hints[f.name])]
    meta = [f.name for f in fields if f.name not in data]
    jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=meta)
    return made


def flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """All settings of a config by dotted name, nested configs flattened.

    Args:
      cfg: a config.
      prefix: put before every name.
    """
    out: dict[str, Any] = {}
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            out.update(flat(value, f"{prefix}{field.name}."))
        else:
            out[f"{prefix}{field.name}"] = value
    return out


def replace(cfg: C, changes: dict[str, Any]) -> C:
    """A copy of a config with settings changed by dotted name: `replace(cfg, {"policy.lr": 1e-3})`.

    Args:
      cfg: a config.
      changes: new values by dotted name.
    Raises:
      ValueError: a name is not a setting.
    """
    known = flat(cfg)
    for name in changes:
        if name not in known:
            raise ValueError(f"{name} is not a setting; known are {', '.join(known)}")
    return _mapped(cfg, "", lambda name, value: changes.get(name, value))


def axes(cfg: C, *names: str) -> C:
    """`in_axes` for `vmap` over a config: 0 at the named floats, None at every other one.

    Args:
      cfg: a config.
      *names: dotted names of its float settings.
    Raises:
      ValueError: a name is not a float setting; integers change shapes, so they cannot be vmapped.
    """
    leaves = {jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree_util.tree_flatten_with_path(cfg)[0]}
    for name in names:
        if name not in leaves:
            raise ValueError(
                f"{name} cannot be vmapped: not a float setting of this config ({', '.join(sorted(leaves))})"
            )
    return _mapped(cfg, "", lambda name, value: 0 if name in names else (None if name in leaves else value))


def _mapped(cfg: Any, prefix: str, change: Any) -> Any:
    new = {}
    for field in dataclasses.fields(cfg):
        value, name = getattr(cfg, field.name), f"{prefix}{field.name}"
        new[field.name] = _mapped(value, f"{name}.", change) if dataclasses.is_dataclass(value) else change(name, value)
    return dataclasses.replace(cfg, **new)


def check(cfg: Any, prefix: str = "") -> None:
    """Tests every concrete value of a config against what is allowed; traced values pass.

    Integers without a limit of their own must fit into int32, numbers into float32.

    Args:
      cfg: the config.
      prefix: put before the names in messages, "agent." for example.

    Raises:
      ValueError: names the field, the value and what is allowed.
    """
    for field in dataclasses.fields(cfg):
        value, name = getattr(cfg, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check(value, f"{name}.")
            continue
        limits = field.metadata.get("limits", {})
        for item in value if isinstance(value, tuple) else (value,):
            if not _allowed(item, limits):
                raise ValueError(f"{name} must be {describe(limits)}, got {item!r}")
            if type(item) in LARGEST and not {"high", "below", "choices"} & {*limits}:
                most = LARGEST[type(item)]
                if not -most <= item <= most and item not in (math.inf, -math.inf):
                    raise ValueError(f"{name} must be at most {most:.10g}, got {item!r}")


def _allowed(value: Any, limits: dict[str, Any]) -> bool:
    if "choices" in limits:
        return value in limits["choices"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if value != value:  # NaN is in no range
        return False
    return (
        value >= limits.get("low", value)
        and value <= limits.get("high", value)
        and value > limits.get("above", -float("inf") if value > -float("inf") else value - 1)
        and value < limits.get("below", float("inf") if value < float("inf") else value + 1)
    )


def describe(limits: dict[str, Any]) -> str:
    """The allowed values in words: `at least 0 and below 1`.

    Args:
      limits: keyword arguments of `setting`: low, above, high, below or choices.
    """
    if "choices" in limits:
        return "one of " + ", ".join(str(choice) for choice in limits["choices"])
    words = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    return " and ".join(f"{words[name]} {limit:.10g}" for name, limit in limits.items()) or "a number"
