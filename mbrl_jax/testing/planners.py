"""What every planner promises: the best actions of two small problems, in whatever form their model comes.

A point is pushed (continuous actions), and a table with chance, ends and a lure is crossed (discrete actions), each as
the true environment, as a learned model would be bound, as an ensemble, and in the coordinates of a latent state. The
best plans are known from a grid and from all sequences of actions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mbrl_jax.core.types import (
    Action,
    Array,
    Box,
    Env,
    Key,
    Model,
    Params,
    Planner,
    Spec,
    State,
    StepOut,
    Transition,
    WorldModel,
)
from mbrl_jax.envs.mdp import MDP, as_env
from mbrl_jax.envs.model import as_model
from mbrl_jax.models import tabular
from mbrl_jax.models.dynamics.ensemble import bind, ensemble
from mbrl_jax.testing.faults import attempted, refuse, source_file

HORIZON = 3
"""Steps that a planner of these problems looks ahead."""


def check_planner(
    make: Callable[[Spec], Planner],
    actions: Literal["continuous", "discrete"] = "continuous",
    *,
    tolerance: float = 0.05,
    skip: tuple[str, ...] = (),
) -> None:
    """Checks that a planner keeps the contract of `Planner`, and finds the best plan in every form of a model.

    Args:
      make: (spec) -> Planner that looks three steps ahead, with a budget that suffices for actions of one dimension; of
        discrete actions with discount 0.9.
      actions: "continuous" for a point that is pushed, "discrete" for a table.
      tolerance: how far below the best return a continuous plan may be; the best is about -0.4.
      skip: forms of the model to leave out: of "environment", "ensemble", "ensemble-ts1", "latent"; for discrete
        actions of "environment", "counts", "expectation", "ensemble", "latent".
    Raises:
      ValueError: it breaks the contract; the message lists every fault found.
    """
    refuse("the planner", find_faults(make, actions, tolerance=tolerance, skip=skip))


def find_faults(
    make: Callable[[Spec], Planner],
    actions: Literal["continuous", "discrete"] = "continuous",
    *,
    tolerance: float = 0.05,
    skip: tuple[str, ...] = (),
) -> list[str]:
    """What is wrong with a planner, in words, as `check_planner` would list it.

    Args:
      make, actions, tolerance, skip: as for `check_planner`.
    Returns:
      one line for each fault; none where the planner keeps its contract.
    """
    if actions not in ("continuous", "discrete"):
        raise ValueError(f"actions must be continuous or discrete, got {actions!r}")
    spec = point().spec if actions == "continuous" else as_env(table()).spec
    planners: list[Planner] = []

    def build() -> Iterator[str]:
        planners.append(make(spec))
        yield from ()

    found = attempted("make", build, source_file(make))
    models = point_models() if actions == "continuous" else table_models()
    for name, (model, start) in models.items() if planners else ():
        if name not in skip:
            look = lambda model=model, start=start: _plan_faults(planners[0], model, start, actions, tolerance)  # noqa: E731
            found += [f"in the {name}: {fault}" for fault in attempted("plan", look, source_file(make))]
    return found


def _plan_faults(planner: Planner, model: Model, start: State, actions: str, tolerance: float) -> Iterator[str]:
    plan = jax.jit(lambda key: planner.plan(key, model, start, planner.init()))
    action, warm, info = plan(jax.random.key(1))
    shape, dtype = ((1,), jnp.float32) if actions == "continuous" else ((), jnp.int32)
    if (action.shape, action.dtype) != (shape, dtype):
        yield f"an action must be {jnp.dtype(dtype)}{list(shape)}, got {action.dtype}{list(action.shape)}"
        return
    before, after = (jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), at)
                     for at in (planner.init(), warm))  # fmt: skip
    if before != after:
        yield f"the plan handed on must have the structure, shapes and types of init(), {before}, got {after}"
    again = plan(jax.random.key(1))[0]
    if not bool(jnp.all(again == action)):
        yield "the same key gives another action"
    whole = np.asarray(getattr(info, "actions", action[None]))
    if not np.allclose(whole[0], action):
        yield f"the action must be the first of info.actions, got {action} and {whole[0]}"
    if actions == "continuous":
        if float(jnp.abs(action[0])) > 1.0:
            yield f"an action must be in [-1, 1], got {float(action[0])}"
        if len(whole) == HORIZON and pushed_return(whole) <= point_optimum() - tolerance:
            yield f"the plan returns {pushed_return(whole):.4g}, the best one {point_optimum():.4g}"
        if len(whole) != HORIZON and best_after(whole[0]) <= point_optimum() - tolerance:
            yield f"with its first action {best_after(whole[0]):.4g} can be reached, the best is {point_optimum():.4g}"
    elif int(action) != BEST[0] or (len(whole) == HORIZON and tuple(whole.tolist()) != BEST):
        yield f"the plan must be {BEST}, got {tuple(whole.tolist())}"


# A point that is pushed --------------------------------------------------------------------------------------------

# Where it is, and how fast it moves: cheapest to stop at 1 in three pushes of at most 1.
START = np.array([0.0, 0.0], np.float32)


def pushed(state: State, action: Action) -> tuple[State, Array]:
    """The next state [2] of the point, place and speed, and the reward."""
    speed = state[1] + action[0]
    place = state[0] + speed
    return jnp.stack([place, speed]), -jnp.square(place - 1.0) - 0.5 * jnp.square(speed)


def point() -> Env:
    """The point as an environment that never ends."""

    def step(key: Key, state: State, action: Action) -> tuple:
        state, reward = pushed(state, action)
        return state, state, reward, jnp.ones(()), jnp.zeros((), bool)

    start = jnp.asarray(START)
    return Env(Spec(Box((2,)), Box((1,), -1.0, 1.0), terminates=False, name="point"), lambda key: (start, start), step)


def _member_step(params: Params, key: Key, state: State, action: Action) -> StepOut:
    return StepOut(*pushed(state, action + params), jnp.ones(()))


MEMBER = WorldModel(
    init=lambda key: jnp.zeros(()),
    loss=lambda params, key, data: (params, {}),
    encode=lambda params, key, obs: obs,
    step=_member_step,
)
"""A member of an ensemble of points, whose parameter is the error of its pushes."""
ERRORS = (-0.02, 0.02)
TURN = np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)


def _latent(key: Key, state: State, action: Action) -> StepOut:
    """A rotated and stretched copy of the point's state."""
    new, reward = pushed(TURN.T @ state / 3.0, action)
    return StepOut(3.0 * TURN @ new, reward, jnp.ones(()))


def point_models() -> dict[str, tuple[Model, State]]:
    """The point in every form of a model, each with its start."""
    start = jnp.asarray(START)
    return {
        "environment": (as_model(point()), start),
        "ensemble": (bind(MEMBER, jnp.array(ERRORS), 2), start),
        "ensemble-ts1": (bind(ensemble(MEMBER, 2, "ts1"), jnp.array(ERRORS)), start),
        "latent": (Model(_latent, prior=lambda key, state: 0.3 * jax.random.normal(key, (1,))), 3.0 * TURN @ start),
    }


def _grid_returns(pushes: np.ndarray) -> np.ndarray:
    """The returns [B] of sequences of pushes [B, 3]."""
    place, speed, total = np.zeros(len(pushes)), np.zeros(len(pushes)), np.zeros(len(pushes))
    for t in range(pushes.shape[1]):
        speed = speed + pushes[:, t]
        place = place + speed
        total += -np.square(place - 1.0) - 0.5 * np.square(speed)
    return total


@cache
def point_optimum() -> float:
    """The best return of all pushes on a fine grid."""
    pushes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 101)] * HORIZON), -1).reshape(-1, HORIZON)
    return float(_grid_returns(pushes).max())


def best_after(action: Any) -> float:
    """The best return of all pushes on a fine grid after a first action."""
    rest = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * (HORIZON - 1)), -1).reshape(-1, HORIZON - 1)
    first = np.full((len(rest), 1), float(np.ravel(action)[0]))
    return float(_grid_returns(np.concatenate([first, rest], 1)).max())


def pushed_return(actions: Any) -> float:
    """The return of a plan [3, 1] from the start."""
    return float(_grid_returns(np.asarray(actions, np.float64).reshape(1, -1))[0])


# A small table with chance, ends and a lure --------------------------------------------------------------------------

# From 0, action 0 has a reward and ends; action 1 then 2 leads past a small cost to a large reward; action 2 is a lure,
# with a small reward for ever. The best three steps are 1, 2, 1, and no other first action comes near.
GAMMA = 0.9
BEST = (1, 2, 1)


@cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """Transition probabilities [5, 3, 5] and expected rewards [5, 3]."""
    transitions, rewards = np.zeros((5, 3, 5)), np.zeros((5, 3))
    transitions[0, 0, 4], rewards[0, 0] = 1.0, 1.0
    transitions[0, 1, 1], rewards[0, 1] = 1.0, -0.5
    transitions[0, 2, 0], rewards[0, 2] = 1.0, 0.3
    for action, success in enumerate((0.1, 0.2, 0.9)):
        transitions[1, action, 2], transitions[1, action, 1] = success, 1.0 - success
    transitions[2, :, 4], rewards[2] = 1.0, (0.0, 4.0, 0.0)
    transitions[3, :, 3] = 1.0
    transitions[4, :, 4] = 1.0
    return transitions, rewards


def table() -> MDP:
    """Five states, three actions, of which state 4 is terminal."""
    transitions, rewards = (jnp.asarray(x, jnp.float32) for x in _arrays())
    return MDP(transitions, rewards, jnp.arange(5) == 4, jnp.asarray([1, 0, 0, 0, 0], jnp.float32))


def open_loop(actions: Any) -> float:
    """The exact expected return of a sequence of actions from state 0."""
    transitions, rewards = _arrays()
    chance, total, weight = np.eye(5)[0], 0.0, 1.0
    for action in actions:
        total += weight * float(chance @ rewards[:, action])
        chance = (chance @ transitions[:, action]) * (np.arange(5) != 4)
        weight *= GAMMA
    return total


def counted() -> tabular.Table:
    """The table's model after each state and action was seen 20 times, in exact proportions."""
    transitions, rewards = _arrays()
    rows = []
    for s, a in itertools.product(range(4), range(3)):
        for t in range(5):
            seen = round(20 * float(transitions[s, a, t]))
            rows += [(s, a, float(rewards[s, a]), float(t != 4), t)] * seen
    columns = [jnp.asarray(c) for c in zip(*rows, strict=True)]
    batch = Transition(columns[0], columns[1], columns[2], columns[3], columns[4], columns[3] == 0.0)

    def one(table: tabular.Table, at: tuple) -> tuple[tabular.Table, None]:
        i, row = at
        return tabular.update(table, row, i), None

    return jax.jit(lambda: jax.lax.scan(one, tabular.init(5, 3), (jnp.arange(len(rows)), batch))[0])()


def table_models() -> dict[str, tuple[Model, State]]:
    """The table in every form of a model, each with its start."""
    known = counted()

    def member(params: Params, key: Key, state: State, action: Action) -> StepOut:
        out = tabular.sample(known, key, state, action)
        return StepOut(out.state, out.reward + params, out.discount)

    def latent(key: Key, state: State, action: Action) -> StepOut:
        """States as one-hot rows scaled by 2, as a latent model might hold them."""
        out = tabular.sample(known, key, jnp.argmax(state), action)
        return StepOut(2.0 * jax.nn.one_hot(out.state, 5), out.reward, out.discount)

    prior, value = (lambda key, state: jnp.zeros(3)), (lambda key, state: 0.0 * state[0])
    return {
        "environment": (as_model(as_env(table())), jnp.int32(0)),
        "counts": (tabular.model(known, "sample"), jnp.int32(0)),
        "expectation": (tabular.model(known, "expectation"), jax.nn.one_hot(0, 5)),
        "ensemble": (bind(MEMBER._replace(step=member), jnp.array([-0.1, 0.1]), 2), jnp.int32(0)),
        "latent": (Model(latent, prior=prior, value=value), 2.0 * jax.nn.one_hot(0, 5)),
    }
