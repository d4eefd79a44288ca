"""A policy as a file that runs without this library: StableHLO by `jax.export`, or ONNX by jax2onnx."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.extend import core as jax_core

from mbrl_jax.core.types import Array, DictSpace, Obs, ObsSpace
from mbrl_jax.presets.loaded import Policy, as_seen
from mbrl_jax.train.log import write_atomic

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_policy(
    policy: Policy, path: Path | str, *, sample: bool = False, platforms: Sequence[str] = ("cpu",)
) -> dict[str, Any]:
    """Writes a policy as StableHLO, with its parameters inside, and a JSON file that describes its arrays beside it.

        action, carry = call(obs, carry, first, key)

    Args:
      policy: of a run.
      path: of the file; that of the description has ".json" added.
      sample: draw actions as in training; else the deterministic ones of evaluation.
      platforms: it can run on, of "cpu", "cuda", "rocm" and "tpu".
    Returns:
      the description: shapes and types of `obs`, of the arrays in `carry`, and of the action.
    Raises:
      ValueError: an unknown platform, a policy that plans in the simulator, or operations that cannot be exported.
    """
    if policy.simulator:
        raise ValueError("run: a policy that plans in the simulator cannot be exported without it")
    for name in platforms:
        if name not in PLATFORMS:
            raise ValueError(f"platforms must be of {', '.join(PLATFORMS)}, got {name!r}")
    start, structure = jax.tree.flatten(policy.agent.carry())

    def act(obs: Obs, carry: list[Array], first: Array, key: Array) -> tuple[Array, list[Array]]:
        memory = [jnp.where(first, fresh, old) for fresh, old in zip(start, carry, strict=True)]
        seen = as_seen(obs, policy.raw.obs, policy.spec.obs)
        inside = jax.tree.unflatten(structure, memory)
        action, after, _ = policy.agent.act(jax.random.wrap_key_data(key), policy.learner, inside, seen, sample)
        return action, jax.tree.leaves(after)

    obs = _shapes(policy.raw.obs)
    carry = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.asarray(leaf).dtype) for leaf in start]
    rest = jax.ShapeDtypeStruct((), jnp.bool_), jax.ShapeDtypeStruct((2,), jnp.uint32)
    try:
        made = jax_export.export(jax.jit(act), platforms=list(platforms))(obs, carry, *rest)
        data = bytes(made.serialize())
    except ImportError as error:
        raise ValueError("export needs flatbuffers: pip install 'mbrl_jax[export]'") from error
    except ValueError as error:
        raise ValueError(f"run: its policy cannot be exported: {' '.join(str(error).split())[:200]}") from error
    about = {
        "obs": _described(obs),
        "carry": [_described(leaf) for leaf in carry],
        **_about_action(policy),
        "platforms": list(platforms),
        "sample": sample,
        "jax": jax.__version__,
    }
    write_atomic(path, data)
    write_atomic(f"{path}.json", json.dumps(about, indent=2) + "\n")
    return about


def export_onnx(policy: Policy, path: Path | str, *, batch: int = 1) -> dict[str, Any]:
    """Writes a deterministic policy without memory as ONNX, and a JSON file that describes its arrays beside it.

    Args:
      policy: of a run.
      path: of the file; that of the description has ".json" added.
      batch: B, observations at once; inputs are [B, ...], the action is [B, ...].
    Returns:
      the description: shapes and types of `obs` and of the action, of one observation, and B.
    Raises:
      ValueError: jax2onnx is not installed, a batch below 1, or a policy that plans, remembers or draws.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if policy.simulator or jax.tree.leaves(policy.agent.carry()):
        raise ValueError("run: ONNX holds policies without memory or plan alone; a file .stablehlo holds this one")
    obs = _shapes(policy.raw.obs)
    leaves, structure = jax.tree.flatten(obs)

    def act(*parts: Array) -> Array:
        seen = as_seen(jax.tree.unflatten(structure, parts), policy.raw.obs, policy.spec.obs)
        return policy.agent.act(jax.random.key(0), policy.learner, policy.agent.carry(), seen, False)[0]

    many = [jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype) for leaf in leaves]
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("FILE: an .onnx needs jax2onnx: pip install 'mbrl_jax[onnx]'") from error
    # jax2onnx traces layers of flax as wholes, which it cannot vmap: it is given the operations themselves
    flat = jax_core.jaxpr_as_fun(jax.make_jaxpr(jax.vmap(act))(*many))
    try:
        made = jax2onnx.to_onnx(flat, many)
    except Exception as error:  # of the converter, whatever it is: it has no type of its own
        raise ValueError(f"run: its policy cannot be written as ONNX: {' '.join(str(error).split())[:200]}") from error
    about = {
        "inputs": [value.name for value in made.graph.input],
        "outputs": [value.name for value in made.graph.output],
        "obs": _described(obs),
        "batch": batch,
        **_about_action(policy),
        "jax": jax.__version__,
    }
    write_atomic(path, made.SerializeToString())
    write_atomic(f"{path}.json", json.dumps(about, indent=2) + "\n")
    return about


def _about_action(policy: Policy) -> dict[str, Any]:
    action = policy.spec.action
    return {"action": _described(jax.ShapeDtypeStruct(action.shape, action.dtype)), "actions": _space(action)}


def _shapes(space: ObsSpace) -> Any:
    if isinstance(space, DictSpace):
        return {name: _shapes(part) for name, part in space.spaces.items()}
    return jax.ShapeDtypeStruct(space.shape, jnp.dtype(space.dtype))


def _described(shapes: Any) -> Any:
    if isinstance(shapes, dict):
        return {name: _described(part) for name, part in shapes.items()}
    return {"shape": list(shapes.shape), "dtype": str(shapes.dtype)}


def _space(space: Any) -> dict[str, Any]:
    if hasattr(space, "low"):
        bounds = {"low": space.low, "high": space.high}
        return {name: np.broadcast_to(np.asarray(x, np.float64), space.shape).tolist() for name, x in bounds.items()}
    return {"n": getattr(space, "n", None) or list(space.nvec)}
