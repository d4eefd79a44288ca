"""Which agents there are by name: a table that is read at run time and imports no agent until it is asked for.

An entry names an agent's parts as "module:name", or holds them. A user's agent enters by `register_agent`, or as a
further entry of `AGENTS`:

    register_agent("mine", MyConfig, make_mine, summary="what it is in a line")

`MyConfig` is a `@config` class, `make_mine` a function (config, spec) -> `Agent`. No table of settings is needed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mbrl_jax.envs.user_code import import_user_module, imported

if TYPE_CHECKING:
    from mbrl_jax.core.types import Agent, Buffer

Part: TypeAlias = "str | Callable[..., Any]"
Kind = Literal["discrete", "continuous"]
Replay = Literal["transitions", "latest", "windows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What the library must know of an agent to configure, build and run it.

    Parts given as "module:name" are imported when they are first read.
    """

    summary: str = ""  # one line for the command line's overview
    config_part: Part  # a `@config` class, or a function that returns one; its defaults suit no environment
    make_part: Part  # (config, spec) -> Agent; (config, env) with `simulator`
    replay: Replay = "transitions"  # single rows, the newest trajectory, or windows of consecutive steps
    buffer_part: Part | None = None  # (config, capacity, num_envs) -> Buffer, with "windows"
    window_part: Part | None = None  # (config) -> rows of a window, with "windows"
    open_loop_part: Part | None = None  # (config, spec, learner) -> OpenLoopModel, where its model can be looked into
    model_part: Part | None = None  # (config, spec, learner) -> LearnedModel, or with env for spec with `simulator`
    action_kinds: tuple[Kind, ...] = ("discrete", "continuous")
    dicts: bool = False  # takes observations that are a dict of arrays
    factored: bool = False  # handles vectors of discrete actions, `MultiDiscrete`, too
    table: bool = False  # needs numbered states; other agents get them as one-hot vectors
    planes: bool = False  # takes planes [height, width, channels] as they are; other agents get them flattened
    images: bool = False  # takes images of bytes [height, width, channels]; so do all that take planes
    simulator: bool = False  # plans in the environment itself, and sees its state
    games: bool = False  # handles illegal actions and a second player
    offline: bool = False  # learns from a data set alone: a run needs one
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings of its parts that it has no use for, and why: `build` refuses to change them."""

    @property
    def config(self) -> Callable[[], Any]:
        """The class of its settings, or the function that returns their defaults."""
        return imported(self.config_part)

    @property
    def make(self) -> Callable[[Any, Any], Agent]:
        """(config, spec) -> Agent, or (config, env) with `simulator`."""
        return imported(self.make_part)

    @property
    def buffer(self) -> Callable[[Any, int, int], Buffer] | None:
        """(config, capacity, num_envs) -> Buffer of windows, or None."""
        return imported(self.buffer_part)

    @property
    def window(self) -> Callable[[Any], int] | None:
        """(config) -> rows of the windows it learns from, or None."""
        return imported(self.window_part)

    @property
    def open_loop_model(self) -> Callable[[Any, Any, Any], Any] | None:
        """(config, spec, learner) -> OpenLoopModel, or None where there is no latent model to look into."""
        return imported(self.open_loop_part)

    @property
    def learned_model(self) -> Callable[[Any, Any, Any], Any] | None:
        """(config, spec, learner) -> LearnedModel, or None for an agent without a model."""
        return imported(self.model_part)

    @property
    def actions(self) -> tuple[type, ...]:
        """The classes of the action spaces it handles."""
        from mbrl_jax.core.types import Box, Discrete

        return tuple({"discrete": Discrete, "continuous": Box}[kind] for kind in self.action_kinds)


MODEL_FREE = ("q_learning", "dqn", "ppo", "sac", "offline.bc", "offline.iql")


def _agent(
    module: str, config: str, summary: str, replay: Replay = "transitions", looked_into: bool = False, **rest: Any
) -> Algorithm:
    """The entry of a module of `mbrl_jax.agents` whose parts bear the usual names."""
    home = f"mbrl_jax.agents.{module}"
    windows = replay == "windows"
    return Algorithm(
        summary=summary,
        config_part=f"{home}:{config}",
        make_part=rest.pop("make_part", f"{home}:make"),
        replay=replay,
        buffer_part=f"{home}:buffer" if windows else None,
        window_part=f"{home}:window" if windows else None,
        open_loop_part=f"{home}:open_loop_model" if looked_into else None,
        model_part=None if module in MODEL_FREE else f"{home}:learned_model",
        **rest,
    )


DISCRETE: tuple[Kind, ...] = ("discrete",)

NO_PRIOR = "the model proposes no actions"
ONE_TASK = "a run has one environment; agents.tdmpc2.make takes several tasks"

IGNORED_MPC: dict[str, str] = {f"planner.{kind}.proposals": NO_PRIOR for kind in ("shooting", "cem", "icem", "mppi")}
IGNORED_TDMPC2: dict[str, str] = {
    "planner.gamma": "the discount comes from the time limit, agent.gamma_low and agent.gamma_high",
    "net.tasks": ONE_TASK,
    "net.task_dim": ONE_TASK,
}

AGENTS: dict[str, Algorithm] = {
    "q_learning": _agent(
        "q_learning", "QLearningConfig", "tabular Q-learning", "latest", action_kinds=DISCRETE, table=True
    ),
    "dyna_q": _agent(
        "dyna_q", "DynaQConfig", "Q-learning that plans with a table of what it saw", "latest",
        action_kinds=DISCRETE, table=True,
    ),
    "dyna_q_plus": _agent(
        "dyna_q", "dyna_q_plus", "Dyna-Q with a bonus for what it has not tried for long", "latest",
        action_kinds=DISCRETE, table=True,
    ),
    "sweeping": _agent(
        "sweeping", "SweepingConfig", "prioritized sweeping: planned backups where the error is largest", "latest",
        action_kinds=DISCRETE, table=True,
    ),
    "dqn": _agent(
        "dqn", "DQNConfig", "deep Q-network, double and with a target network, model-free",
        action_kinds=DISCRETE, planes=True, dicts=True,
    ),
    "dyna_dqn": _agent(
        "dyna_dqn", "DynaDQNConfig", "deep Dyna: DQN with more updates, on rollouts of a learned model",
        action_kinds=DISCRETE,
    ),
    "ppo": _agent(
        "ppo", "PPOConfig", "proximal policy optimisation, model-free and on-policy", "latest", planes=True,
        factored=True, dicts=True,
    ),
    "sac": _agent("sac", "SACConfig", "soft actor-critic, model-free"),
    "mbpo": _agent("mbpo", "MBPOConfig", "SAC on short rollouts of a learned ensemble"),
    "pets": _agent(
        "pets", "PETSConfig", "planning in every step with a learned ensemble",
        make_part="mbrl_jax.presets.rewards:make_pets", ignored=IGNORED_MPC,
    ),
    "mpc": _agent(
        "mpc", "MPCConfig", "planning in every step with the true dynamics; nothing is learned", "latest",
        simulator=True, ignored=IGNORED_MPC,
    ),
    "uct": _agent(
        "uct", "UCTConfig", "tree search with random rollouts in the true dynamics; nothing is learned", "latest",
        action_kinds=DISCRETE, simulator=True, games=True,
    ),
    "alphazero": _agent(
        "alphazero", "AlphaZeroConfig", "tree search in the true dynamics, guided by a learned policy and value",
        "windows", action_kinds=DISCRETE, simulator=True, games=True,
    ),
    "muzero": _agent(
        "muzero", "MuZeroConfig", "tree search in a latent model that is learned for the search alone", "windows",
        action_kinds=DISCRETE, planes=True, games=True,
    ),
    "dreamer_v1": _agent(
        "dreamer.v1", "DreamerV1Config", "an actor on the gradient of imagined returns", "windows", True, planes=True,
        factored=True, dicts=True, ignored={"net.classes": "its latents are Gaussian"},
    ),
    "dreamer_v2": _agent(
        "dreamer.v2", "DreamerV2Config", "an actor and critic in the imagination of a discrete model", "windows", True,
        planes=True, factored=True, dicts=True,
    ),
    "dreamer_v3": _agent(
        "dreamer.v3", "DreamerV3Config", "the same, with one set of settings for many tasks", "windows", True,
        planes=True, factored=True, dicts=True,
    ),
    "world_models": _agent(
        "world_models.agent", "WorldModelsConfig", "a linear controller that evolves in a learned dream", "windows",
        True, planes=True, factored=True,
    ),
    "tdmpc2": _agent(
        "tdmpc2", "TDMPC2Config", "planning in a learned latent model with a learned value and policy", "windows",
        True, action_kinds=("continuous",), images=True, ignored=IGNORED_TDMPC2,
    ),
    "bc": _agent("offline.bc", "BCConfig", "behaviour cloning of a data set", offline=True),
    "iql": _agent("offline.iql", "IQLConfig", "implicit Q-learning from a data set, model-free", offline=True),
    "mopo": _agent(
        "offline.mopo", "MOPOConfig", "SAC in a model of a data set, rewards lowered where it is uncertain",
        offline=True,
    ),
    "morel": _agent(
        "offline.morel", "MOReLConfig", "SAC in a model of a data set that ends where its members disagree",
        offline=True,
    ),
    "combo": _agent(
        "offline.combo", "COMBOConfig", "SAC in a model of a data set, critics lowered off the data", offline=True
    ),
    "rambo": _agent(
        "offline.rambo", "RAMBOConfig", "SAC in a model of a data set that is trained against it", offline=True
    ),
}  # fmt: skip
"""Every agent by its name on the command line."""


def register_agent(name: str, config: Part, make: Part, **rest: Any) -> None:
    """Adds a user's agent to `AGENTS`.

    Args:
      name: on the command line; letters, digits, `_` and `-`.
      config: a `@config` class, or "module:name" of one.
      make: (config, spec) -> Agent, or "module:name" of it.
      rest: further fields of `Algorithm`: `summary`, `action_kinds`, `replay`, with `replay="windows"` also
        `buffer_part` and `window_part`, and `model_part` for `Run.model`.
    Raises:
      ValueError: the name is taken or no word, or an agent that learns from windows names no buffer.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"name must be letters, digits, _ and -, got {name!r}")
    if name in AGENTS:
        raise ValueError(f"name must be new, got {name!r}, which is an agent already")
    entry = Algorithm(config_part=config, make_part=make, **rest)
    if entry.replay == "windows" and (entry.buffer_part is None or entry.window_part is None):
        raise ValueError(f'{name}: replay="windows" needs buffer_part and window_part')
    AGENTS[name] = entry


def import_agents(where: str) -> str:
    """Imports a module that registers agents.

    Args:
      where: "package.module", or the path of a file that ends in ".py". A module is imported once in a process.
    Returns:
      what names the module from any folder: `where`, a path made absolute.
    Raises:
      ValueError: there is no such module or file, or another module has the file's name.
    """
    return import_user_module(where, "agent_module")[1]
