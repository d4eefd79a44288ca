"""The types that all packages share: model, planner, agent, buffer and environment.

Each record is a `NamedTuple` of pure functions or of arrays. A `Protocol` documents the contract of a function in a
record: argument order, shapes and meaning. Shapes in brackets are those of one unbatched call; callers `vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import chex
import jax
import jax.numpy as jnp

Array: TypeAlias = jax.Array
Key: TypeAlias = chex.PRNGKey  # a scalar typed key, made by `jax.random.key`
Tree: TypeAlias = Any  # any pytree of arrays
State: TypeAlias = Any  # a model's or an environment's state, any pytree
Obs: TypeAlias = Any
Action: TypeAlias = Any
Params: TypeAlias = Any
Metrics: TypeAlias = dict[str, Array]  # names to scalars


# Spaces -------------------------------------------------------------------------------------------------------------


class Discrete(NamedTuple):
    """The integers 0 to n - 1, as int32 scalars."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> Any:
        return jnp.int32

    def sample(self, key: Key) -> Array:
        """A uniform draw, [] int32."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)


class Box(NamedTuple):
    """Real arrays of one shape. `low` and `high` bound every entry and are infinite where there is no bound."""

    shape: tuple[int, ...]
    low: Any = -math.inf  # float, or an array that broadcasts to `shape`
    high: Any = math.inf
    dtype: Any = jnp.float32

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def sample(self, key: Key) -> Array:
        """A uniform draw from a bounded box, [*shape]."""
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)


class MultiDiscrete(NamedTuple):
    """Vectors of integers: entry i is one of 0 to nvec[i] - 1. `multi_binary(n)` has n entries of 0 or 1."""

    nvec: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)

    @property
    def dtype(self) -> Any:
        return jnp.int32

    @property
    def size(self) -> int:
        """Entries of `one_hot`."""
        return sum(self.nvec)

    def sample(self, key: Key) -> Array:
        """A uniform draw of every entry, [k] int32."""
        return jax.random.randint(key, self.shape, 0, jnp.array(self.nvec, jnp.int32), jnp.int32)

    def one_hot(self, action: Array) -> Array:
        """The one-hot codes of all entries, one after the other, [size] float32."""
        codes = [jax.nn.one_hot(action[i], n, dtype=jnp.float32) for i, n in enumerate(self.nvec)]
        return jnp.concatenate(codes)

    def split(self, vector: Array) -> list[Array]:
        """A vector [size], of codes or of logits, in parts of nvec[i] entries."""
        starts = [sum(self.nvec[:i]) for i in range(len(self.nvec))]
        return [vector[start : start + n] for start, n in zip(starts, self.nvec, strict=True)]


def multi_binary(n: int) -> MultiDiscrete:
    """Vectors of n entries of 0 or 1, as a `MultiDiscrete`."""
    return MultiDiscrete((2,) * n)


class DictSpace(NamedTuple):
    """Observations of several arrays, by name: vectors, planes and images side by side, as a dict."""

    spaces: dict[str, Discrete | MultiDiscrete | Box]

    @property
    def shape(self) -> tuple[int, ...]:
        """None: what asks for the shape of an observation takes single arrays alone.

        Raises:
          ValueError: always.
        """
        raise ValueError(f"observations must be one array, got a dict of {', '.join(sorted(self.spaces))}")

    @property
    def dtype(self) -> Any:
        """None, as of `shape`."""
        return self.shape


Space: TypeAlias = Discrete | MultiDiscrete | Box
ObsSpace: TypeAlias = Space | DictSpace


class Spec(NamedTuple):
    """What an agent needs to know of an environment: its spaces, its time limit, and whether it terminates."""

    obs: ObsSpace
    action: Space
    time_limit: int | None = None  # steps after which an episode is truncated, None if never
    terminates: bool = True  # False where no state ends an episode: models then need no termination head
    name: str = "environment"

    @property
    def num_actions(self) -> int:
        """The number of actions of a discrete action space.

        Raises:
          ValueError: the action space is continuous.
        """
        if not isinstance(self.action, Discrete):
            kind = "continuous actions" if isinstance(self.action, Box) else f"actions in {self.action}"
            raise ValueError(f"{self.name} has {kind}; this needs discrete ones")
        return self.action.n


# Data ---------------------------------------------------------------------------------------------------------------


class StepOut(NamedTuple):
    """The result of one model step."""

    state: State  # the next state
    reward: Array  # []
    discount: Array  # [] 0 where the episode terminates, else 1 (a learned model: the probability of continuing)


class Rollout(NamedTuple):
    """A trajectory through a model: `rewards[t]` and `discounts[t]` follow `actions[t]`, taken in `states[t]`."""

    states: State  # [H, ...]
    actions: Action  # [H, ...]
    rewards: Array  # [H]
    discounts: Array  # [H]


class Transition(NamedTuple):
    """One real or imagined step, as a buffer stores it."""

    obs: Obs
    action: Action
    reward: Array  # []
    discount: Array  # [] 0 at termination only, never at a time limit
    next_obs: Obs  # the true successor, also at the end of an episode
    last: Array  # [] bool: terminated, or truncated by a time limit
    extras: Tree = ()  # what `act` stores with the step: log-probability, search policy, latent, ...


class Replay(NamedTuple):
    """What `update` and `refresh` see of the experience collected so far.

    An agent is built on another by giving it another `sample`: `replay._replace(sample=mixed)`.
    """

    sample: Callable[..., Any]  # (key, n) -> batch [n, ...], of the buffer's own type
    take: Callable[[Array], Any]  # (index [n], in 0..size-1, in no order of time) -> rows [n, ...]
    size: Array  # [] int32: rows stored
    capacity: int  # rows that fit


# Contracts ----------------------------------------------------------------------------------------------------------


@runtime_checkable
class StepFn(Protocol):
    def __call__(self, key: Key, state: State, action: Action, /) -> StepOut:
        """One step of a model from one state. Never resets: after termination the product of the discounts stays 0."""
        ...


@runtime_checkable
class PolicyFn(Protocol):
    def __call__(self, key: Key, state: State, /) -> Action:
        """One action for one state."""
        ...


class ActFn(Protocol):
    def __call__(self, key: Key, learner: Tree, carry: Tree, obs: Obs, explore: bool, /) -> tuple[Action, Tree, Tree]:
        """One action for one observation.

        Args:
          key: used once.
          learner: what `init` or `update` returned.
          carry: the actor's memory in this episode, from `Agent.carry` or the call before.
          obs: one observation.
          explore: static; False in evaluation.
        Returns:
          action, the new carry, extras (stored in `Transition.extras`; the same structure on every call).
        """
        ...


class FollowFn(Protocol):
    def __call__(self, key: Key, learner: Tree, carry: Tree, obs: Obs, action: Action, /) -> tuple[Tree, Tree]:
        """What `act` returns beside the action, for an action chosen elsewhere: a random one of the warm-up.

        Nothing is planned. The carry and the extras describe the given action, not one that the agent would have taken.

        Args:
          key: used once.
          learner, carry, obs: as of `ActFn`.
          action: that is taken at the observation.
        Returns:
          the new carry, extras; of the structure, shapes and dtypes that `act` returns.
        """
        ...


class UpdateFn(Protocol):
    def __call__(self, key: Key, learner: Tree, replay: Replay, /) -> tuple[Tree, Metrics, Tree]:
        """One learning step, called in every iteration of the training loop.

        Args:
          key: used once.
          learner: what `init`, `update` or `refresh` returned.
          replay: the experience collected so far.
        Returns:
          the learner, with its pytree structure, shapes and dtypes unchanged; metrics, scalars; feedback, which the
          loop passes to `Buffer.revise` (new priorities, fresher latents), or `()` for none.
        """
        ...


class RefreshFn(Protocol):
    def __call__(self, key: Key, learner: Tree, replay: Replay, /) -> tuple[Tree, Metrics]:
        """The rarer part of learning, called once per cycle of the training loop: model fits, branched rollouts.

        Args:
          key: used once.
          learner: what `init`, `update` or `refresh` returned.
          replay: the experience collected so far.
        Returns:
          the learner, with its pytree structure, shapes and dtypes unchanged; metrics, scalars.
        """
        ...


def no_refresh(key: Key, learner: Tree, replay: Replay) -> tuple[Tree, Metrics]:
    """The `refresh` of agents that learn in `update` alone: does nothing."""
    del key, replay
    return learner, {}


def no_update(key: Key, learner: Tree, replay: Replay) -> tuple[Tree, Metrics, Tree]:
    """The `update` of agents that learn in `refresh` alone, or not at all: does nothing."""
    del key, replay
    return learner, {}, ()


def plan_anew(planner: Planner) -> FollowFn:
    """The `follow` of agents that plan: a plan for other actions is dropped, and the next one starts from none.

    Args:
      planner: whose plan is the agent's carry.
    """

    def follow(key: Key, learner: Tree, carry: Tree, obs: Obs, action: Action) -> tuple[Tree, Tree]:
        del key, learner, carry, obs, action
        return planner.init(), ()

    return follow


# Records of functions -----------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """What a planner sees: dynamics with their parameters bound."""

    step: StepFn
    value: Callable[[Key, State], Array] | None = None  # [] bootstrap at the horizon or leaf
    prior: Callable[[Key, State], Array] | None = None  # logits [A], or a proposed action
    legal: Callable[[State], Array] | None = None  # mask [A]
    members: int = 1  # of an ensemble
    at: Callable[[Array], Model] | None = None  # (i) -> member i, a Model of 1 member
    resample_member: bool = False  # draw a member for every step of a rollout; else once per rollout


class WorldModel(NamedTuple):
    """What a learner trains: dynamics with their parameters as an argument."""

    init: Callable[[Key], Params]
    loss: Callable[[Params, Key, Transition], tuple[Array, Metrics]]  # over a batch [B, ...]; loss []
    encode: Callable[[Params, Key, Obs], State]
    step: Callable[[Params, Key, State, Action], StepOut]
    decode: Callable[[Params, State], Obs] | None = None
    calibrate: Callable[[Params, Transition, Array], Params] | None = None  # sets statistics from rows [N] and mask [N]
    errors: Callable[[Params, Transition], Array] | None = None  # [B] prediction error of each row, for hold-out scores
    moments: Callable[[Params, State, Action], tuple[Array, Array]] | None = None
    """(params, state, action) -> mean and standard deviation of the next observation and the reward [|o| + 1] each, in
    their own units: what agents that doubt their model look at"""


class Planner(NamedTuple):
    """A search over actions with a model."""

    init: Callable[[], Tree]  # the plan to start an episode with, e.g. [H, A]
    plan: Callable[[Key, Model, State, Tree], tuple[Action, Tree, Tree]]  # -> action, plan, info


class Agent(NamedTuple):
    """An algorithm: pure functions, without environment, buffer or logging."""

    init: Callable[[Key], Tree]  # -> learner
    carry: Callable[[], Tree]  # -> an actor's memory at the start of an episode
    act: ActFn
    update: UpdateFn
    refresh: RefreshFn = no_refresh
    follow: FollowFn | None = None  # needed for a warm-up where `act` has a carry or extras


class Buffer(NamedTuple):
    """Storage of experience: pure functions over `data`."""

    init: Callable[[Transition], Tree]  # (one item, or its shapes) -> data
    add: Callable[[Tree, Transition], Tree]  # (data, trajectory [T, N, ...]) -> data
    sample: Callable[..., Any]  # (key, data, ...) -> batch
    replay: Callable[[Tree], Replay]  # (data) -> the agent's view of it
    revise: Callable[[Tree, Tree], Tree] | None = None  # (data, feedback of `update`) -> data
    truncate: Callable[[Tree, Obs], Tree] | None = None
    """(data, obs [N, ...]) -> data: the episodes in progress end at the observations, without a termination; None where
    rows do not depend on those before them"""
    axis: int = 0  # of `data`, and of a batch without windows, along which the devices of a mesh divide it


class Env(NamedTuple):
    """An environment. `step` never resets; the training loop does."""

    spec: Spec
    reset: Callable[[Key], tuple[State, Obs]]
    step: Callable[[Key, State, Action], tuple[State, Obs, Array, Array, Array]]
    """(key, state, action) -> state, obs, reward [], discount [], last [] bool. The discount is 0 at termination only,
    else 1, or -1 where the other player of a game moves next"""
    observe: Callable[[State], Obs] | None = None  # the observation of a state, where the state determines it
    render: Callable[[State], Array] | None = None  # a picture of a state, uint8 [H, W, 3], where it can be drawn


# Environments whose steps are Python --------------------------------------------------------------------------------


class HostStep(NamedTuple):
    """One step of N environments, as NumPy arrays that are never written to again."""

    obs: Obs  # [N, ...] to act on next: where `last`, the first observation of the next episode
    reward: Any  # [N] float32
    discount: Any  # [N] float32: 0 at termination only
    last: Any  # [N] bool: terminated, or truncated by a time limit
    next_obs: Obs  # [N, ...] the true successor, also at the end of an episode


class HostEnvs(NamedTuple):
    """N environments that are stepped side by side. Seeds are [N, 2] uint32, for an episode of each environment."""

    reset: Callable[[Any], Obs]  # (seeds) -> obs [N, ...]
    step: Callable[[Any, Any, Any], HostStep]
    """(actions [N, ...], seeds, active) -> HostStep. An environment whose episode ends starts the next one by itself,
    from its seed; with None for seeds it stays at the end. `active` [N] bool, or None for all: the others stay as they
    are, and their rows mean nothing"""
    close: Callable[[], None]
    render: Callable[[int], Any] | None = None  # (i) -> [height, width, 3] uint8, a picture of environment i
    checked: bool = False  # `reset` and `step` raise `EnvironmentFailed` at a NaN; else the host loop looks for one


class HostEnv(NamedTuple):
    """An environment whose steps are Python: a simulator, a robot. The host loop trains in it."""

    spec: Spec
    make: Callable[..., HostEnvs]
    """(count, workers=0, drawn=False) -> that many environments, in this process (0 workers) or divided among as many
    processes; `drawn`: made so that they can be drawn, where that has to be said beforehand"""
    drawable: bool = False  # whether `HostEnvs.render` gives pictures of environments that are made with `drawn`


class EnvironmentFailed(RuntimeError):
    """An environment cannot go on: an exception in it, a process that died, a row that breaks the contract.

    Args:
      name: of the environment.
      copy: which of those side by side, from 0.
      step: its steps so far, this one included; 0 in the first `reset`.
      what: went wrong, field and all.
    """

    def __init__(self, name: str, copy: int, step: int, what: str):
        super().__init__(name, copy, step, what)  # all of them, so that it can be sent between processes
        self.name, self.copy, self.step, self.what = name, copy, step, what
        self.work: Any = None  # what a run had learned until then

    def __str__(self) -> str:
        return f"environment {self.name}, copy {self.copy}, step {self.step}: {self.what}"
