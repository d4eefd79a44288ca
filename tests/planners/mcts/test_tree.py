"""The tree: the same alone and in nested batches, with terminal states, chance, and exact processes to be solved."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import search_problems as made

from mbrl_jax.core import Discrete, Model, Spec, StepOut
from mbrl_jax.envs.mdp import MDP, as_env, value_iteration
from mbrl_jax.envs.model import as_model
from mbrl_jax.planners.mcts import PUCT, UCT, Gumbel, gumbel, puct, uct

SEARCHES = {
    "uct": lambda spec, **cfg: uct(UCT(**cfg), spec),
    "puct": lambda spec, **cfg: puct(PUCT(dirichlet_fraction=0.0, temperature=0.0, **cfg), spec),
    "gumbel": lambda spec, **cfg: gumbel(Gumbel(gumbel_scale=0.0, **cfg), spec),
}
each = pytest.mark.parametrize("name", SEARCHES)
slowly = pytest.mark.slow
one_and_slowly_the_rest = pytest.mark.parametrize(
    "name", [pytest.param("uct", marks=slowly), pytest.param("puct", marks=slowly), "gumbel"]
)


@one_and_slowly_the_rest
def test_batches_of_batches_equal_single_searches(name):
    """And loops over large batches equal those of one search, which are small calls on a CPU."""
    planner = SEARCHES[name](made.spec(4), simulations=10)
    p = made.problems(jax.random.key(0), 150, 4)
    keys = jax.random.split(jax.random.key(1), 150)

    def one(key, p):
        return planner.plan(key, made.model(p), jnp.int32(0), ())[::2]

    single = jax.jit(one)
    alone = [single(keys[i], jax.tree.map(lambda leaf: leaf[i], p)) for i in range(6)]  # noqa: B023
    square = jax.jit(jax.vmap(jax.vmap(one)))(
        keys.reshape(50, 3), jax.tree.map(lambda leaf: leaf.reshape(50, 3, *leaf.shape[1:]), p)
    )
    for i in range(6):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6),
            jax.tree.map(lambda leaf: leaf[i // 3, i % 3], square),  # noqa: B023
            alone[i],
        )


@each
def test_no_loop_copies_the_table(name):
    """A loop with a batched predicate would carry a select over whole tables."""
    planner = SEARCHES[name](made.spec(4), simulations=10)
    p = made.problems(jax.random.key(0), 6, 4)
    made_of = jax.make_jaxpr(jax.vmap(lambda key, p: planner.plan(key, made.model(p, False), jnp.int32(0), ())[0]))(
        jax.random.split(jax.random.key(1), 6), p
    )
    shapes = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "select_n":
                shapes.append(eqn.outvars[0].aval.shape)
            for inside in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(inside, "eqns"):
                    walk(inside)
                elif hasattr(inside, "jaxpr"):
                    walk(inside.jaxpr)

    walk(made_of.jaxpr)
    assert len(shapes) > 5
    assert not [shape for shape in shapes if 11 in shape]  # rows of a tree of 10 simulations


@each
def test_nothing_past_a_terminal_state_counts(name):
    """Action 1 terminates with a reward, in a state whose values are NaN; action 0 goes on for less."""

    def step(key, state, action):
        ended = (action == 1) | jnp.isnan(state)
        return StepOut(jnp.where(ended, jnp.nan, state + 1.0), jnp.where(action == 1, 1.0, 0.1), 1.0 - ended)

    model = Model(step, value=lambda key, s: s * 0.0, prior=lambda key, s: jnp.zeros(2) + s * 0.0)
    planner = SEARCHES[name](Spec(Discrete(2), Discrete(2)), simulations=20, gamma=0.5)
    action, _, info = jax.jit(lambda key: planner.plan(key, model, jnp.zeros(()), ()))(jax.random.key(0))
    assert int(action) == 1
    np.testing.assert_allclose(info.q[1], 1.0, rtol=1e-6)
    assert np.isfinite(info.value)
    assert 0.0 < float(info.q[0]) <= 0.1 + 0.5 + 1e-6


def test_an_edge_into_a_terminal_state_has_the_mean_reward():
    """Every simulation has its own key: rewards of 0 and 1 are averaged."""

    def step(key, state, action):
        return StepOut(state, jax.random.bernoulli(key).astype(jnp.float32), jnp.zeros(()))

    planner = puct(PUCT(simulations=200, tie_noise=0.0), Spec(Discrete(2), Discrete(1)))
    _, _, info = jax.jit(lambda key: planner.plan(key, Model(step), jnp.int32(0), ()))(jax.random.key(0))
    assert 0.35 < float(info.q[0]) < 0.65
    np.testing.assert_allclose(float(info.q[0]) * 200, round(float(info.q[0]) * 200), atol=1e-2)
    np.testing.assert_allclose(info.value, info.q[0] * 200 / 201, rtol=1e-5)


def nim():
    """Take one to three; who takes the last wins. A heap is lost for who moves when 4 divides it."""

    def step(key, heap, action):
        left = jnp.maximum(heap - action - 1, 0)
        return StepOut(left, (left == 0).astype(jnp.float32), jnp.where(left == 0, 0.0, -1.0))

    return Model(step, legal=lambda heap: jnp.arange(3) < jnp.maximum(heap, 1))


@each
def test_two_players(name):
    heaps = jnp.array([heap for heap in range(1, 11) if heap % 4])
    planner = SEARCHES[name](Spec(Discrete(16), Discrete(3)), simulations=400, gamma=1.0)
    run = jax.jit(jax.vmap(lambda key, heap: planner.plan(key, nim(), heap, ())[::2]))
    actions, info = run(jax.random.split(jax.random.key(0), len(heaps)), heaps)
    np.testing.assert_array_equal(actions + 1, heaps % 4)
    assert (np.asarray(info.visits)[np.asarray(heaps) == 1] == [400, 0, 0]).all()


LAYERS, WIDE = 3, 4


def layered(key):
    """A random deterministic process that ends after three steps, from state 0, as exact tables."""
    key_moves, key_rewards = jax.random.split(key)
    states, layer = LAYERS * WIDE + 1, jnp.arange(LAYERS * WIDE) // WIDE
    ahead = jax.random.randint(key_moves, (LAYERS * WIDE, 3), 0, WIDE) + WIDE * (layer[:, None] + 1)
    moves = jax.nn.one_hot(jnp.minimum(ahead, states - 1), states)
    end = jax.nn.one_hot(jnp.full((1, 3), states - 1), states)
    rewards = jnp.concatenate([jax.random.uniform(key_rewards, (LAYERS * WIDE, 3)), jnp.zeros((1, 3))])
    return MDP(jnp.concatenate([moves, end]), rewards, jnp.arange(states) == states - 1, jax.nn.one_hot(0, states))


@one_and_slowly_the_rest
def test_the_optimum_of_small_processes(name):
    """Against value iteration, in deterministic processes: by rollouts, or with optimistic values."""
    planner = SEARCHES[name](Spec(Discrete(13), Discrete(3)), simulations=300, gamma=0.9)

    optimistic = jnp.repeat(jnp.array([1 + 0.9 + 0.81, 1 + 0.9, 1.0, 0.0]), WIDE)[: LAYERS * WIDE + 1]

    def one(key, world):
        model = as_model(as_env(world))
        if name != "uct":
            model = model._replace(value=lambda key, s: optimistic[s])
        return planner.plan(key, model, jnp.int32(0), ())[0], value_iteration(world, 0.9)[1][0]

    worlds = jax.vmap(layered)(jax.random.split(jax.random.key(3), 12))
    actions, q = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 12), worlds)
    taken = np.take_along_axis(np.asarray(q), np.asarray(actions)[:, None], 1)[:, 0]
    np.testing.assert_allclose(taken, np.asarray(q).max(1), atol=0.05)
    assert (taken == np.asarray(q).max(1)).sum() >= 10
