"""PETS and planning in the true dynamics: the bound ensemble, plans per episode, and a task learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl_jax.agents import mpc, pets
from mbrl_jax.buffers.uniform import uniform
from mbrl_jax.core import Box, Env, Spec, StepOut, Transition, WorldModel
from mbrl_jax.core.config import replace
from mbrl_jax.envs import wrappers
from mbrl_jax.models.dynamics.deterministic import DeterministicConfig, deterministic
from mbrl_jax.models.dynamics.ensemble import member
from mbrl_jax.models.dynamics.fit import FitState
from mbrl_jax.models.dynamics.gaussian import gaussian
from mbrl_jax.models.dynamics.known import with_known
from mbrl_jax.train.loop import LoopConfig, make_loop

SMALL = {
    "model.hidden": (32, 32),
    "fit.members": 3,
    "fit.elites": 3,
    "fit.batch": 16,
    "fit.max_epochs": 100,
    "planner.cem.horizon": 4,
    "planner.cem.population": 60,
    "planner.cem.elites": 10,
    "planner.cem.iterations": 3,
    "planner.cem.particles": 3,
}
LENGTH = 8


def point() -> Env:
    """A point on a line: x' = x + 0.5 a, reward -x'², so that the best is to go straight to 0 and stay."""

    def reset(key):
        x = jax.random.uniform(key, (1,), minval=0.6, maxval=1.4)
        return x, x

    def step(key, x, action):
        del key
        x = x + 0.5 * jnp.clip(action, -1.0, 1.0)
        return x, x, -jnp.sum(x**2), jnp.ones(()), jnp.zeros((), bool)

    spec = Spec(Box((1,)), Box((1,), -1.0, 1.0), terminates=False, name="point")
    return wrappers.time_limit(Env(spec, reset, step), LENGTH)


def best_return(x: float) -> float:
    """The largest return from x: steps of at most 0.5 towards 0."""
    rewards = []
    for _ in range(LENGTH):
        x = np.sign(x) * max(abs(x) - 0.5, 0.0)
        rewards.append(-(x**2))
    return sum(rewards)


def test_learns_to_go_to_the_goal_with_learned_rewards():
    env, cfg = point(), replace(pets.PETSConfig(), SMALL)
    loop_cfg = LoopConfig(warmup=96, inner=64, cycles=1, capacity=300, eval_episodes=16)
    loop = make_loop(pets.make(cfg, env.spec), env, uniform(300), loop_cfg)
    state, report = jax.jit(loop.train, static_argnums=1)(jax.random.key(0), 2)
    best = np.mean([best_return(x) for x in np.linspace(0.6, 1.4, 200)])
    random = float(state.buffer.rows.reward[:96].sum()) / 12  # the mean return of the 12 random episodes
    assert random < best - 3.0
    assert float(report.returns[-1].mean()) > best - 0.1 * (best - random)
    assert int(state.buffer.size) == 96 + 2 * 64


def test_propagation_decides_what_the_planner_is_shown():
    env = point()
    cfg = replace(pets.PETSConfig(), SMALL)
    single = gaussian(cfg.model, env.spec)
    params = pets.make(cfg, env.spec).init(jax.random.key(0)).params
    x, a, key = jnp.array([0.7]), jnp.array([0.2]), jax.random.key(1)

    inf = pets.bind_ensemble(params, member=single, members=3, propagation="ts_inf")
    assert inf.members == 3
    for w in range(3):
        own = single.step(member(params, w), key, x, a)
        np.testing.assert_allclose(inf.at(w).step(key, x, a).state, own.state, rtol=1e-5)

    mean = pets.bind_ensemble(params, member=single, members=3, propagation="mean")
    assert (mean.members, mean.at) == (1, None)
    draws = jax.vmap(lambda key: mean.step(key, x, a).state[0])(jax.random.split(key, 4000))
    each = jax.vmap(lambda w: jax.vmap(lambda k: inf.at(w).step(k, x, a).state[0])(jax.random.split(key, 4000)))(
        jnp.arange(3)
    )
    assert float(draws.mean()) == pytest.approx(float(each.mean()), abs=0.05)
    assert float(draws.var()) == pytest.approx(float(each.var(1).mean()) / 3, rel=0.15)  # of the mean of three draws

    drawn = pets.bind_ensemble(params, member=single, members=3, propagation="ts1")
    assert (drawn.members, drawn.resample_member, inf.resample_member) == (3, True, False)
    mixed = jax.vmap(lambda key: drawn.step(key, x, a).state[0])(jax.random.split(key, 4000))
    assert float(mixed.mean()) == pytest.approx(float(each.mean()), abs=0.05)
    assert float(mixed.var()) == pytest.approx(float(each.reshape(-1).var()), rel=0.15)


def test_a_known_reward_is_that_of_the_predicted_state():
    env, cfg = point(), replace(pets.PETSConfig(), SMALL)
    single = gaussian(cfg.model, env.spec)
    known = with_known(single, lambda obs, action: 10 * obs[0] + action[0])
    params = single.init(jax.random.key(0))
    out = known.step(params, jax.random.key(1), jnp.array([0.7]), jnp.array([0.25]))
    assert float(out.reward) == pytest.approx(10 * float(out.state[0]) + 0.25, rel=1e-5)
    assert float(out.state[0]) == float(
        single.step(params, jax.random.key(1), jnp.array([0.7]), jnp.array([0.25])).state[0]
    )


def test_an_ensemble_of_a_member_of_ones_own():
    """The member's parameters are the learner's, whatever `cfg.model` says."""
    env, cfg = point(), replace(pets.PETSConfig(), SMALL)
    agent = pets.make(cfg, env.spec, member=deterministic(DeterministicConfig(hidden=(4,)), env.spec))
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    assert learner.params.net["params"]["Dense_0"]["kernel"].shape == (3, 2, 4)
    act = lambda learner: agent.act(jax.random.key(0), learner, agent.carry(), jnp.zeros(1), True)[0]  # noqa: E731
    assert jax.eval_shape(act, learner).shape == (1,)


# Members o' = o + w a with rewards -0.1 a²: they disagree by Var(w) a² about the observation, and not about the reward.
SWAYING = WorldModel(
    init=lambda key: jax.random.normal(key),
    loss=lambda params, key, data: (params**2, {}),
    encode=lambda params, key, obs: obs,
    step=lambda params, key, obs, action: StepOut(obs + params * action, -0.1 * action[0] ** 2, jnp.ones(())),
    errors=lambda params, batch: jnp.zeros(batch.reward.shape),
    moments=lambda params, obs, action: (jnp.append(obs + params * action, -0.1 * action[0] ** 2), jnp.ones(2)),
)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "mean"])
def test_plans_in_training_seek_disagreement_from_the_weight_on_at_which_it_pays(propagation):
    """r + w u = -0.1 a² + w ½ Var(w_i) a² / v: above w = 0.2 v / Var(w_i) the largest action is best, below it none."""
    params, unit = jnp.array([0.2, 0.5, 1.1]), 3.0
    pays = 0.2 * unit / float(np.var([0.2, 0.5, 1.1]))
    learner = FitState(params, (), jnp.arange(3), jnp.zeros(3), jnp.array([unit, 1.0]))

    def action(bonus, explore):
        changes = {
            "explorer": "disagreement", "bonus": bonus, "propagation": propagation, "planner.kind": "shooting",
            "planner.shooting.horizon": 1, "planner.shooting.population": 200, "planner.shooting.particles": 3,
        }  # fmt: skip
        agent = pets.make(replace(pets.PETSConfig(), SMALL | changes), point().spec, member=SWAYING)
        return abs(float(jax.jit(agent.act, static_argnums=4)(
            jax.random.key(0), learner, agent.carry(), jnp.zeros(1), explore)[0][0]))  # fmt: skip

    assert action(0.8 * pays, True) < 0.15
    assert action(1.25 * pays, True) > 0.9
    assert action(1.25 * pays, False) < 0.15  # evaluation plans without


def test_without_weight_the_bonus_changes_no_plan_and_a_refresh_measures_its_unit():
    env, cfg = point(), replace(pets.PETSConfig(), SMALL | {"fit.max_epochs": 1})
    plain, curious = (pets.make(replace(cfg, c), env.spec) for c in ({}, {"explorer": "disagreement", "bonus": 0.0}))
    rng = np.random.default_rng(0)
    obs, action, new = rng.normal(size=(3, 30, 1)).astype(np.float32)
    reward, ones = rng.normal(size=30).astype(np.float32), np.ones(30, np.float32)
    rows = Transition(*map(jnp.asarray, (obs, action, reward, ones, new, ones < 0)))
    buffer = uniform(30)
    data = buffer.add(buffer.init(jax.tree.map(lambda x: x[0], rows)), jax.tree.map(lambda x: x[:, None], rows))
    learners, actions = [], []
    for agent in (plain, curious):

        @jax.jit
        def run(key, agent=agent):
            learner = agent.refresh(key, agent.init(key), buffer.replay(data))[0]
            return learner, agent.act(key, learner, agent.carry(), jnp.ones(1), True)[0]

        learner, chosen = run(jax.random.key(0))
        learners.append(learner)
        actions.append(float(chosen[0]))
    assert actions[0] == pytest.approx(actions[1], abs=1e-5)
    assert learners[0].unit == ()
    np.testing.assert_allclose(learners[1].unit, [np.var(new - obs), np.var(reward)], rtol=1e-4)


def test_an_ensemble_that_cannot_disagree_is_refused():
    cfg = replace(pets.PETSConfig(), SMALL | {"explorer": "disagreement"})
    with pytest.raises(ValueError, match="explorer must be none for a member without moments"):
        pets.make(cfg, point().spec, member=SWAYING._replace(moments=None))
    with pytest.raises(ValueError, match=r"fit\.members must be at least 2 with explorer disagreement, got 1"):
        pets.make(replace(cfg, {"fit.members": 1, "fit.elites": 1}), point().spec)


def test_plans_reset_with_the_episode():
    env = wrappers.reveal_state(point())
    cfg = replace(mpc.MPCConfig(), {"planner.kind": "cem", "planner.cem.horizon": 4, "planner.cem.population": 16})
    cfg = replace(cfg, {"planner.cem.elites": 4})
    agent = mpc.make(cfg, env)
    loop = make_loop(
        agent, env, uniform(64), LoopConfig(warmup=0, inner=1, cycles=LENGTH - 1, capacity=64, eval_episodes=0)
    )
    chunk = jax.jit(loop.chunk)
    state, _ = chunk(jax.jit(loop.init)(jax.random.key(0)))
    assert (np.asarray(state.actors.carry) != np.asarray(agent.carry())).any()
    after = jax.jit(
        make_loop(agent, env, uniform(64), LoopConfig(warmup=0, inner=1, cycles=1, capacity=64, eval_episodes=0)).chunk
    )
    state, report = after(state)
    assert int(report.metrics["episodes"]) == 1
    np.testing.assert_array_equal(state.actors.carry[0], agent.carry())


@pytest.mark.parametrize("kind", ["shooting", "cem", "icem", "mppi", "gradient"])
def test_every_planner_comes_near_the_best_in_the_true_dynamics(kind):
    env = wrappers.reveal_state(point())
    cfg = replace(mpc.MPCConfig(), {"planner.kind": kind, f"planner.{kind}.horizon": 3})
    cfg = replace(cfg, {"planner.mppi.kappa": 50.0, "planner.gradient.iterations": 40})
    agent = mpc.make(cfg, env)

    def step(at, key):
        state, plan = at
        action, plan, _ = agent.act(key, (), plan, state, False)
        state, _, reward, _, _ = env.step(key, state, action)
        return (state, plan), reward

    def episode(key):
        state, seen = env.reset(key)
        assert seen is state
        _, rewards = jax.lax.scan(step, (state, agent.carry()), jax.random.split(key, LENGTH))
        return rewards.sum(), state.inner[0]

    total, start = jax.jit(episode)(jax.random.key(3))
    assert float(total) == pytest.approx(best_return(float(start)), abs=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planner.cem.particles": 4}, r"planner.cem.particles must be a multiple of fit.members \(3\), got 4"),
        ({"planner.kind": "cme"}, "planner.kind must be one of shooting, cem, icem, mppi, gradient, got 'cme'"),
        ({"known_reward": True}, "known_reward must be False: no reward function of .* is known"),
        ({"propagation": "ts1", "planner.kind": "gradient"}, "propagation must be ts_inf or mean for the gradient"),
        ({"propagation": "ts2"}, "propagation must be one of ts_inf, ts1, mean"),
        ({"explorer": "rnd"}, "explorer must be one of none, disagreement, got 'rnd'"),
        ({"explorer": "disagreement", "bonus": -1.0}, "bonus must be at least 0"),
        ({"planner.cem.elites": 60}, r"elites must be below population \(60\), got 60"),
    ],
)
def test_refuses_settings_at_odds(changes, message):
    with pytest.raises(ValueError, match=message):
        pets.make(replace(pets.PETSConfig(), SMALL | changes), point().spec)
