"""Planners given numbers that are none: they count as the worst, and nothing illegal is done because of them."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.search_problems import GAMMA, Problem, model, problems, spec

from mbrl_jax.core import Box, Discrete, Model, Spec, StepOut
from mbrl_jax.planners import mpc
from mbrl_jax.planners.mcts import PUCT, UCT, ChanceModel, Gumbel, chance, gumbel, puct, uct
from mbrl_jax.planners.mcts.tree import broken, unpack

ACTIONS, COUNT = 3, 48
BAD = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 3e38])

SEARCHES = {
    "uct": lambda s: uct(UCT(simulations=24, gamma=GAMMA), s, keep_tree=True),
    "puct": lambda s: puct(PUCT(simulations=24, gamma=GAMMA), s, keep_tree=True),
    "puct-tree": lambda s: puct(PUCT(simulations=24, gamma=GAMMA, normalise="tree"), s, keep_tree=True),
    "gumbel": lambda s: gumbel(Gumbel(simulations=24, gamma=GAMMA), s, keep_tree=True),
    "gumbel-serial": lambda s: gumbel(Gumbel(simulations=24, gamma=GAMMA, schedule="serial"), s, keep_tree=True),
}


@cache
def searched(name):
    """keys [N], problems [N, ...] -> actions [N] and infos, compiled once."""
    planner = SEARCHES[name](spec(ACTIONS))

    def one(key, p):
        action, _, info = planner.plan(key, model(p), jnp.int32(0), planner.init())
        return action, info

    return jax.jit(jax.vmap(one))


def spoiled(key, share):
    """Random problems some of whose numbers, of every kind, are none: `share` [COUNT] of them in each."""
    key_problems, *keys = jax.random.split(key, 5)
    p = problems(key_problems, COUNT, ACTIONS)

    def spoil(key, numbers):
        key_where, key_which = jax.random.split(key)
        chosen = jax.random.uniform(key_where, numbers.shape) < share.reshape(-1, *[1] * (numbers.ndim - 1))
        return jnp.where(chosen, jax.random.choice(key_which, BAD, numbers.shape), numbers)

    fields = ("rewards", "values", "logits", "discounts")
    return p._replace(**{field: spoil(k, getattr(p, field)) for field, k in zip(fields, keys, strict=True)})


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_illegal_is_visited_or_played_and_all_results_are_finite(name):
    """Up to problems in which every single number is none."""
    p = spoiled(jax.random.key(0), jnp.linspace(0.1, 1.0, COUNT) ** 3)
    actions, info = jax.device_get(searched(name)(jax.random.split(jax.random.key(1), COUNT), p))
    legal, many = np.asarray(p.legal), np.arange(COUNT)
    assert legal[many, 0, actions].all()
    for field in ("policy", "q", "value", "raw_value"):
        assert np.isfinite(getattr(info, field)).all(), field
    np.testing.assert_allclose(info.policy.sum(-1), 1.0, rtol=1e-5)
    assert (info.policy >= 0).all()
    assert (info.policy[~legal[:, 0]] < 1e-6).all()
    assert (info.visits.sum(-1) == 24).all()
    node = unpack(info.tree.rows, ACTIONS)
    assert (node.visits[~legal[many[:, None], info.tree.states]] == 0).all()
    # An action that is known to be broken is played, or learned, only where no other is left.
    bad = np.asarray(broken(node.q[:, 0]))
    left = (legal[:, 0] & ~bad).any(-1)
    assert not bad[many, actions][left].any()
    assert (info.policy[left][bad[left]] < 1e-6).all()
    assert left.sum() > COUNT / 4
    assert (~left).sum() > 2


def three(first_rewards, later_reward=0.0):
    """From state 0 each action leads to a state of its own and on to it for ever; action 0 leads to state 1."""
    following = jnp.concatenate([jnp.arange(1, 4)[None], jnp.tile(jnp.arange(1, 40)[:, None], (1, 3))])
    rewards = jnp.zeros((40, 3)).at[0].set(jnp.asarray(first_rewards)).at[1].set(later_reward)
    return Problem(following, rewards, jnp.ones((40, 3)), jnp.zeros((40, 3)), jnp.zeros(40), jnp.ones((40, 3), bool))


@pytest.mark.parametrize("name", SEARCHES)
def test_it_is_worse_than_the_worst_number_and_leaves_the_others_their_order(name):
    """In an action's reward, in the values behind it, or in every reward two steps on."""
    nan, illegal = jnp.nan, jnp.ones((40, 3), bool).at[0, 0].set(False)
    cases = [
        three([nan, -3.0, -2.0]),
        three([nan, -3.0, -2.0])._replace(discounts=-jnp.ones((40, 3))),  # two players
        three([0.0, -3.0, -2.0], later_reward=nan),
        three([5.0, -3.0, -2.0])._replace(values=jnp.zeros(40).at[1].set(nan)),
        three([5.0, nan, -2.0])._replace(legal=illegal),
        three([-3.0, -2.0, -2.0])._replace(values=jnp.full(40, -1e4).at[1].set(nan)),
    ]
    allowed = [{2}, {2}, {2}, {2}, {2}, {1, 2}]
    runs = 8
    batch = jax.tree.map(lambda *leaves: jnp.repeat(jnp.stack(leaves), runs, 0), *cases)
    actions, info = searched(name)(jax.random.split(jax.random.key(2), runs * len(cases)), batch)
    for i, right in enumerate(allowed):
        rows = slice(runs * i, runs * (i + 1))
        bad = [a for a in range(3) if a not in right]
        shunned = {0: [0], 1: [0], 2: [0], 3: [0], 4: [0, 1], 5: [0]}[i]
        assert not np.isin(np.asarray(actions[rows]), shunned).any(), i
        assert (np.asarray(info.policy[rows])[:, shunned] < 1e-6).all(), i
        if name.startswith("gumbel"):
            continue  # its noise decides between the others
        best = np.asarray(info.policy[rows]).argmax(-1)
        assert not np.isin(best, bad).any(), (i, info.policy[rows])


def test_a_prior_of_none_is_uniform_and_one_such_logit_the_least_likely():
    for name in ("puct", "gumbel", "gumbel-serial"):
        p = three([0.0, 0.0, 0.0])
        cases = [p._replace(logits=p.logits + jnp.nan), p._replace(logits=p.logits.at[:, 0].set(jnp.nan))]
        batch = jax.tree.map(lambda *leaves: jnp.repeat(jnp.stack(leaves), 8, 0), *cases)
        policy = np.asarray(searched(name)(jax.random.split(jax.random.key(3), 16), batch)[1].policy)
        np.testing.assert_allclose(policy[:8], 1 / 3, atol=0.2 if name == "puct" else 1e-5)
        assert (policy[8:].argmax(-1) != 0).all()


def outcome_model(rewards, afterstates, logits):
    """Two actions with two outcomes each; outcome c of action a pays rewards[a, c] and ends. Action 2 is illegal."""
    return ChanceModel(
        decide=lambda state, action: (action, afterstates[action], logits),
        happen=lambda afterstate, outcome: StepOut(0, rewards[afterstate, outcome], jnp.zeros(())),
        value=lambda state: jnp.zeros(()),
        prior=lambda state: jnp.zeros(3),
        legal=lambda state: jnp.arange(3) < 2,
    )


def test_an_action_one_of_whose_outcomes_is_none_is_the_worst():
    planner = chance(PUCT(simulations=40, dirichlet_fraction=0.0), Spec(Discrete(1), Discrete(3)), 2)
    nan = jnp.nan

    @jax.jit
    @jax.vmap
    def run(key, rewards, afterstates, logits):
        action, _, info = planner.plan(key, outcome_model(rewards, afterstates, logits), 0, ())
        return action, info

    tables = [
        ([[9.0, nan], [-5.0, -5.0], [9.0, 9.0]], [0.0, 0.0, 0.0], [0.0, 0.0]),
        ([[9.0, 9.0], [-5.0, -5.0], [9.0, 9.0]], [nan, 0.0, 0.0], [0.0, 0.0]),
        ([[9.0, nan], [-5.0, -5.0], [9.0, 9.0]], [0.0, 0.0, 0.0], [nan, 0.0]),
        ([[nan, nan], [nan, nan], [9.0, 9.0]], [nan, nan, 0.0], [nan, nan]),
    ]
    columns = [jnp.repeat(jnp.asarray(c), 4, 0) for c in zip(*tables, strict=True)]
    action, info = jax.device_get(run(jax.random.split(jax.random.key(0), 16), *columns))
    assert (action[:12] == 1).all()
    assert (info.policy[:12, 1] > 0.999).all()
    assert (action < 2).all()
    assert (info.visits[:, 2] == 0).all()
    for field in ("policy", "q", "value"):
        assert np.isfinite(getattr(info, field)).all(), field
    np.testing.assert_allclose(info.q[:12, 1], -5.0, rtol=0.05)  # the afterstate's own value of 0 counts once


@pytest.mark.parametrize("reuse", [False, True])
def test_a_broken_tree_is_kept_from_move_to_move_without_harm(reuse):
    p = jax.tree.map(lambda leaf: leaf[0], problems(jax.random.key(4), 1, ACTIONS))
    p = p._replace(rewards=jnp.where(jnp.arange(40)[:, None] % 3 == 1, jnp.nan, p.rewards))
    state = jnp.int32(0)
    for make in (lambda: gumbel(Gumbel(simulations=12, reuse=reuse), spec(ACTIONS), state),
                 lambda: puct(PUCT(simulations=12, reuse=reuse), spec(ACTIONS), state)):  # fmt: skip
        planner = make()
        plan = jax.jit(lambda key, at, warm: planner.plan(key, model(p), at, warm))  # noqa: B023
        at, warm = state, planner.init()
        for i in range(4):
            action, warm, info = plan(jax.random.key(i), at, warm)
            assert p.legal[at, action]
            assert jnp.isfinite(info.policy).all()
            at = p.following[at, action]


def test_a_plan_over_a_model_of_nothing_but_nan_is_legal_and_finite():
    """The planners over sequences, discrete and continuous, with proposals that are NaN."""
    nan = jnp.nan
    discrete = Model(
        lambda key, state, action: StepOut(state, jnp.float32(nan), jnp.ones(())),
        value=lambda key, state: jnp.float32(nan),
        prior=lambda key, state: jnp.full(3, nan),
        legal=lambda state: jnp.arange(3) == 1,
    )
    continuous = discrete._replace(prior=lambda key, state: jnp.full(1, nan), legal=None)
    numbered, box = Spec(Discrete(1), Discrete(3)), Spec(Box((1,)), Box((1,), -1.0, 1.0))
    few = {"horizon": 2, "population": 8, "particles": 1, "proposals": 2}
    cases = [(make(config(**few, **more)), discrete, numbered) for make, config, more in (
        (mpc.shooting, mpc.Shooting, {}), (mpc.cem, mpc.CEM, {"elites": 2}), (mpc.mppi, mpc.MPPI, {}),
    ) for make in [lambda cfg, make=make: make(cfg, numbered)]]  # fmt: skip
    cases += [(made, continuous, box) for made in (
        mpc.shooting(mpc.Shooting(**few), box), mpc.cem(mpc.CEM(**few, elites=2), box),
        mpc.mppi(mpc.MPPI(**few), box), mpc.mppi_elites(mpc.MPPIElites(**few, elites=2), box),
        mpc.icem(mpc.ICEM(**{**few, "population": 16}, elites=4, kept=1), box),
        mpc.gradient(mpc.Gradient(horizon=2, restarts=2, iterations=2), box),
    )]  # fmt: skip
    for planner, world, which in cases:
        action, memory, info = jax.jit(lambda key: planner.plan(key, world, jnp.zeros(()), planner.init()))(  # noqa: B023
            jax.random.key(0)
        )
        if which is numbered:
            assert int(action) == 1
        assert jnp.all(jnp.isfinite(jnp.asarray(action, jnp.float32)))
        assert all(bool(jnp.all(jnp.isfinite(jnp.asarray(leaf, jnp.float32)))) for leaf in jax.tree.leaves(memory))
        assert float(info.score) == -jnp.inf
