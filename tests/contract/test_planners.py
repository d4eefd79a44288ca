"""One planner object on every kind of model: the true environment, a count table, an ensemble, a latent model."""

from __future__ import annotations

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.core import Box, Env, Model, Spec, StepOut, Transition, WorldModel
from mbrl_jax.envs.mdp import MDP, as_env
from mbrl_jax.envs.model import as_model
from mbrl_jax.models import tabular
from mbrl_jax.models.dynamics.ensemble import bind, ensemble
from mbrl_jax.planners import mpc

# A point that is pushed --------------------------------------------------------------------------------------------

# Where it is, and how fast it moves: cheapest to stop at 1 in three pushes of at most 1.
PUSHES = 3
START = jnp.array([0.0, 0.0])


def pushed(state, action):
    speed = state[1] + action[0]
    place = state[0] + speed
    return jnp.stack([place, speed]), -jnp.square(place - 1.0) - 0.5 * jnp.square(speed)


def point() -> Env:
    def step(key, state, action):
        state, reward = pushed(state, action)
        return state, state, reward, jnp.ones(()), jnp.zeros((), bool)

    return Env(Spec(Box((2,)), Box((1,), -1.0, 1.0), terminates=False, name="point"), lambda key: (START, START), step)


# Two members with opposite errors, right on average.
MEMBER = WorldModel(
    init=lambda key: jnp.zeros(()),
    loss=lambda params, key, data: (params, {}),
    encode=lambda params, key, obs: obs,
    step=lambda params, key, state, action: StepOut(*pushed(state, action + params), jnp.ones(())),
)
ERRORS = jnp.array([-0.02, 0.02])


def latent(key, state, action):
    """A rotated and stretched copy of the point's state."""
    new, reward = pushed(TURN.T @ state / 3.0, action)
    return StepOut(3.0 * TURN @ new, reward, jnp.ones(()))


TURN = jnp.array([[0.6, -0.8], [0.8, 0.6]])

POINT_MODELS = {
    "environment": lambda: as_model(point()),
    "ensemble": lambda: bind(MEMBER, ERRORS, 2),
    "ensemble-ts1": lambda: bind(ensemble(MEMBER, 2, "ts1"), ERRORS),
    "latent": lambda: Model(latent, prior=lambda key, state: 0.3 * jax.random.normal(key, (1,))),
}

POINT_PLANNERS = {
    "shooting": lambda spec: mpc.shooting(mpc.Shooting(horizon=PUSHES, population=5000, particles=4), spec),
    "cem": lambda spec: mpc.cem(
        mpc.CEM(horizon=PUSHES, population=200, elites=20, iterations=6, particles=4, proposals=5), spec
    ),
    "icem": lambda spec: mpc.icem(
        mpc.ICEM(horizon=PUSHES, population=300, iterations=3, particles=4, beta=0.5, proposals=5), spec
    ),
    "mppi": lambda spec: mpc.mppi(
        mpc.MPPI(horizon=PUSHES, population=500, iterations=8, particles=4, kappa=30.0, sigma=0.3, beta=0.95), spec
    ),
    "mppi_elites": lambda spec: mpc.mppi_elites(
        mpc.MPPIElites(horizon=PUSHES, particles=4, kappa=3.0, gamma=1.0, explore=0.0), spec
    ),
}


@cache
def point_optimum() -> float:
    """The best return of all pushes on a fine grid."""
    pushes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 101)] * PUSHES), -1).reshape(-1, PUSHES)
    place, speed, total = np.zeros(len(pushes)), np.zeros(len(pushes)), np.zeros(len(pushes))
    for t in range(PUSHES):
        speed = speed + pushes[:, t]
        place = place + speed
        total += -np.square(place - 1.0) - 0.5 * np.square(speed)
    return float(total.max())


def pushed_return(actions) -> float:
    state, total = START, 0.0
    for action in np.asarray(actions):
        state, reward = pushed(state, action)
        total += float(reward)
    return total


@pytest.mark.parametrize("name", POINT_PLANNERS)
def test_one_planner_pushes_the_point_in_every_model(name):
    planner = POINT_PLANNERS[name](point().spec)
    for kind, make in POINT_MODELS.items():
        if kind == "ensemble-ts1" and name != "cem":
            continue  # its own step combines its members: to a planner it is like any other model
        model = make()
        start = 3.0 * TURN @ START if kind == "latent" else START
        action, warm, info = jax.jit(lambda key: planner.plan(key, model, start, planner.init()))(jax.random.key(0))  # noqa: B023
        assert pushed_return(info.actions) > point_optimum() - 0.05, kind
        assert action.shape == (1,)
        assert jnp.abs(action[0]) <= 1.0
        np.testing.assert_allclose(action, info.actions[0])
        assert jax.tree.map(jnp.shape, warm) == jax.tree.map(jnp.shape, planner.init())


# A small table with chance, ends and a lure --------------------------------------------------------------------------

# From 0, action 0 has a reward and ends; action 1 then 2 leads past a small cost to a large reward; action 2 is a lure,
# with a small reward for ever. The best three steps are 1, 2, 1, and no other first action comes near.
GAMMA = 0.9
BEST = (1, 2, 1)


@cache
def world() -> MDP:
    transitions, rewards = np.zeros((5, 3, 5)), np.zeros((5, 3))
    transitions[0, 0, 4], rewards[0, 0] = 1.0, 1.0
    transitions[0, 1, 1], rewards[0, 1] = 1.0, -0.5
    transitions[0, 2, 0], rewards[0, 2] = 1.0, 0.3
    for action, success in enumerate((0.1, 0.2, 0.9)):
        transitions[1, action, 2], transitions[1, action, 1] = success, 1.0 - success
    transitions[2, :, 4], rewards[2] = 1.0, (0.0, 4.0, 0.0)
    transitions[3, :, 3] = 1.0
    transitions[4, :, 4] = 1.0
    as32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return MDP(as32(transitions), as32(rewards), jnp.arange(5) == 4, as32([1, 0, 0, 0, 0]))


def open_loop(actions) -> float:
    """The exact expected return of a sequence of actions from state 0."""
    mdp = world()
    chance, total, weight = np.eye(5)[0], 0.0, 1.0
    p, r = np.asarray(mdp.transitions, np.float64), np.asarray(mdp.rewards, np.float64)
    for action in actions:
        total += weight * float(chance @ r[:, action])
        chance = (chance @ p[:, action]) * ~np.asarray(mdp.terminal)
        weight *= GAMMA
    return total


@cache
def counted() -> tabular.Table:
    """The world seen 20 times per state and action, in its exact proportions."""
    mdp = world()
    rows = []
    for s, a in itertools.product(range(4), range(3)):
        for t in range(5):
            seen = round(20 * float(mdp.transitions[s, a, t]))
            rows += [(s, a, float(mdp.rewards[s, a]), float(t != 4), t)] * seen
    columns = [jnp.asarray(c) for c in zip(*rows, strict=True)]
    batch = Transition(columns[0], columns[1], columns[2], columns[3], columns[4], columns[3] == 0.0)

    def one(table, at):
        i, row = at
        return tabular.update(table, row, i), None

    return jax.jit(lambda: jax.lax.scan(one, tabular.init(5, 3), (jnp.arange(len(rows)), batch))[0])()


def member(params, key, state, action):
    out = tabular.sample(counted(), key, state, action)
    return StepOut(out.state, out.reward + params, out.discount)


TABLE_MEMBER = MEMBER._replace(step=member)


def one_hot_latent(key, state, action):
    """States as one-hot rows scaled by 2, as a latent model might hold them."""
    out = tabular.sample(counted(), key, jnp.argmax(state), action)
    return StepOut(2.0 * jax.nn.one_hot(out.state, 5), out.reward, out.discount)


TABLE_MODELS = {
    "environment": (lambda: as_model(as_env(world())), jnp.int32(0)),
    "counts": (lambda: tabular.model(counted(), "sample"), jnp.int32(0)),
    "expectation": (lambda: tabular.model(counted(), "expectation"), jax.nn.one_hot(0, 5)),
    "ensemble": (lambda: bind(TABLE_MEMBER, jnp.array([-0.1, 0.1]), 2), jnp.int32(0)),
    "latent": (
        lambda: Model(one_hot_latent, prior=lambda key, state: jnp.zeros(3), value=lambda key, state: 0.0 * state[0]),
        2.0 * jax.nn.one_hot(0, 5),
    ),
}

TABLE_PLANNERS = {
    "shooting": lambda spec: mpc.shooting(
        mpc.Shooting(horizon=3, population=500, particles=64, gamma=GAMMA, proposals=5), spec
    ),
    "cem": lambda spec: mpc.cem(mpc.CEM(horizon=3, population=100, elites=10, particles=32, gamma=GAMMA), spec),
    "mppi": lambda spec: mpc.mppi(
        mpc.MPPI(horizon=3, population=100, iterations=4, particles=32, gamma=GAMMA, kappa=4.0), spec
    ),
}


@pytest.mark.parametrize("name", TABLE_PLANNERS)
def test_one_planner_finds_the_way_in_every_model(name):
    assert max(itertools.product(range(3), repeat=3), key=open_loop) == BEST
    planner = TABLE_PLANNERS[name](as_env(world()).spec)
    for kind, (make, start) in TABLE_MODELS.items():
        if kind == "expectation" and name != "cem":
            continue  # the same table, in the form whose states are distributions
        model = make()
        action, _, info = jax.jit(lambda key: planner.plan(key, model, start, planner.init()))(jax.random.key(1))  # noqa: B023
        np.testing.assert_array_equal(info.actions, BEST, kind)
        assert int(action) == BEST[0]


def test_a_value_makes_a_short_horizon_long():
    """Within two steps the best way has no reward; with the value of the state after them, it is chosen."""
    values = jnp.array([0.0, 3.0, 4.0, 0.0, 0.0])
    blind = tabular.model(counted(), "sample")
    seeing = blind._replace(value=lambda key, state: values[state])
    spec, short = as_env(world()).spec, dict(horizon=2, population=50, particles=32, gamma=GAMMA)
    planner = mpc.cem(mpc.CEM(elites=5, **short), spec)
    first = [
        int(jax.jit(planner.plan, static_argnums=1)(jax.random.key(0), model, jnp.int32(0), planner.init())[0])
        for model in (blind, seeing)
    ]
    assert first[0] in (0, 2)
    assert first[1] == 1
