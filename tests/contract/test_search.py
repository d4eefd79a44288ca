"""One search object on every kind of model: the true environment, a count table, ensembles, a latent model."""

from __future__ import annotations

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.contract import check_keys

from mbrl_jax.core import Model, StepOut, Transition, WorldModel
from mbrl_jax.envs.mdp import MDP, as_env, value_iteration
from mbrl_jax.envs.model import as_model
from mbrl_jax.models import tabular
from mbrl_jax.models.dynamics.ensemble import bind, ensemble
from mbrl_jax.planners.mcts import PUCT, UCT, Gumbel, gumbel, puct, uct

GAMMA = 0.9
ERRORS = jnp.array([-0.05, 0.05])
REPEATS = 6


@cache
def process() -> MDP:
    """The best actions are 1, then 2 (fails one time in ten), then 0. Ending at once pays as much as the first."""
    transitions, rewards = np.zeros((4, 3, 4)), np.zeros((4, 3, 4))
    transitions[0, 0, 3], rewards[0, 0] = 1.0, 0.3
    transitions[0, 1, 1], rewards[0, 1] = 1.0, 0.3
    transitions[0, 2, 0], rewards[0, 2] = 1.0, -0.5
    for action, success in enumerate((0.0, 0.1, 0.9)):
        transitions[1, action, 2], transitions[1, action, 1] = success, 1.0 - success
        rewards[1, action, 2] = 1.0
    transitions[2, :, 3], rewards[2] = 1.0, np.array([1.5, 0.5, 0.0])[:, None]
    transitions[3, :, 3] = 1.0
    as32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return MDP(as32(transitions), as32(rewards), jnp.arange(4) == 3, as32([1, 0, 0, 0]))


@cache
def counted() -> tabular.Table:
    """Twenty transitions per state and action, in the exact proportions of the process."""
    mdp, rows = process(), []
    for s, a, t in itertools.product(range(3), range(3), range(4)):
        rows += [(s, a, float(mdp.rewards[s, a, t]), float(t != 3), t)] * round(20 * float(mdp.transitions[s, a, t]))
    columns = [jnp.asarray(c) for c in zip(*rows, strict=True)]
    batch = Transition(columns[0], columns[1], columns[2], columns[3], columns[4], columns[3] == 0.0)

    def one(table, at):
        i, row = at
        return tabular.update(table, row, i), None

    return jax.jit(lambda: jax.lax.scan(one, tabular.init(4, 3), (jnp.arange(len(rows)), batch))[0])()


def member(form):
    """A member whose rewards are off by its parameter."""

    def step(params, key, state, action):
        out = tabular.model(counted(), form).step(key, state, action)
        return out._replace(reward=out.reward + params)

    return WorldModel(
        init=lambda key: jnp.zeros(()),
        loss=lambda params, key, data: (params, {}),
        encode=lambda p, key, o: o,
        step=step,
    )


def latent(key, state, action):
    """States as one-hot rows scaled by 2, as a latent model might hold them."""
    out = tabular.sample(counted(), key, jnp.argmax(state), action)
    return StepOut(2.0 * spread(out.state), out.reward, out.discount)


def spread(s):
    return jax.nn.one_hot(s, 4)


MODELS = {
    "environment": (lambda: as_model(as_env(process())), jnp.int32),
    "counts": (lambda: tabular.model(counted(), "sample"), jnp.int32),
    "ensemble-ts1": (lambda: bind(ensemble(member("sample"), 2, "ts1"), ERRORS), jnp.int32),
    # Over distributions of states, for which averages mean something.
    "ensemble-mean": (lambda: bind(ensemble(member("expectation"), 2, "mean"), ERRORS), spread),
    "latent": (
        lambda: Model(latent, prior=lambda key, state: jnp.zeros(3), value=lambda key, state: 0.0 * state[0]),
        lambda s: 2.0 * spread(s),
    ),
}

SEARCHES = {
    "uct": lambda spec: uct(UCT(simulations=200, gamma=GAMMA, rollout_depth=3), spec),
    "puct": lambda spec: puct(PUCT(simulations=200, gamma=GAMMA, dirichlet_fraction=0.0, temperature=0.0), spec),
    "gumbel": lambda spec: gumbel(Gumbel(simulations=200, gamma=GAMMA, gumbel_scale=0.0), spec),
}


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("uct", "puct")), "gumbel"])
def test_one_search_finds_the_best_actions_in_every_model(name):
    """From the start and from two steps on; the best actions are those of value iteration."""
    counted()  # made outside of a trace
    q = np.asarray(value_iteration(process(), GAMMA)[1])
    starts = np.array([0] * REPEATS + [2] * REPEATS)
    planner = SEARCHES[name](as_env(process()).spec)
    for kind, (make, state) in MODELS.items():
        model = make()
        run = jax.jit(jax.vmap(lambda key, s: planner.plan(key, model, s, planner.init())))  # noqa: B023
        states = jnp.stack([state(int(s)) for s in starts])
        actions, warm, info = run(jax.random.split(jax.random.key(1), 2 * REPEATS), states)
        np.testing.assert_array_equal(actions, q[starts].argmax(1), f"{name} {kind}")
        assert warm == ()
        assert info.policy.shape == (2 * REPEATS, 3)
        np.testing.assert_allclose(np.asarray(info.policy).sum(-1), 1.0, rtol=1e-5)
        # From state 2 the best action ends at once and pays 1.5.
        np.testing.assert_allclose(np.asarray(info.q)[REPEATS:, 0], 1.5, atol=0.06, err_msg=f"{name} {kind}")


@pytest.mark.parametrize("name", SEARCHES)
def test_several_members_are_refused(name):
    counted()  # made outside of a trace
    model = bind(member("sample"), ERRORS, 2)
    planner = SEARCHES[name](as_env(process()).spec)
    with pytest.raises(ValueError, match=r"model.members must be 1, got 2: .*model.at\(i\)"):
        planner.plan(jax.random.key(0), model, jnp.int32(0), planner.init())
    action = jax.jit(lambda key: planner.plan(key, model.at(0), jnp.int32(0), planner.init())[0])(jax.random.key(0))
    assert int(action) == 1


def test_no_key_is_used_twice():
    """Also with a stochastic model, prior and value."""
    model = Model(
        lambda key, s, a: StepOut(s, jax.random.normal(key), jnp.ones(())),
        value=lambda key, s: jax.random.normal(key),
        prior=lambda key, s: jax.random.normal(key, (3,)),
    )
    for make in SEARCHES.values():
        planner = make(as_env(process()).spec)
        plans = jax.vmap(lambda key: planner.plan(key, model, jnp.int32(0), ())[0])  # noqa: B023
        check_keys(plans, jax.random.split(jax.random.key(0), 2))


def test_floats_may_be_traced():
    """Swept by `vmap`, they give the same as one by one."""
    env = as_env(process())

    def value(gamma):
        planner = puct(PUCT(simulations=50, gamma=gamma, dirichlet_fraction=0.0, temperature=0.0), env.spec)
        return planner.plan(jax.random.key(0), as_model(env), jnp.int32(0), ())[2].value

    both = jax.jit(jax.vmap(value))(jnp.array([0.95, 0.1]))
    np.testing.assert_allclose(both, [jax.jit(lambda: value(0.95))(), jax.jit(lambda: value(0.1))()], rtol=1e-5)
    assert both[0] > both[1] + 0.5
