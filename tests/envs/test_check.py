"""The checker: every fault, put into an environment that has none, is found and named; what is sound passes."""

from __future__ import annotations

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbrl_jax as mbrl
from mbrl_jax.core import Box, DictSpace, Discrete, Env, MultiDiscrete, Spec
from mbrl_jax.envs.check import check_env, find_faults
from mbrl_jax.envs.registry import ENVS, make_env

SPEC = Spec(Box((2,), -5.0, 5.0), Box((1,), -1.0, 1.0), time_limit=6, name="drift")


def reset(key):
    place = jax.random.uniform(key, (2,), jnp.float32)
    return (place, jnp.zeros((), jnp.int32)), place


def step(key, state, action):
    place = 0.9 * state[0] + 0.1 * action
    time = state[1] + 1
    return (place, time), place, -jnp.sum(jnp.square(place)), jnp.ones(()), time >= 6


SOUND = Env(SPEC, reset, step, observe=lambda state: state[0])


def after(change):
    """The sound environment with the outputs of a step changed: (state, obs, reward, discount, last) -> the same."""
    return SOUND._replace(step=lambda *args: change(*step(*args)), observe=None)


def spec(**changes):
    return SOUND._replace(spec=SPEC._replace(**changes), observe=None)


calls: list = []
kept: list = []


def counting(key, state, action):
    calls.append(0)
    state, obs, reward, discount, last = step(key, state, action)
    return state, obs, reward + len(calls), discount, last


def leaking(key, state, action):
    kept.append(state[0])
    return step(key, (kept[0], state[1]), action)


def numpy_noise(key, state, action):
    state, obs, reward, discount, last = step(key, state, action)
    return state, obs, reward + np.random.normal(), discount, last  # noqa: NPY002


def random_reset(key):
    place = jnp.full(2, random.random(), jnp.float32)
    return (place, jnp.zeros((), jnp.int32)), place


def by_callback(key, state, action):
    """Randomness of the host in every call, which tracing does not see."""
    state, obs, reward, discount, last = step(key, state, action)
    noise = jax.pure_callback(lambda: np.float32(random.random()), jax.ShapeDtypeStruct((), jnp.float32),
                              vmap_method="sequential")  # fmt: skip
    return state, obs, reward + noise, discount, last


def printing(key, state, action):
    jax.experimental.io_callback(lambda: None, None, ordered=True)
    return step(key, state, action)


def branching(key, state, action):
    if action[0] > 0:
        return step(key, state, action)
    return step(key, state, -action)


@jax.custom_batching.custom_vmap
def unbatched(x):
    return x


@unbatched.def_vmap
def _(size, batched, x):
    raise NotImplementedError("one at a time")


FAULTS = {
    "no env": (3, "it must be an Env, got a int"),
    "no spec": (SOUND._replace(spec=3), "spec must be a Spec, got a int"),
    "no space": (spec(obs=(2,)), "spec.obs must be a space"),
    "no actions": (spec(action=Discrete(0)), "spec.action: Discrete needs a whole number of at least 1, got 0"),
    "a shape that is none": (spec(obs=Box((0,))), r"spec.obs: the shape must be .* got \(0,\)"),
    "bounds of another shape": (
        spec(obs=Box((2,), np.zeros(3), 1.0)),
        r"spec.obs: bounds .* shape \(2,\), got shape \(3,\)",
    ),
    "bounds the wrong way": (spec(obs=Box((2,), 1.0, -1.0)), "spec.obs: low must be below high"),
    "unbounded actions": (spec(action=Box((1,))), "spec.action must have finite bounds"),
    "a time limit that is none": (
        spec(time_limit=0),
        "spec.time_limit must be a whole number of at least 1, or None, got 0",
    ),
    "endless": (spec(time_limit=None, terminates=False), "spec: no episode ends"),
    "reset gives one thing": (SOUND._replace(reset=lambda key: reset(key)[1]), r"reset must return \(state, obs\)"),
    "step gives four things": (SOUND._replace(step=lambda *args: step(*args)[:4]), "step must return .* a tuple of 4"),
    "Python on numbers": (SOUND._replace(step=branching), "step cannot be compiled: TracerBoolConversionError.*line"),
    "not vmappable": (
        after(lambda s, o, r, d, e: (s, o, unbatched(r), d, e)),
        "step cannot be vmapped: NotImpl.* one at a",
    ),
    "obs of another shape": (
        after(lambda s, o, r, d, e: (s, o[:1], r, d, e)),
        r"obs of step must have shape \(2,\), .* got \(1,\)",
    ),
    "obs of another dtype": (
        after(lambda s, o, r, d, e: (s, o.astype(jnp.int32), r, d, e)),
        "obs of step must have dtype float32, .* got int32",
    ),
    "obs in a dict": (
        after(lambda s, o, r, d, e: (s, {"a": o}, r, d, e)),
        r"obs of step must be one array of shape \(2,\)",
    ),
    "obs no number of a state": (
        spec(obs=Discrete(3)),
        r"obs of reset and step must be a whole number in 0..2, got float32\[2\]",
    ),
    "a state of another structure": (
        after(lambda s, o, r, d, e: (s[0], o, r, d, e)),
        "state of step must have the structure",
    ),
    "a state of another shape": (
        after(lambda s, o, r, d, e: ((s[0][:1], s[1]), o, r, d, e)),
        r"state\[0\] changes from float32\[2\] after reset to float32\[1\]",
    ),
    "a state of another dtype": (
        after(lambda s, o, r, d, e: ((s[0], s[1].astype(jnp.float32)), o, r, d, e)),
        r"state\[1\] changes from int32\[\] after reset to float32\[\]",
    ),
    "a weak type": (
        SOUND._replace(reset=lambda key: ((reset(key)[0][0], jnp.asarray(0)), reset(key)[1])),
        r"state\[1\] of reset is weakly typed \(int32\)",
    ),
    "a vector of rewards": (
        after(lambda s, o, r, d, e: (s, o, o, d, e)),
        r"reward of step must be a scalar float32, got float32\[2\]",
    ),
    "an integer reward": (
        after(lambda s, o, r, d, e: (s, o, jnp.ones((), jnp.int32), d, e)),
        r"reward of step must .* got int32\[\]",
    ),
    "a boolean discount": (
        after(lambda s, o, r, d, e: (s, o, r, ~e, e)),
        r"discount of step must be a scalar float32, got bool",
    ),
    "last as a number": (
        after(lambda s, o, r, d, e: (s, o, r, d, e * 1.0)),
        r"last of step must be a scalar bool, got float32",
    ),
    "render": (
        SOUND._replace(render=lambda state: state[0]),
        r"render must return uint8 \[H, W, 3\], got float32\[2\]",
    ),
    "numpy's random numbers": (
        SOUND._replace(step=numpy_noise),
        "step is another program each time .* without the key",
    ),
    "Python's random numbers": (SOUND._replace(reset=random_reset), "reset is another program each time"),
    "a counter": (SOUND._replace(step=counting), "step is another program each time .* changes Python objects"),
    "a kept array": (SOUND._replace(step=leaking), "step reads an array that an earlier call kept in a Python object"),
    "a callback in order": (SOUND._replace(step=printing), "step has side effects"),
    "a callback that draws": (SOUND._replace(step=by_callback), "the same keys gave two different episodes"),
    "nan observation": (
        after(lambda s, o, r, d, e: (s, jnp.where(s[1] == 3, jnp.nan, o), r, d, e)),
        r"obs is not finite \(after step 3 of",
    ),
    "nan at once": (
        SOUND._replace(reset=lambda key: (reset(key)[0], reset(key)[1] / 0), observe=None),
        r"obs is not finite \(after reset\)",
    ),
    "nan reward": (
        after(lambda s, o, r, d, e: (s, o, jnp.log(-1.0 * s[1]), d, e)),
        r"reward is not finite \(after step 1 of",
    ),
    "nan discount": (after(lambda s, o, r, d, e: (s, o, r, d * jnp.nan, e)), "discount is not finite"),
    "beyond the bounds": (
        after(lambda s, o, r, d, e: (s, jnp.where(s[1] == 2, 7.0, o), r, d, e)),
        r"obs is outside spec.obs, -5.0 to 5.0: an entry is 7 \(after step 2 of",
    ),
    "gamma": (after(lambda s, o, r, d, e: (s, o, r, 0.99 * d, e)), "discount must be 0, 1 or -1, got 0.99"),
    "no end after termination": (
        after(lambda s, o, r, d, e: (s, o, r, d * (s[1] < 3), e)),
        r"discount is 0 twice in a row and last is False.*after step 4",
    ),
    "an end that the spec rules out": (
        spec(terminates=False)._replace(step=lambda *args: (*(out := step(*args))[:3], 1.0 - out[4], out[4])),
        "discount is 0 though spec.terminates is False .*after step 6",
    ),
    "no last": (
        after(lambda s, o, r, d, e: (s, o, r, d, e & False)),
        "last never came within spec.time_limit = 6 steps",
    ),
    "a limit that the spec hides": (
        spec(time_limit=None),
        "last is True with a discount that is not 0, and spec.time_limit is None",
    ),
    "observe": (SOUND._replace(observe=lambda state: state[0] + 1), r"observe\(state\) differs from the observation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_and_named(name):
    env, message = FAULTS[name]
    found = find_faults(env)
    assert len(found) == 1, found
    assert re.search(message, found[0]), found


def test_what_is_sound_passes():
    assert find_faults(SOUND) == []
    assert check_env(SOUND) is None
    jitted = SOUND._replace(reset=jax.jit(reset), step=jax.jit(step))
    assert find_faults(jitted) == []


def test_all_faults_are_listed_at_once():
    def change(state, obs, reward, discount, last):
        return state, jnp.where(state[1] > 2, jnp.nan, obs), reward, 0.5 * discount, last & False

    with pytest.raises(ValueError, match=r"(?s)drift has 3 faults:\n  1\. obs .*\n  2\. discount .*\n  3\. last never"):
        mbrl.check_env(after(change))


def test_a_time_limit_beyond_the_steps_that_are_tried_is_not_held_against_the_environment():
    env = after(lambda s, o, r, d, e: (s, o, r, d, e & False))
    assert find_faults(env._replace(spec=SPEC._replace(time_limit=500)), steps=20) == []


def dict_of(change):
    """The sound environment with a dict of a place and a number as observation, changed."""
    space = DictSpace({"place": Box((2,), -5.0, 5.0), "time": MultiDiscrete((7, 2))})

    def seen(state):
        return change({"place": state[0], "time": jnp.stack([state[1], state[1] * 0])})

    def new_reset(key):
        state, _ = reset(key)
        return state, seen(state)

    def new_step(key, state, action):
        state, _, *rest = step(key, state, action)
        return state, seen(state), *rest

    return Env(SPEC._replace(obs=space), new_reset, new_step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda obs: obs, None),
        (lambda obs: {"place": obs["place"]}, "obs of reset and step must be a dict of place, time, got one of place"),
        (
            lambda obs: obs | {"place": obs["place"][:1]},
            r"must have shape \(2,\), as spec.obs says, got \(1,\) in 'place'",
        ),
        (
            lambda obs: obs | {"time": jnp.float32(obs["time"])},
            r"must be whole numbers \[2\], got float32\[2\] in 'time'",
        ),
        (lambda obs: obs | {"time": obs["time"] + 2}, "obs is outside spec.obs: an entry is 8"),
    ],
)
def test_a_dict_of_observations_is_checked_leaf_by_leaf(change, message):
    found = find_faults(dict_of(change))
    assert len(found) == (message is not None), found
    assert message is None or re.search(message, found[0]), found


@pytest.mark.parametrize("name", ["CartPoleSwingUp", "TicTacToe", "MemoryChain-bsuite"])
def test_environments_of_the_library_pass(name):
    assert find_faults(make_env(name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ENVS, "Pendulum-v1-x2"])
def test_every_environment_of_the_library_passes(name):
    assert find_faults(make_env(name)) == []
