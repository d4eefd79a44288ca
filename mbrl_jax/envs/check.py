"""What is wrong with an environment, in words: for those that a reader writes.

`find_faults` traces `reset` and `step`, and plays one episode of random actions from each of four keys. `check_env`
raises one ValueError that lists all that was found, as the checkers of Gymnasium and Stable-Baselines3 do.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mbrl_jax.core import Array, Box, DictSpace, Discrete, Env, Key, MultiDiscrete, Spec, tree
from mbrl_jax.core.types import Obs, State
from mbrl_jax.envs.games import Masked
from mbrl_jax.envs.own import blame

EPISODES = 4
"""Episodes that are played, side by side."""
TOLERANCE = 1e-4
"""Part of a bound, or of 1 where that is more, by which an observation may be outside it: float32 rounds."""


def check_env(env: Env, steps: int = 10_000) -> None:
    """Checks that an environment keeps the contract of `Env`; silent where it does.

    Args:
      env: any environment.
      steps: random actions tried in an episode, at most; a time limit beyond it goes unchecked.
    Raises:
      ValueError: it does not; the message lists everything that was found.
    """
    faults = find_faults(env, steps)
    if faults:
        name = env.spec.name if isinstance(env, Env) and isinstance(env.spec, Spec) else "environment"
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        listed = "\n".join(f"  {i}. {fault}" for i, fault in enumerate(faults, 1))
        raise ValueError(f"{name} has {count}:\n{listed}")


def find_faults(env: Env, steps: int = 10_000) -> list[str]:
    """All that is wrong with an environment.

    Args:
      env: any environment.
      steps: random actions tried in an episode, at most.
    Returns:
      a line for each fault, which names the function and the field; empty where nothing is wrong.
    """
    if not isinstance(env, Env):
        return [f"it must be an Env, got a {type(env).__name__}"]
    if not isinstance(env.spec, Spec):
        return [f"spec must be a Spec, got a {type(env.spec).__name__}"]
    faults = list(_spec_faults(env.spec))
    if faults:
        return faults
    traced = _traced(env)
    if isinstance(traced, str):
        return [traced]
    faults = [*_type_faults(env, traced), *_purity_faults(env, traced)]
    if faults:  # such an environment may not run at all
        return faults
    return list(_episode_faults(env, steps))


# The spec -----------------------------------------------------------------------------------------------------------


def _spec_faults(spec: Spec) -> Iterator[str]:
    for name, space in (("spec.obs", spec.obs), ("spec.action", spec.action)):
        if isinstance(space, Discrete) and (not isinstance(space.n, int) or space.n < 1):
            yield f"{name}: Discrete needs a whole number of at least 1, got {space.n!r}"
        elif isinstance(space, Box):
            yield from _box_faults(name, space)
        elif not isinstance(space, Discrete | MultiDiscrete | DictSpace):
            yield f"{name} must be a space (Discrete, MultiDiscrete, Box, DictSpace), got a {type(space).__name__}"
    if isinstance(spec.action, Box) and not _bounded(spec.action):
        yield f"spec.action must have finite bounds, as agents scale and draw actions by them, got {spec.action}"
    limit = spec.time_limit
    if limit is not None and (type(limit) is not int or limit < 1):
        yield f"spec.time_limit must be a whole number of at least 1, or None, got {limit!r}"
    if limit is None and not spec.terminates:
        yield (
            "spec: no episode ends, as time_limit is None and terminates is False: `wrappers.time_limit(env, steps)` "
            "truncates episodes"
        )


def _box_faults(name: str, space: Box) -> Iterator[str]:
    if not isinstance(space.shape, tuple) or not all(type(size) is int and size > 0 for size in space.shape):
        yield f"{name}: the shape must be a tuple of whole numbers above 0, got {space.shape!r}"
        return
    for bound in (space.low, space.high):
        try:
            np.broadcast_to(np.asarray(bound, np.float64), space.shape)
        except ValueError:
            yield f"{name}: bounds must be numbers or arrays of shape {space.shape}, got shape {np.shape(bound)}"
            return
    if not np.all(np.asarray(space.low) < np.asarray(space.high)):
        yield f"{name}: low must be below high in every entry, got {space.low} and {space.high}"


def _bounded(space: Box) -> bool:
    return bool(np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high)))


# Types --------------------------------------------------------------------------------------------------------------


class _Traced(NamedTuple):
    """Shapes and types of what the functions return, and the programs that they are traced to."""

    state: Any  # after reset
    obs: Any
    new_state: Any  # after a step
    new_obs: Any
    outputs: tuple  # reward, discount, last
    programs: tuple[Any, Any]  # of reset and of step


def _traced(env: Env) -> _Traced | str:
    """The environment's functions traced, or what is wrong where they cannot be."""
    key = jax.random.key(0)
    action = jax.eval_shape(lambda: env.spec.action.sample(jax.random.key(0)))
    at = "reset"
    try:
        first, out = _trace(env.reset, key)
        if not isinstance(out, tuple) or len(out) != 2:
            return f"reset must return (state, obs), got {_count(out)}"
        at = "step"
        second, after = _trace(env.step, key, out[0], action)
        if not isinstance(after, tuple) or len(after) != 5:
            return f"step must return (state, obs, reward, discount, last), got {_count(after)}"
    except Exception as error:
        return f"{at} cannot be compiled: {blame(error, _file(getattr(env, at)))}"
    return _Traced(*out, after[0], after[1], after[2:], (first, second))


def _trace(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """A function's program, and the shapes of what it returns. Traced anew in every call, under `jit` too."""
    plain = inspect.unwrap(function)
    return jax.make_jaxpr(lambda *args: plain(*args), return_shape=True)(*args)


def _file(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else code.co_filename


def _count(out: Any) -> str:
    return f"a tuple of {len(out)}" if isinstance(out, tuple) else f"a {type(out).__name__}"


def _type_faults(env: Env, traced: _Traced) -> Iterator[str]:
    first, then = (list(_space_faults(env.spec.obs, obs)) for obs in (traced.obs, traced.new_obs))
    yield from (f"obs of reset {'and step ' * (fault in then)}must {fault}" for fault in first)
    yield from (f"obs of step must {fault}" for fault in then if fault not in first)
    yield from _changes("state", traced.state, traced.new_state)
    if not first and not then:
        yield from _changes("obs", traced.obs, traced.new_obs)
    weak: dict[str, str] = {}
    for where, out in (("reset", (traced.state, traced.obs)), ("step", (traced.new_state, traced.new_obs))):
        for part, made in zip(("state", "obs"), out, strict=True):
            for path, leaf in jax.tree_util.tree_leaves_with_path(made):
                if getattr(leaf, "weak_type", False):
                    weak.setdefault(part + jax.tree_util.keystr(path), f"of {where} is weakly typed ({leaf.dtype})")
    for path, what in weak.items():
        yield f"{path} {what}: give it a type, as `jnp.zeros((), jnp.int32)` does for `0`"
    reward, discount, last = traced.outputs
    for name, leaf, kind in (
        ("reward", reward, jnp.floating),
        ("discount", discount, jnp.floating),
        ("last", last, bool),
    ):
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", type(leaf))
        right = shape == () and (dtype == np.bool_ if kind is bool else jnp.issubdtype(dtype, kind))
        if not right:
            yield f"{name} of step must be a scalar {'bool' if kind is bool else 'float32'}, got {_typed(leaf)}"
    if env.render is not None:
        yield from _picture_faults(env.render, traced.state)


def _picture_faults(render: Callable[[State], Array], state: State) -> Iterator[str]:
    try:
        drawn = jax.eval_shape(render, state)
    except Exception as error:
        yield f"render cannot be compiled: {blame(error, _file(render))}"
        return
    shape = getattr(drawn, "shape", ())
    if len(shape) != 3 or shape[2] != 3 or drawn.dtype != jnp.uint8:
        yield f"render must return uint8 [H, W, 3], got {_typed(drawn)}"


def _space_faults(space: Any, obs: Any) -> Iterator[str]:
    """What an observation's type must be, as its space says, and is not."""
    if isinstance(obs, Masked):
        obs = obs.obs
    if isinstance(space, DictSpace):
        if not isinstance(obs, dict) or set(obs) != set(space.spaces):
            got = f"one of {', '.join(map(str, obs))}" if isinstance(obs, dict) else _typed(obs)
            yield f"be a dict of {', '.join(space.spaces)}, got {got}"
            return
        for name, part in space.spaces.items():
            yield from (f"{fault} in {name!r}" for fault in _space_faults(part, obs[name]))
    elif not hasattr(obs, "shape"):
        yield f"be one array of shape {space.shape}, got {_typed(obs)}"
    elif isinstance(space, Discrete) and (obs.shape != () or not jnp.issubdtype(obs.dtype, jnp.integer)):
        yield f"be a whole number in 0..{space.n - 1}, got {_typed(obs)}"
    elif isinstance(space, MultiDiscrete) and (obs.shape != space.shape or not jnp.issubdtype(obs.dtype, jnp.integer)):
        yield f"be whole numbers {list(space.shape)}, got {_typed(obs)}"
    elif isinstance(space, Box):
        if obs.shape != space.shape:
            yield f"have shape {space.shape}, as spec.obs says, got {obs.shape}"
        if obs.dtype != jnp.dtype(space.dtype):
            yield f"have dtype {jnp.dtype(space.dtype)}, as spec.obs says, got {obs.dtype}"


def _changes(part: str, before: Any, after: Any) -> Iterator[str]:
    """Where the structure, a shape or a type differs between `reset` and `step`."""
    old, new = jax.tree.structure(before), jax.tree.structure(after)
    if old != new:
        yield f"{part} of step must have the structure of that of reset, {_short(old)}, got {_short(new)}"
        return
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, was), is_ in pairs:
        if (was.shape, was.dtype) != (is_.shape, is_.dtype):
            name = part + jax.tree_util.keystr(path)
            yield f"{name} changes from {_typed(was)} after reset to {_typed(is_)} after a step"


def _short(structure: Any) -> str:
    text = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) <= 120 else f"{text[:117]}..."


def _typed(leaf: Any) -> str:
    if hasattr(leaf, "dtype"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"a {type(leaf).__name__} of {len(jax.tree.leaves(leaf))} arrays"


# Purity -------------------------------------------------------------------------------------------------------------


def _purity_faults(env: Env, traced: _Traced) -> Iterator[str]:
    key, state = jax.random.key(0), traced.state
    action = jax.eval_shape(lambda: env.spec.action.sample(jax.random.key(0)))
    calls: dict[str, tuple] = {"reset": (key,), "step": (key, state, action)}
    for i, (name, args) in enumerate(calls.items()):
        function = getattr(env, name)
        kinds = sorted({type(effect).__name__ for effect in traced.programs[i].effects} - {"DebugEffect"})
        if kinds:
            yield f"{name} has side effects ({', '.join(kinds)}): it must be a pure function"
        again = _again(function, args)
        if again is None:
            yield f"{name} reads an array that an earlier call kept in a Python object; it must return all it changes"
            continue
        if _text(again) != _text(traced.programs[i]):
            yield (
                f"{name} is another program each time it is traced: it draws numbers without the key (random, "
                "numpy.random, time), or changes Python objects"
            )
            continue
        try:
            batched = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), args[1:])
            jax.eval_shape(lambda keys, *rest, f=function: jax.vmap(f)(keys, *rest), jax.random.split(key), *batched)
        except Exception as error:
            yield f"{name} cannot be vmapped: {blame(error, _file(function))}"


def _again(function: Callable[..., Any], args: tuple) -> Any:
    """A function traced once more; None where it uses an array of the trace before."""
    try:
        again, _ = _trace(function, *args)
    except jax.errors.UnexpectedTracerError:
        return None
    return None if any(isinstance(const, Tracer) for const in again.consts) else again


def _text(program: Any) -> str:
    """A traced program as text, its constants included; addresses of objects left out."""
    constants = [np.asarray(const).tobytes() for const in program.consts if not _is_key(const)]
    return re.sub(r"0x[0-9a-f]+", "", str(program)) + repr(constants)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


# Episodes -----------------------------------------------------------------------------------------------------------

NEVER = np.iinfo(np.int32).max


class _Seen(NamedTuple):
    """One episode of random actions: when each fault was first seen, in steps from the reset, and how it ended."""

    first: dict[str, Array]  # [] int32 by fault; `NEVER` where it was not seen
    length: Array  # [] int32 steps
    ended: Array  # [] bool: `last` came
    beyond: Array  # [] by how much an entry of an observation was outside its bounds, at most
    worst: Array  # [] that entry
    odd: Array  # [] the first discount that is none; 0 where all were
    zero: Array  # [] bool: the last discount was 0
    total: Array  # [] sum of rewards and observations, to compare two runs of one key


def _faults_of(env: Env, state: State, obs: Obs) -> dict[str, Array]:
    """Whether an observation has each of its faults, [] bool."""
    seen = obs.obs if isinstance(obs, Masked) else obs
    leaves = [leaf for leaf in jax.tree.leaves(seen) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    nan = jnp.any(jnp.array([jnp.any(~jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.zeros((), bool)
    found = {"nan_obs": nan}
    found["outside"] = _worst(env, obs)[0] > 0
    if env.observe is not None:
        told = zip(jax.tree.leaves(env.observe(state)), jax.tree.leaves(obs), strict=True)
        close = [jnp.all(jnp.isclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)) for a, b in told]
        found["observe"] = ~jnp.all(jnp.array(close))
    return found


def _bounds(space: Any) -> tuple[Any, Any]:
    """The least and the largest value of each entry."""
    if isinstance(space, Box):
        return space.low, space.high
    return 0, (space.n if isinstance(space, Discrete) else np.asarray(space.nvec)) - 1


def _beyond(space: Any, obs: Array) -> Array:
    """By how much each entry of an array is outside its bounds, rounding errors apart; not above 0 inside."""
    low, high = _bounds(space)
    low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
    slack = [TOLERANCE * jnp.maximum(1.0, jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0.0)) for bound in (low, high)]
    value = obs.astype(jnp.float32)
    return jnp.where(jnp.isfinite(value), jnp.maximum(low - slack[0] - value, value - high - slack[1]), -jnp.inf)


def _play(env: Env, steps: int, key: Key) -> _Seen:
    """Plays an episode of random actions, legal ones where the observation says which are."""
    key_reset, key_steps = jax.random.split(key)
    state, obs = env.reset(key_reset)
    names = ("nan_reward", "nan_discount", "discount", "not_last", "truncated", "never")
    found = _faults_of(env, state, obs) | {name: jnp.zeros((), bool) for name in names}
    first = {name: jnp.where(is_, 0, NEVER).astype(jnp.int32) for name, is_ in found.items()}
    no, nothing = jnp.zeros((), bool), jnp.zeros((), jnp.float32)
    start = _Seen(first, jnp.zeros((), jnp.int32), no, *_worst(env, obs), nothing, no, nothing)

    def one(at: tuple[State, Obs, _Seen]) -> tuple[State, Obs, _Seen]:
        state, obs, seen = at
        key_act, key_step = jax.random.split(jax.random.fold_in(key_steps, seen.length))
        if isinstance(obs, Masked):
            action = jax.random.categorical(key_act, jnp.where(obs.legal, 0.0, -jnp.inf)).astype(jnp.int32)
        else:
            action = env.spec.action.sample(key_act)
        state, obs, reward, discount, last = env.step(key_step, state, action)
        reward, discount = jnp.asarray(reward, jnp.float32), jnp.asarray(discount, jnp.float32)
        zero, odd = discount == 0, ~jnp.isin(discount, jnp.array([0.0, 1.0, -1.0]))
        found = _faults_of(env, state, obs) | {
            "nan_reward": ~jnp.isfinite(reward),
            "nan_discount": ~jnp.isfinite(discount),
            "discount": odd & jnp.isfinite(discount),
            "not_last": zero & ~last & seen.zero,
            "truncated": ~zero & last & (env.spec.time_limit is None),
            "never": zero & (not env.spec.terminates),
        }
        time = seen.length + 1
        first = {name: jnp.minimum(seen.first[name], jnp.where(found[name], time, NEVER)) for name in seen.first}
        beyond, worst = tree.where(seen.beyond >= _worst(env, obs)[0], (seen.beyond, seen.worst), _worst(env, obs))
        sums = [jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(obs)]
        shown = jnp.where(odd & (seen.odd == 0), discount, seen.odd)
        return state, obs, _Seen(first, time, last, beyond, worst, shown, zero, sum(sums, seen.total + reward))

    made = tree.strip_weak_types((state, obs, start))
    return jax.lax.while_loop(lambda at: ~at[2].ended & (at[2].length < steps), one, made)[2]


def _worst(env: Env, obs: Obs) -> tuple[Array, Array]:
    """By how much an observation is outside its bounds, at most, and the entry that is, [] float32 both."""
    space, seen = env.spec.obs, obs.obs if isinstance(obs, Masked) else obs
    parts = [(space, seen)]
    if isinstance(space, DictSpace):
        parts = [(part, seen[name]) for name, part in space.spaces.items()]
    flat = [jnp.broadcast_to(_beyond(part, leaf), leaf.shape).reshape(-1) for part, leaf in parts]
    beyond = jnp.concatenate(flat)
    at = jnp.argmax(beyond)
    return beyond[at], jnp.concatenate([leaf.astype(jnp.float32).reshape(-1) for _, leaf in parts])[at]


def _episode_faults(env: Env, steps: int) -> Iterator[str]:
    limit = env.spec.time_limit
    most = min(steps, math.inf if limit is None else limit)
    play = jax.jit(jax.vmap(lambda key: _play(env, int(most), key)))
    keys = jax.random.split(jax.random.key(0), EPISODES)
    try:
        seen, again = jax.device_get(play(keys)), jax.device_get(play(keys))
    except Exception as error:
        yield f"an episode of random actions cannot be played: {blame(error, _file(env.step))}"
        return
    first = {name: int(np.min(when)) for name, when in seen.first.items()}
    yield from _seen_faults(env, first, seen)
    if limit is not None and limit <= steps and not np.all(seen.ended):
        yield f"last never came within spec.time_limit = {limit} steps of random actions"
    pairs = zip(jax.tree.leaves(seen), jax.tree.leaves(again), strict=True)
    if not all(np.array_equal(one, two, equal_nan=True) for one, two in pairs):
        yield "the same keys gave two different episodes: something is drawn without the key"


def _seen_faults(env: Env, first: dict[str, int], seen: _Seen) -> Iterator[str]:
    """The faults of the episodes' numbers, in words."""
    space = env.spec.obs
    bounds = "" if isinstance(space, DictSpace) else ", {} to {}".format(*_bounds(space))
    worst = float(np.ravel(seen.worst)[np.argmax(seen.beyond)])
    odd = next((float(value) for value in np.ravel(seen.odd) if value != 0), 0.0)
    texts = {
        "nan_obs": "obs is not finite",
        "outside": f"obs is outside spec.obs{bounds}: an entry is {worst:g}",
        "observe": "observe(state) differs from the observation; leave it out where the state does not determine it",
        "nan_reward": "reward is not finite",
        "nan_discount": "discount is not finite",
        "discount": f"discount must be 0, 1 or -1, got {odd:g}: gamma belongs to the agent",
        "not_last": "discount is 0 twice in a row and last is False: an episode that terminates must end",
        "truncated": "last is True with a discount that is not 0, and spec.time_limit is None: give the limit",
        "never": "discount is 0 though spec.terminates is False",
    }
    for name, text in texts.items():
        if first.get(name, NEVER) < NEVER:
            yield f"{text} (after {_when(first[name])})"


def _when(step: int) -> str:
    return "reset" if step == 0 else f"step {step} of an episode of random actions"
