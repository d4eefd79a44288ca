"""Which environments there are by name: a table that is read at run time and imports nothing until it is asked for."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mbrl_jax.envs.user_code import imported

if TYPE_CHECKING:
    from mbrl_jax.core.types import Env, HostEnv, Spec


class Entry(NamedTuple):
    """How an environment is made: a function as "module:name", and what it is called with."""

    factory: str | Callable[..., Env]
    kwargs: dict[str, Any] = {}  # noqa: RUF012, never written to


HOME = "mbrl_jax.envs"
GYMNAX = f"{HOME}.registry:from_gymnax"

ENVS: dict[str, Entry] = {
    "Pendulum-v1": Entry(GYMNAX, {"name": "Pendulum-v1"}),
    "CartPole-v1": Entry(GYMNAX, {"name": "CartPole-v1"}),
    "CartPole-hidden": Entry(f"{HOME}.registry:hidden_cartpole"),
    "ContinuousCartPole": Entry(f"{HOME}.cartpole:continuous_cartpole"),
    "CartPoleSwingUp": Entry(f"{HOME}.cartpole:cartpole_swingup"),
    "Pendulum-sparse": Entry(f"{HOME}.sparse:pendulum"),
    "CartPoleSwingUp-sparse": Entry(f"{HOME}.sparse:cartpole_swingup"),
    "Catch-bsuite": Entry(GYMNAX, {"name": "Catch-bsuite"}),
    "MountainCarContinuous-v0": Entry(GYMNAX, {"name": "MountainCarContinuous-v0", "scaled": True}),
    "MemoryChain-bsuite": Entry(GYMNAX, {"name": "MemoryChain-bsuite"}),
    "Breakout-MinAtar": Entry(GYMNAX, {"name": "Breakout-MinAtar"}),
    "DynaMaze": Entry(f"{HOME}.maze:dyna_maze", {"time_limit": 2_000}),
    "BlockingMaze": Entry(f"{HOME}.maze:blocking_maze", {"time_limit": 3_000}),
    "ShortcutMaze": Entry(f"{HOME}.maze:shortcut_maze", {"time_limit": 6_000}),
    "FrozenLake": Entry(f"{HOME}.discrete:frozen_lake"),
    "FrozenLake-deterministic": Entry(f"{HOME}.discrete:frozen_lake", {"slippery": False}),
    "FourRooms": Entry(f"{HOME}.discrete:four_rooms"),
    "DeepSea": Entry(f"{HOME}.discrete:deep_sea"),
    "Catch": Entry(f"{HOME}.discrete:catch"),
    "Pendulum-pixels": Entry(f"{HOME}.pixel_tasks:pendulum"),
    "CartPole-pixels": Entry(f"{HOME}.pixel_tasks:cartpole"),
    "CartPoleSwingUp-pixels": Entry(f"{HOME}.pixel_tasks:swingup"),
    "Pendulum-pixels-64": Entry(f"{HOME}.pixel_tasks:pendulum", {"size": 64}),
    "CartPole-pixels-64": Entry(f"{HOME}.pixel_tasks:cartpole", {"size": 64}),
    "CartPoleSwingUp-pixels-64": Entry(f"{HOME}.pixel_tasks:swingup", {"size": 64}),
    "Reach": Entry(f"{HOME}.reach:reach"),
    "Reach-seen": Entry(f"{HOME}.reach:reach_seen"),
    "TicTacToe": Entry(f"{HOME}.tictactoe:tictactoe", {"openings": 4}),
}
"""Every environment with settings of its own, by its name on the command line."""


class About(NamedTuple):
    """An environment in words, for who lists it without making it."""

    obs: str
    action: str
    time_limit: int | None


ABOUT: dict[str, About] = {
    "Pendulum-v1": About("3 numbers", "1 continuous", 200),
    "CartPole-v1": About("4 numbers", "2 discrete", 500),
    "CartPole-hidden": About("2 numbers", "2 discrete", 500),
    "ContinuousCartPole": About("4 numbers", "1 continuous", 200),
    "CartPoleSwingUp": About("5 numbers", "1 continuous", 200),
    "Pendulum-sparse": About("3 numbers", "1 continuous", 200),
    "CartPoleSwingUp-sparse": About("5 numbers", "1 continuous", 200),
    "Catch-bsuite": About("50 numbers", "3 discrete", 1000),
    "MountainCarContinuous-v0": About("2 numbers", "1 continuous", 999),
    "MemoryChain-bsuite": About("3 numbers", "2 discrete", 1000),
    "Breakout-MinAtar": About("planes 10 x 10 x 4", "3 discrete", 1000),
    "DynaMaze": About("54 states", "4 discrete", 2000),
    "BlockingMaze": About("54 states", "4 discrete", 3000),
    "ShortcutMaze": About("54 states", "4 discrete", 6000),
    "FrozenLake": About("16 states", "4 discrete", 100),
    "FrozenLake-deterministic": About("16 states", "4 discrete", 100),
    "FourRooms": About("169 states", "4 discrete", 500),
    "DeepSea": About("72 states", "2 discrete", 8),
    "Catch": About("250 states", "3 discrete", 1000),
    "TicTacToe": About("planes 3 x 3 x 2", "9 discrete", 9),
    "Pendulum-pixels": About("image 32 x 32 x 3", "1 continuous", 200),
    "CartPole-pixels": About("image 32 x 32 x 3", "2 discrete", 500),
    "CartPoleSwingUp-pixels": About("image 32 x 32 x 3", "1 continuous", 200),
    "Pendulum-pixels-64": About("image 64 x 64 x 3", "1 continuous", 200),
    "CartPole-pixels-64": About("image 64 x 64 x 3", "2 discrete", 500),
    "CartPoleSwingUp-pixels-64": About("image 64 x 64 x 3", "1 continuous", 200),
    "Reach": About("4 numbers", "3 x 3 discrete", 30),
    "Reach-seen": About("image: image 32 x 32 x 3, goal: 2 numbers", "3 x 3 discrete", 30),
}
"""What `about` says of environments of `ENVS`, so that a list of them imports nothing."""


class Library(NamedTuple):
    """A library of environments, each "LIBRARY:NAME"."""

    make: str  # "module:function"; `names` in the same module lists its names
    """(name) -> Env; where `host`, (name, repeat, view, **kwargs) -> HostEnv"""
    extra: str  # of this package, which installs it
    summary: str
    examples: dict[str, About]
    host: bool = False  # whether its steps are Python


LIBRARIES: dict[str, Library] = {
    "gymnasium": Library(
        f"{HOME}.adapters.gymnasium:make", "gymnasium", "Gymnasium, steps in Python: MuJoCo's robots and others",
        {
            "Pendulum-v1": About("3 numbers", "1 continuous", 200),
            "CartPole-v1": About("4 numbers", "2 discrete", 500),
            "HalfCheetah-v5": About("17 numbers", "6 continuous", 1000),
            "Hopper-v5": About("11 numbers", "3 continuous", 1000),
            "Walker2d-v5": About("17 numbers", "6 continuous", 1000),
            "Ant-v5": About("105 numbers", "8 continuous", 1000),
            "Humanoid-v5": About("348 numbers", "17 continuous", 1000),
            "Hopper-v5-pixels": About("image 64 x 64 x 3", "3 continuous", 1000),
            "ALE/Pong-v5": About("image 210 x 160 x 3", "6 discrete", 27_000),
            "ALE/Pong-v5-pixels-84-grey-stack4": About("image 84 x 84 x 4", "6 discrete", 27_000),
        },
        host=True,
    ),
    "dm_control": Library(
        f"{HOME}.adapters.dm_control:make", "dm-control", "the DeepMind Control Suite, steps in Python",
        {
            "cartpole-swingup": About("5 numbers", "1 continuous", 1000),
            "reacher-easy": About("6 numbers", "2 continuous", 1000),
            "cheetah-run": About("17 numbers", "6 continuous", 1000),
            "walker-walk": About("24 numbers", "6 continuous", 1000),
            "humanoid-run": About("67 numbers", "21 continuous", 1000),
            "cartpole-swingup-pixels": About("image 64 x 64 x 3", "1 continuous", 1000),
        },
        host=True,
    ),
    "craftax": Library(
        f"{HOME}.adapters.craftax:make", "craftax", "Craftax: open-ended survival",
        {
            "Craftax-Classic-Symbolic-v1": About("1345 numbers", "17 discrete", 10_000),
            "Craftax-Classic-Pixels-v1": About("image 63 x 63 x 3", "17 discrete", 10_000),
            "Craftax-Symbolic-v1": About("8268 numbers", "43 discrete", 100_000),
            "Craftax-Pixels-v1": About("image 130 x 110 x 3", "43 discrete", 100_000),
        },
    ),
    "playground": Library(
        f"{HOME}.adapters.playground:make", "playground", "MuJoCo Playground: robots and the control suite on MJX",
        {
            "CartpoleSwingup": About("5 numbers", "1 continuous", 1000),
            "CheetahRun": About("17 numbers", "6 continuous", 1000),
        },
    ),
    "brax": Library(
        f"{HOME}.adapters.brax:make", "brax", "Brax: rigid bodies",
        {
            "ant": About("27 numbers", "8 continuous", 1000),
            "halfcheetah": About("17 numbers", "6 continuous", 1000),
        },
    ),
}  # fmt: skip
"""The libraries whose environments go by "LIBRARY:NAME", with what `about` says of some."""

EXTRAS: dict[str, str] = {
    "gymnasium": "gymnasium", "atari": "ale_py", "dm-control": "dm_control", "craftax": "craftax",
    "playground": "mujoco_playground", "brax": "brax", "games": "pgx",
}  # fmt: skip
"""The extras of this package that bring environments, and a module of each."""


def needs(name: str) -> tuple[str, tuple[str, ...]]:
    """The extra that brings an environment of one of `LIBRARIES`, and the modules that the environment imports.

    Args:
      name: "LIBRARY:NAME".
    """
    library, _, inner = name.partition(":")
    if library == "gymnasium" and inner.startswith("ALE/"):
        return "atari", ("gymnasium", EXTRAS["atari"])
    extra = LIBRARIES[library].extra
    robots = library == "gymnasium" and "-v5" in inner  # the version of those on MuJoCo alone
    return extra, (EXTRAS[extra], "mujoco") if robots else (EXTRAS[extra],)


EVAL_ENVS: dict[str, Callable[[], Env]] = {"TicTacToe": lambda: perfect_opponent()}
"""What evaluation episodes are played in, where that is not the environment of the training, by its spec's name."""


LONGEST_NAME, MOST_REPEATS = 200, 10_000
"""Characters of an environment's name, and repetitions of an action where no time limit ends an episode, at most."""


def register_env(name: str, factory: str | Callable[..., Env], **kwargs: Any) -> None:
    """Adds a user's environment to `ENVS`.

    Args:
      name: on the command line; letters, digits, `_`, `-`, `.` and `:`.
      factory: (**kwargs) -> Env, or "module:name" of it.
      kwargs: what it is called with.
    Raises:
      ValueError: the name is taken, or has other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        raise ValueError(f"name must be letters, digits and _ - . :, got {name!r}")
    if name in ENVS:
        raise ValueError(f"name must be new, got {name!r}, which is an environment already")
    ENVS[name] = Entry(factory, kwargs)


def from_gymnax(name: str, scaled: bool = False, **params: Any) -> Env:
    """An environment of gymnax in the form that agents take: observations flat but for planes, actions in [-1, 1].

    Args:
      name: gymnax's.
      scaled: scale observations to [-1, 1] by their bounds.
      params: its settings, `max_steps_in_episode` for example.
    Raises:
      ValueError: gymnax has no environment of this name, or it has no such setting.
    """
    from mbrl_jax.core.types import Box, Discrete
    from mbrl_jax.envs import drawings, wrappers
    from mbrl_jax.envs.adapters import gymnax

    env = drawings.gymnax(gymnax.make(name, **params))
    if isinstance(env.spec.obs, Box) and len(env.spec.obs.shape) != 3:
        env = wrappers.flatten(env)
    env = env if isinstance(env.spec.action, Discrete) else wrappers.scale_action(env)
    return wrappers.scale_obs(env) if scaled else env


def hidden_cartpole() -> Env:
    """CartPole-v1 without its velocities."""
    from mbrl_jax.envs.hidden import hide

    return hide(from_gymnax("CartPole-v1"), (1, 3), "CartPole-hidden")


def perfect_opponent() -> Env:
    """Tic-tac-toe against the perfect player."""
    from mbrl_jax.envs import games, tictactoe

    return games.versus(tictactoe.tictactoe(), tictactoe.perfect)


def repetition(name: str) -> tuple[str, int]:
    """What "NAME-x8" repeats, and how often: the environment's own name, and 1 where nothing is repeated."""
    repeated = re.fullmatch(r"(.+)-x([2-9]|[1-9]\d+)", name)
    return (repeated[1], int(repeated[2])) if repeated else (name, 1)


def stacking(name: str) -> tuple[str, int]:
    """What "NAME-stack3" stacks the frames of, and how many: the environment's own name, and 1 for single frames."""
    stacked = re.fullmatch(r"(.+)-stack([2-9]|[1-9]\d+)", name)
    return (stacked[1], int(stacked[2])) if stacked else (name, 1)


def task_name(name: str) -> str:
    """The environment's own name, without what it repeats or stacks: "NAME" of "NAME-x2-stack3"."""
    return repetition(stacking(name)[0])[0]


def is_own(name: str) -> bool:
    """Whether a name leads to a reader's own environment: "module:function" or "file.py:function"."""
    base = task_name(name)
    return ":" in base and not {name, base} & set(ENVS) and base.partition(":")[0] not in LIBRARIES


def about(spec: Spec) -> About:
    """An environment's spaces and time limit in words.

    Args:
      spec: of the environment.
    """
    import numpy as np

    from mbrl_jax.core.types import Box, DictSpace, Discrete, MultiDiscrete

    def shape(space: Any) -> str:
        return " x ".join(map(str, space.shape))

    def observed(space: Any) -> str:
        if isinstance(space, DictSpace):
            return ", ".join(f"{name}: {observed(leaf)}" for name, leaf in space.spaces.items())
        if isinstance(space, Discrete):
            return f"{space.n} states"
        if isinstance(space, Box) and len(space.shape) == 3:
            return f"{'image' if np.dtype(space.dtype) == np.uint8 else 'planes'} {shape(space)}"
        return f"{shape(space)} numbers" if isinstance(space, Box) and space.shape else str(space)

    action = spec.action
    acts = f"{action.n} discrete" if isinstance(action, Discrete) else str(action)
    if isinstance(action, Box):
        acts = f"{shape(action)} continuous"
    if isinstance(action, MultiDiscrete):
        acts = f"{' x '.join(map(str, action.nvec))} discrete"
    return About(observed(spec.obs), acts, spec.time_limit)


def settle(name: str) -> str:
    """An environment's name as a run records it; a reader's own environment is imported, made and checked first.

    Args:
      name: of any environment. That of a reader's own one, "file.py:function", becomes one that works from any folder.
    Raises:
      ValueError: a reader's own environment does not exist, or `check_env` finds something wrong with it.
    """
    if not is_own(name):
        return name
    from mbrl_jax.core.types import Env
    from mbrl_jax.envs import own
    from mbrl_jax.envs.check import check_env

    inner, frames = stacking(name)
    base, times = repetition(inner)
    env = own.make(base, times)
    try:
        if isinstance(env, Env):
            check_env(env)
    except ValueError as error:
        raise ValueError(f"env: {error}") from error
    stacked = f"-stack{frames}" if frames > 1 else ""
    return own.find(base).name + (f"-x{times}" if times > 1 else "") + stacked


def is_host(name: str) -> bool:
    """Whether the steps of an environment are Python, as those of some of `LIBRARIES` are."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library in LIBRARIES and LIBRARIES[library].host


def _host_env(name: str, kwargs: dict[str, Any]) -> HostEnv:
    """An environment of a library whose steps are Python."""
    from mbrl_jax.envs import host
    from mbrl_jax.envs.cameras import viewed

    inner, frames = stacking(name)
    base, times = repetition(inner)
    prefix, _, rest = base.partition(":")
    rest, view = viewed(rest)
    env: HostEnv = imported(LIBRARIES[prefix].make)(rest, times, view, **kwargs)
    if env.spec.time_limit == 1 or times > MOST_REPEATS:
        raise ValueError(f"env must repeat an action for less than an episode of {base}, got {name!r}")
    return env if frames == 1 else host.frame_stack(env, frames)


def _entry(name: str, kwargs: dict[str, Any]) -> Env:
    """An environment of `ENVS`."""
    factory, usual = ENVS[name]
    made = imported(factory)
    try:
        inspect.signature(made).bind(**{**usual, **kwargs})
    except TypeError as error:
        known = ", ".join(inspect.signature(made).parameters) or "none"
        raise ValueError(f"env_arg: {name} takes the arguments {known}, got {', '.join(kwargs)}") from error
    return made(**{**usual, **kwargs})


def make_env(name: str | Env | Callable[[], Env], **kwargs: Any) -> Env:
    """An environment by name, or what a function makes.

    A name is one of `ENVS`, any of gymnax's, a game of pgx as "NAME-pgx", "LIBRARY:NAME" with one of `LIBRARIES`, or a
    reader's own "module:function" or "path/to/file.py:function". Continuous actions are in [-1, 1].

    "NAME-x8" is the same with each action repeated 8 times, by any number from 2 on: its steps are decisions.
    "NAME-stack3", or "NAME-x8-stack3", shows the last 3 frames of an environment that is observed as images or planes.
    "LIBRARY:NAME-pixels", "-pixels-84" or "-pixels-84-grey" is one with Python steps seen as a picture of that size, 64
    if none is given.
    gymnax's observations are flattened, but for numbered states and for planes [height, width, channels].

    Args:
      name: as above; a function without arguments is called, and an environment returned unchanged. One of Gymnasium
        or dm_control, a reader's own too, gives a `HostEnv`.
      kwargs: arguments of the environment: `max_steps_in_episode=100` for one of gymnax's.
    Raises:
      ValueError: no environment has this name, it takes no such argument, it repeats an action for longer than an
        episode, or it has no frames to stack, or more of them than an episode.
    """
    if not isinstance(name, str):
        return _made(name)
    if is_host(name):
        return cast("Env", _host_env(name, kwargs))
    if name in ENVS:
        return _entry(name, kwargs)
    if len(name) > LONGEST_NAME and not is_own(name):
        raise ValueError(f"env must be a name of at most {LONGEST_NAME} characters, got one of {len(name)}")
    base, frames = stacking(name)
    if frames > 1:
        return _changed(name, base, frames, "stack at most {} frames", "frame_stack", kwargs)
    base, times = repetition(name)
    if times > 1:
        return _changed(name, base, times, "repeat an action at most {} times", "repeat_action", kwargs)
    library, _, rest = name.partition(":")
    if rest and library in LIBRARIES:
        _no_arguments(f"{name} takes no arguments", kwargs)
        return imported(LIBRARIES[library].make)(rest)
    if is_own(name):
        from mbrl_jax.envs import own

        _no_arguments(f"{name} is called without arguments", kwargs)
        return own.make(name)
    if name.endswith("-pgx"):
        from mbrl_jax.envs.adapters import pgx

        return pgx.make(name.removesuffix("-pgx"))
    try:
        return from_gymnax(name, **kwargs)
    except ValueError as error:
        if kwargs:
            raise  # it may be about them
        close = difflib.get_close_matches(name, ENVS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        allowed = f"env must be one of {', '.join(ENVS)}, {'NAME, '.join(f'{p}:' for p in LIBRARIES)}NAME"
        allowed += " or a gymnax environment"
        raise ValueError(f"{allowed}, got {name!r}{hint}") from error


def _no_arguments(why: str, kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise ValueError(f"env_arg: {why}, got {', '.join(kwargs)}")


def _changed(name: str, base: str, count: int, what: str, wrapper: str, kwargs: dict[str, Any]) -> Env:
    """An environment in a wrapper that takes a count, at most an episode."""
    from mbrl_jax.envs import wrappers

    inner = make_env(base, **kwargs)
    if not hasattr(inner, "reset"):  # a `HostEnv`: a reader's own Gymnasium environment
        from mbrl_jax.envs import host, own

        host_env: Any = inner
        changed: Any = own.make(base, count) if wrapper == "repeat_action" else host.frame_stack(host_env, count)
        return changed
    most = inner.spec.time_limit or MOST_REPEATS
    if count > most:
        raise ValueError(f"env must {what.format(most)}, an episode of {base}, got {name!r}")
    env = getattr(wrappers, wrapper)(inner, count)
    short = f"{inner.spec.name}{name.removeprefix(base)}"
    return env._replace(spec=env.spec._replace(name=short if is_own(name) else name))


def _made(env: Env | Callable[[], Env]) -> Env:
    """An environment, or what a function makes."""
    from mbrl_jax.core.types import Env

    made = env() if callable(env) else env
    if not isinstance(made, Env):
        raise ValueError(f"env must be a name, an Env or a function that returns one, got a {type(made).__name__}")
    return made
